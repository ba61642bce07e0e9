"""Tables of a benchmark: our rows among the papers', as text, Markdown and CSV."""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .image_sets import ImageSet
from .protocols import MEAN, PaperTable, Size, paper_tables
from .scoring import LOWER_IS_BETTER, Results

DIGITS = {"psnr": 2, "ssim": 4, "niqe": 3, "lpips": 4, "dists": 4}
NAMES = {"psnr": "PSNR in dB", "ssim": "SSIM", "niqe": "NIQE", "lpips": "LPIPS", "dists": "DISTS"}
OURS = "here"  # the source of figures that this run gave
_MAX_LABELS = 100  # characters of a table's labels; longer ones are numbered


class Row(NamedTuple):
    """One method's figures.

    Attributes:
        method: its name.
        source: ``here``, or paper and table.
        size: of its network.
        figures: (setting or ``mean``, metric) -> figure; none where there is no figure.
        left_out: how many images have no score.
        comparable: whether the figures belong to the protocol's degradation.
    """

    method: str
    source: str
    size: Size
    figures: dict[tuple[str, str], float]
    left_out: int = 0
    comparable: bool = True

    @property
    def is_ours(self) -> bool:
        """Whether this run gave the figures."""
        return self.source == OURS

    @property
    def title(self) -> str:
        """The name as tables show it."""
        if not self.is_ours:
            return self.method if self.comparable else f"{self.method}\N{DAGGER}"
        return f"{self.method} (ours{f'; images left out: {self.left_out}' if self.left_out else ''})"


class Table(NamedTuple):
    """A table of text; ``ours`` says of each row whether this run gave it, ``notes`` are sentences below it."""

    title: str
    head: list[str]
    rows: list[list[str]]
    ours: list[bool]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """The table in Markdown, its columns lined up."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        lines = [self.head, ["-" * width for width in widths], *self.rows]
        text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
        return "\n".join([f"{self.title}\n", *text, *(f"\n{note}" for note in self.notes)])


def _number(value: float | None, digits: int, sign: str = "") -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"  # + 0.0: no -0.00


def our_row(results: Results, method: str, image_set: ImageSet) -> Row:
    """Our figures of a method on a set."""
    figures, counts = {}, []
    for metric in results.metrics:
        for label in (*results.settings, MEAN):
            mean, count = results.mean(method, image_set.name, label, metric)
            counts.append(count)
            if count:
                figures[label, metric] = mean
    return Row(method, OURS, results.sizes.get(method, Size()), figures, len(image_set.images) - min(counts))


def paper_row(paper: str, table: PaperTable, method: str, set_name: str) -> Row:
    """A paper's figures of a method on a set, and their mean."""
    printed = table.methods[method]
    figures: dict[tuple[str, str], float] = {}
    for metric in ("psnr", "ssim", "lpips"):
        if values := getattr(printed, metric).get(set_name):
            figures |= {(label, metric): value for label, value in zip(table.settings, values, strict=True)}
            figures[MEAN, metric] = math.fsum(values) / len(values)
    comparable = method not in table.other_degradation
    return Row(method, f"{paper}, {table.name}", printed.size, figures, comparable=comparable)


def set_rows(results: Results, image_set: ImageSet) -> list[Row]:
    """Our rows and the papers', the best mean of the main metric first; of a partial set ours alone."""
    rows = [our_row(results, method, image_set) for method in results.methods]
    for paper, table in paper_tables(results.protocol.name, results.scale):
        if table.baseline is None and not image_set.is_partial:
            printed = [paper_row(paper, table, method, image_set.name) for method in table.methods]
            rows += [row for row in printed if row.figures]
    metric = results.metrics[0]
    sign = 1 if metric in LOWER_IS_BETTER else -1
    return sorted(rows, key=lambda row: sign * row.figures.get((MEAN, metric), sign * math.inf))


def _gap(row: Row, reference: Row | None, labels: Sequence[str], metric: str) -> float:
    """How far figures, rounded as papers print them, are from those of ``reference``: the mean over the labels."""
    if reference is None or not reference.comparable or row.left_out:
        return math.nan
    if any((label, metric) not in reference.figures for label in labels):
        labels = [MEAN]
    pairs = [[r.figures.get((label, metric), math.nan) for r in (row, reference)] for label in labels]
    return math.fsum(round(ours, DIGITS[metric]) - theirs for ours, theirs in pairs) / len(pairs)


def _table(
    title: str,
    rows: Sequence[Row],
    columns: Sequence[str],
    metrics: Sequence[str],
    references: Sequence[Row | None],
    gap_head: str,
) -> Table:
    """A line for each row; cells such as 32.47 / 0.8990; at the end the gap to the row's reference.

    Where the columns' names are long, they are numbered and hold the main metric alone.
    """
    labels = [label for label in columns if label != MEAN]
    heads, notes, lines = list(labels), [], []
    numbered = sum(map(len, labels)) > _MAX_LABELS
    if numbered:
        heads = [str(i) for i in range(1, len(labels) + 1)]
        notes.append("Columns: " + ", ".join(f"{i} {label}" for i, label in zip(heads, labels, strict=True)) + ".")
    for row, reference in zip(rows, references, strict=True):
        milliseconds = row.size.milliseconds if row.is_ours else None  # papers' are of other machines
        line = [row.title, _number(row.size.parameters, 2), _number(row.size.gmacs, 2), _number(milliseconds, 1)]
        for label in columns:
            shown = metrics[:1] if numbered and label != MEAN else metrics
            texts = [_number(row.figures.get((label, metric)), DIGITS[metric]) for metric in shown]
            line.append(re.sub("( / -)+$", "", " / ".join(texts)))
        lines.append([*line, _number(_gap(row, reference, labels, metrics[0]), DIGITS[metrics[0]], "+")])
    if any(not row.comparable for row in rows):
        notes.append("\N{DAGGER} printed in the paper's table, but of another degradation: it does not compare.")
    head = ["method", "M parameters", "GMACs", "ms", *heads, *columns[len(labels) :], gap_head]
    return Table(title, head, lines, [row.is_ours for row in rows], notes)


def set_table(results: Results, image_set: ImageSet) -> Table:
    """The table of one set: a column for each setting, and the gap of our methods to a paper's of the same name."""
    rows = set_rows(results, image_set)
    papers = {row.method.lower(): row for row in rows if not row.is_ours}
    references = [papers.get(row.method.lower()) if row.is_ours else None for row in rows]
    columns = results.settings + [MEAN] * (len(results.settings) > 1)
    return _table(image_set.title, rows, columns, results.metrics, references, "to its paper")


def _over_sets(rows: dict[str, Row]) -> Row:
    """One row of a method whose columns are sets, from its row of each set: the means."""
    means = {
        (set_name, metric): figure
        for set_name, row in rows.items()
        for (label, metric), figure in row.figures.items()
        if label == MEAN
    }
    first = next(iter(rows.values()))
    return first._replace(figures=means, left_out=sum(row.left_out for row in rows.values()))


def ablation_tables(results: Results) -> Iterator[Table]:
    """The papers' tables of ablations that have the name of a method of ours: means, and the gap to the baseline."""
    sets = {image_set.name: image_set for image_set in results.sets if not image_set.is_partial}
    for paper, table in paper_tables(results.protocol.name, results.scale):
        names = {name.lower(): name for name in table.methods}
        ours = {names[method.lower()]: method for method in results.methods if method.lower() in names}
        if table.baseline is None or not ours or not sets:
            continue
        printed = {
            name: _over_sets({set_name: paper_row(paper, table, name, set_name) for set_name in sets})
            for name in table.methods
        }
        found = {
            name: _over_sets({s: our_row(results, method, image_set) for s, image_set in sets.items()})
            for name, method in ours.items()
        }
        rows = [row._replace(method=name) for group in (printed, found) for name, row in group.items()]
        references = [group.get(table.baseline) for group in (printed, found) for _ in group]
        title = f"{paper}, {table.name}: means over the settings"
        yield _table(title, rows, list(sets), results.metrics, references, f"to {table.baseline}")


def caption(results: Results) -> str:
    """One line that says what the figures are."""
    metrics = " / ".join(NAMES[metric] for metric in results.metrics)
    source = f" ({results.protocol.source})" if results.protocol.source else ""
    return f"{metrics}, protocol {results.protocol.name}{source}, x{results.scale}"


def to_csv(results: Results) -> str:
    """One line for each method, set and setting, ours before the papers'; ``mean`` is a setting too."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["method", "source", "set", "images", "setting", *results.metrics, *Size.model_fields])
    for image_set in results.sets:
        for row in sorted(set_rows(results, image_set), key=lambda row: not row.is_ours):
            count = len(image_set.images) - row.left_out if row.is_ours else None
            for label in (*results.settings, MEAN):
                figures = [row.figures.get((label, metric)) for metric in results.metrics]
                if row.is_ours or any(figure is not None for figure in figures):
                    size = row.size.model_dump().values()
                    writer.writerow([row.method, row.source, image_set.name, count, label, *figures, *size])
    return file.getvalue()
