"""The report: one HTML page that needs nothing else, neither network nor files beside it."""

import base64
import importlib.resources
import os
import string
from collections.abc import Sequence
from html import escape

import numpy as np

from .cells import BenchmarkItems, Cell, CellStore, picture, picture_setting
from .image_sets import ImageSet
from .methods import BICUBIC, to_8_bit_image
from .papers import MEAN
from .plots import COLOURS, Line, line_plot
from .tables import DIGITS, UNITS, Results, caption, cost_table, failures, provenance, score_table


def _html_table(head: list[str], rows: list[list[str]], kind: str) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<table class="{kind}"><thead>{line(head, "th")}</thead><tbody>{body}</tbody></table>'


def _plots(results: Results) -> str:
    """The score over the settings, a plot per set: ours as lines, the papers' dashed."""
    if len(results.settings) < 2:
        return ""
    degradations = [s.degradation for s in results.protocol.settings(results.scale)]
    places = [float(i) for i in range(len(degradations))]
    labels = results.settings
    if all(d is not None and d.keys() == {"sigma"} for d in degradations):
        places = [d["sigma"] for d in degradations if d is not None]
        labels = [f"{place:g}" for place in places]
    names = [method.name for method in results.methods] + results.only_printed
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    with_paper = False
    figures = []
    for set_name in results.sets:
        lines = []
        for name in names:
            if name not in results.only_printed:
                ours = [results.score(name, set_name, s, results.metric) for s in results.settings]
                lines.append(Line(name, ours, colours[name]))
            paper = [results.printed(name, set_name, s, results.metric) for s in results.settings]
            if any(figure is not None for figure in paper):
                with_paper = True
                lines.append(Line(f"{name}, paper", paper, colours[name], dashed=True))
        plot = line_plot(f"{results.metric} on {set_name}", places, labels, lines)
        figures.append(f"<figure>{plot}<figcaption>{escape(set_name)}</figcaption></figure>")
    legend = "".join(f'<span><i style="color:{colours[name]}"></i>{escape(name)}</span>' for name in names)
    if with_paper:
        legend += '<span><i style="border-top-style:dashed"></i>printed in the paper</span>'
    axis = "kernel width in HR pixels" if labels is not results.settings else "setting"
    heading = f"<h2>{escape(UNITS[results.metric])} per {axis}</h2>"
    return f'{heading}<p class="legend">{legend}</p><div class="plots">{"".join(figures)}</div>'


def _chosen(cell: Cell, metric: str) -> list[tuple[str, str]]:
    """(worst | median | best, name of the image) of a cell, without repeating one."""
    ranked = sorted(cell.images, key=lambda image: (image[metric], image["name"]), reverse=metric == "niqe")
    chosen: dict[str, str] = {}
    for label, position in (("worst", 0), ("best", len(ranked) - 1), ("median", len(ranked) // 2)):
        if ranked:
            chosen.setdefault(ranked[position]["name"], label)
    order = ("worst", "median", "best")
    return sorted(((label, name) for name, label in chosen.items()), key=lambda pair: order.index(pair[0]))


def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _comparison(caption_text: str, images: list[tuple[str, str]], before: int, after: int) -> str:
    """A before/after slider over ``images``, (label, data URL) each, with a choice for either side."""

    def options(selected: int) -> str:
        return "".join(
            f'<option value="{i}"{" selected" if i == selected else ""}>{escape(label)}</option>'
            for i, (label, _) in enumerate(images)
        )

    stored = "".join(f'<img src="{url}" alt="">' for _, url in images)
    text = escape(caption_text)
    return (
        f'<figure class="comparison"><template>{stored}</template><div class="slider"><img class="after" alt="{text}">'
        f'<img class="before" alt=""><input type="range" min="0" max="100" value="50" aria-label="before and after">'
        f'<div class="edge"></div></div><figcaption><span class="pick">'
        f'<select class="pick-before" aria-label="left">{options(before)}</select>'
        f'<select class="pick-after" aria-label="right">{options(after)}</select></span>{text}</figcaption></figure>'
    )


def _pictures(results: Results, sets: Sequence[ImageSet], store: CellStore) -> str:
    """Sliders of the worst, median and best image of each set, ranked by the first method that is not bicubic."""
    setting = picture_setting(results.protocol, results.scale)
    names = [method.name for method in results.methods]
    ranking = next((name for name in names if name != BICUBIC), BICUBIC)
    digits, parts = DIGITS[results.metric], []
    for image_set in sets:
        items = BenchmarkItems(image_set, setting, results.scale)
        position = {items.name(i): i for i in range(len(items))}
        figures = []
        for rank, image_name in _chosen(results.cell(ranking, image_set.name, setting.label), results.metric):
            index = position[image_name]
            images: list[tuple[str, str]] = []
            for name in names:
                cell = results.cell(name, image_set.name, setting.label)
                score = next((i[results.metric] for i in cell.images if i["name"] == image_name), None)
                path = store.picture_path(cell.key, index)
                if score is not None and os.path.isfile(path):
                    with open(path, "rb") as file:
                        images.append((f"{name} {score:.{digits}f}", _data_url(file.read())))
            after = max(0, next((i for i, (label, _) in enumerate(images) if label.startswith(f"{ranking} ")), 0))
            images += _originals(items, index, results.scale)
            if after == 0:  # bicubic alone: the other side is the HR or LR image
                after = len(images) - 1
            text = f"{rank} of {image_set.name} for {ranking}: {image_name}"
            figures.append(_comparison(text, images, 0, after))
        parts.append(f'<h3>{escape(image_set.name)}</h3><div class="pictures">{"".join(figures)}</div>')
    return f"<h2>Pictures, {escape(setting.label)}</h2>{''.join(parts)}"


def _originals(items: BenchmarkItems, index: int, scale: int) -> list[tuple[str, str]]:
    """The LR image, its pixels repeated, and the HR image where there is one."""
    item = items[index]
    if "error" in item:
        return []
    lq = to_8_bit_image(item["lq"])
    shown = [("LR", np.repeat(np.repeat(lq, scale, axis=0), scale, axis=1))]
    if "gt" in item:
        shown.append(("HR", item["gt"]))
    return [(label, _data_url(picture(image))) for label, image in shown]


def to_html(results: Results, sets: Sequence[ImageSet], store: CellStore) -> str:
    """The whole page."""
    template = (importlib.resources.files("lightbsr.evaluation") / "report.html").read_text(encoding="utf-8")
    head, rows = cost_table(results)
    failed = "".join(f"<li>{escape(sentence)}</li>" for sentence in failures(results))
    means = " The mean is over the settings above it." if MEAN in results.rows else ""
    return string.Template(template).substitute(
        title=escape(f"lightbsr benchmark: {results.protocol.name}, x{results.scale}"),
        caption=escape(f"{caption(results)}.{means}"),
        failures=f'<div class="failures"><p>Images that failed:</p><ul>{failed}</ul></div>' if failed else "",
        scores=_html_table(*score_table(results), "scores"),
        sources=f"<p>Paper: {escape('; '.join(results.paper.sources))}.</p>" if results.paper.sources else "",
        costs=f'<h2>Cost</h2><div class="scroll">{_html_table(head, rows, "costs")}</div>' if rows else "",
        plots=_plots(results),
        pictures=_pictures(results, sets, store),
        about="".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in provenance(results).items()),
    )
