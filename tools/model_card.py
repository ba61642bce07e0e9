"""Measure packaged weights and write their model card: ``docs/models/NAME.md``, ``.json`` and pictures.

    python tools/model_card.py lightbsr_x4_iso --data datasets

Every figure comes from ``lightbsr benchmark`` and ``lightbsr idr``, run here on the packaged file; how it was trained
is read from the file itself; what no program can know stands in ``tools/model_cards/NAME.yml``. DATA holds the folders
``benchmark`` (Set5, Set14, ...) and ``real``. Tables and reports stay below ``build/model_cards``.
tests/lightbsr/test_shipped_weights.py holds the weights to the ``.json``.
"""

import argparse
import hashlib
import json
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
import yaml
from card_pictures import comparison_picture, real_picture, write_jpeg
from safetensors import safe_open
from sklearn.datasets import load_sample_images

from lightbsr.evaluation.benchmark import benchmark
from lightbsr.evaluation.idr import idr
from lightbsr.evaluation.protocols import paper_tables
from lightbsr.evaluation.scoring import Results
from lightbsr.files import atomic_write
from lightbsr.upscaling.upscaler import load_network
from lightbsr_arch import network_options
from lightbsr_compat import InputError

ROOT = Path(__file__).parents[1]
BUNDLED = "bundled"  # the set of photographs that scikit-learn carries
_METHOD = "LightBSR"  # the paper's name, so that the benchmark prints its figures beside ours
_BUNDLED_SIDE = 256


def bundled_photographs(folder: Path) -> None:
    """Write the middle of scikit-learn's photographs as the image set ``folder/bundled``."""
    target = folder / BUNDLED
    target.mkdir(parents=True)
    samples = load_sample_images()
    for path, image in zip(samples.filenames, samples.images, strict=True):
        top, left = ((side - _BUNDLED_SIDE) // 2 for side in image.shape[:2])
        crop = image[top : top + _BUNDLED_SIDE, left : left + _BUNDLED_SIDE]
        cv2.imwrite(str(target / f"{Path(path).stem}.png"), cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))


def scores(weights: Path, data: Path, protocol: str, sets: Sequence[str], out: Path) -> Results:
    """Run ``lightbsr benchmark`` on weights.

    Args:
        weights: the file.
        data: folder of the sets.
        protocol: name or path of the protocol.
        sets: names.
        out: folder of the benchmark's results.

    Returns:
        Its scores.
    """
    results = benchmark(str(data), protocol=protocol, methods=[f"{_METHOD}={weights}"], sets=list(sets), out=str(out))
    if results.failures:
        raise InputError(f"{len(results.failures)} images failed: a card needs all of them")
    return results


def table(results: Results) -> list[dict[str, Any]]:
    """A benchmark's figures, ours beside bicubic and the paper's: one entry per set and setting."""
    printed = {table.name: table for _, table in paper_tables(results.protocol.name, results.scale)}
    rows = []
    for image_set in results.sets:
        for setting in results.settings:

            def figures(method: str, name: str = image_set.name, label: str = setting) -> dict[str, float]:
                return {metric: results.mean(method, name, label, metric)[0] for metric in ("psnr", "ssim")}

            paper = next(
                (
                    dict(zip(t.settings, t.methods[_METHOD].psnr[image_set.name], strict=True))
                    for t in printed.values()
                    if image_set.name in getattr(t.methods.get(_METHOD), "psnr", {})
                ),
                {},
            )
            rows.append(
                {
                    "set": image_set.name,
                    "setting": setting,
                    "bicubic": figures("Bicubic"),
                    "ours": figures(_METHOD),
                    "paper": {"psnr": paper.get(setting), "ssim": None},
                }
            )
    return rows


def _markdown(rows: list[dict[str, Any]]) -> str:
    with_paper = any(row["paper"]["psnr"] is not None for row in rows)
    head = ["set", "setting", "bicubic", "this model", "gain"] + (["paper", "gap"] if with_paper else [])
    lines = [head, ["---"] * len(head)]
    for row in rows:
        bicubic, ours, paper = row["bicubic"], row["ours"], row["paper"]["psnr"]
        line = [row["set"], row["setting"], f"{bicubic['psnr']:.2f} / {bicubic['ssim']:.4f}"]
        line += [f"{ours['psnr']:.2f} / {ours['ssim']:.4f}", f"{ours['psnr'] - bicubic['psnr']:+.2f}"]
        if with_paper:
            line += ["-", "-"] if paper is None else [f"{paper:.2f}", f"{ours['psnr'] - paper:+.2f}"]
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _training(runs: Sequence[dict[str, Any]]) -> str:
    head = "| run | iterations (stage 1) | batch x views | LR patch | learning rate | EMA | precision | seed | hours |"
    lines = [head, "|---|---|---|---|---|---|---|---|---|"]
    for run in runs:
        lines.append(
            f"| `{run['options']}` | {run['iterations']:,} ({run['iterations_of_stage_1']:,}) | {run['batch']} x"
            f" {run['views']} | {run['lr_patch']}x{run['lr_patch']} | {run['learning_rate']:g} | {run['ema_decay']} |"
            f" {run['amp'] or 'fp32'} | {run['seed']} | {run['hours']:.2f} ({run['device']}) |"
        )
    return "\n".join(lines)


def _sizes(network: torch.nn.Module) -> str:
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    _, options = network_options(network.state_dict())
    return (
        f"{parameters:,} trainable parameters: {options['num_feat']} features, {options['num_group']} groups of"
        f" {options['num_block']} blocks (the paper's: 3,259,947 parameters: 64 features, 8 groups of 8 blocks)"
    )


def card(name: str, data: Path, *, build: Path = ROOT / "build" / "model_cards", docs: Path = ROOT / "docs") -> Path:
    """Measure ``lightbsr/weights/NAME.safetensors`` and write its card.

    Args:
        name: of the weights.
        data: folder with ``benchmark`` and ``real``.
        build: where benchmarks keep their results.
        docs: the card goes to ``docs/models``.

    Returns:
        The card's path.

    Raises:
        InputError: weights, notes or images that are missing.
    """
    weights, notes = (
        ROOT / "lightbsr" / "weights" / f"{name}.safetensors",
        ROOT / "tools" / "model_cards" / f"{name}.yml",
    )
    for path in (weights, notes):
        if not path.is_file():
            raise InputError(f"no such file: {str(path)!r}")
    facts = yaml.safe_load(notes.read_text(encoding="utf-8"))
    with safe_open(weights, "pt") as file:
        metadata = file.metadata()
    training, network, content = json.loads(metadata["training"]), load_network(str(weights)), weights.read_bytes()
    figures: dict[str, Any] = {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "protocols": {}}
    for protocol in facts["protocols"]:
        found = scores(weights, data / "benchmark", protocol, facts["sets"], build / name / protocol)
        figures["protocols"][protocol] = table(found)
    with tempfile.TemporaryDirectory() as folder:
        bundled_photographs(Path(folder))
        found = scores(weights, Path(folder), facts["protocols"][0], [BUNDLED], build / name / BUNDLED)
        shown = [{**facts["bundled"], "image": f"{BUNDLED}/{file}.png"} for file in ("flower", "china")]
        bundled, _ = comparison_picture(network, Path(folder), shown)
    figures[BUNDLED] = {"protocol": facts["protocols"][0], "cells": table(found)}
    idr_out = build / name / "idr"
    idr(
        str(data / "benchmark" / facts["idr"]["set"]),
        weights=[str(weights)],
        protocol=facts["idr"]["protocol"],
        out=str(idr_out),
    )
    idr_scores = (idr_out / "results.md").read_text(encoding="utf-8")
    limits, sentences = comparison_picture(network, data / "benchmark", facts["limits"])
    models = docs / "models"
    models.mkdir(parents=True, exist_ok=True)
    write_jpeg(models / f"{name}_bundled.jpg", bundled)
    write_jpeg(models / f"{name}_limits.jpg", limits)
    write_jpeg(models / f"{name}_real.jpg", real_picture(network, data / "real", facts["real"]))
    hours = sum(run["hours"] for run in training)
    parts = [
        f"# {name}",
        "<!-- Written by tools/model_card.py: change tools/model_cards/ or the tool, not this file. -->",
        facts["summary"],
        f"- network: {metadata['network']}, x{metadata['scale']}; {_sizes(network)}\n"
        f"- file: `lightbsr/weights/{weights.name}`, {len(content):,} bytes, fp16, the EMA weights;"
        f" SHA-256 `{figures['sha256']}`\n"
        f"- trained for: `{metadata['degradation']}`: {facts['degradation']}\n"
        f"- licence: {facts['licence']}",
        "## Training",
        f"{facts['data']}\n\n{_training(training)}\n\n{hours:.2f} hours in all, on {facts['hardware']}.",
        "## Scores",
        "PSNR in dB / SSIM, on Y, x4; every protocol is written out in [protocols.md](../protocols.md).",
    ]
    for protocol, rows in figures["protocols"].items():
        parts += [f"### Protocol {protocol}", _markdown(rows)]
    parts += [
        "### Photographs that scikit-learn carries",
        f"The middle {_BUNDLED_SIDE}x{_BUNDLED_SIDE} pixels of two, protocol {figures[BUNDLED]['protocol']}; the test"
        f" suite computes them anew.\n\n{_markdown(figures[BUNDLED]['cells'])}",
        f"![LR, bicubic, this model and HR of two photographs]({name}_bundled.jpg)",
        "## Does its IDR tell degradations apart?",
        idr_scores.strip(),
        "## Real photographs",
        "No HR image of these exists. LR, bicubic, this model.",
        f"![LR, bicubic and this model on real photographs]({name}_real.jpg)",
        "## What it is bad at",
        "\n".join(f"- {line}" for line in [*sentences, *facts["bad_at"]]),
        f"![LR, bicubic, this model and HR where it fails]({name}_limits.jpg)",
        "## Measured with",
        f"PyTorch {torch.__version__}; Python {platform.python_version()}; {platform.machine()}.",
    ]
    with atomic_write(models / f"{name}.json") as temporary:
        Path(temporary).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    with atomic_write(models / f"{name}.md") as temporary:
        Path(temporary).write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return models / f"{name}.md"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure packaged weights and write their model card.")
    parser.add_argument("name", help="e.g. lightbsr_x4_iso")
    parser.add_argument("--data", type=Path, required=True, help="folder with benchmark/ and real/")
    args = parser.parse_args()
    try:
        print(card(args.name, args.data))
    except InputError as error:
        raise SystemExit(f"model_card: error: {error}") from None


if __name__ == "__main__":
    main()
