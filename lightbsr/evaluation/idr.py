"""``lightbsr idr``: how well a network's implicit degradation representations tell degradations apart.

After LightBSR (ICCV 2025), Fig. 1 and 5 (t-SNE pictures), with numbers beside the pictures. All degradations are put on
the same images.
"""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lightbsr.files import atomic_write, sha256_file
from lightbsr.packaged import find_weights
from lightbsr.upscaling.upscaler import load_any_network
from lightbsr_arch import KDSR, KDSRTeacher, LightBSRTeacher
from lightbsr_cli import at_least
from lightbsr_compat import InputError
from lightbsr_data import benchmark_prior
from lightbsr_data.datasets import parse_fixed_degradation

from .benchmark import check_out, pick_device, write_text
from .idr_scores import idr_scores, tsne
from .image_sets import ImageSet, find_set
from .protocols import Protocol, load_protocol
from .scatter import scatter_panels
from .tables import markdown_table


@dataclass
class Representations:
    """What one network makes of all images under all degradations.

    Attributes:
        features: representation -> one vector per image and degradation, (C,) each.
        labels: number of the degradation of each vector.
        groups: number of the image of each vector.
        failures: sentences about images that could not be used, left out under every degradation.
    """

    features: dict[str, list[np.ndarray]] = field(default_factory=dict)
    labels: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def represent(network: nn.Module, item: dict[str, Any], device: torch.device) -> dict[str, np.ndarray]:
    """All representations of one LR image.

    Args:
        network: a ``LightBSR``, a ``KDSR`` or the teacher of either, on ``device``.
        item: of ``BlindBenchmarkDataset``; LightBSR's teacher is told its degradation, KDSR's is shown its HR image.

    Returns:
        LightBSR: idr_channel (48,); idr_spatial (8,) and estimator (128,), pooled over the image.
        KDSR: idr (4 n,), which is distilled, and guide (n,), which the SR network takes.
    """
    lq = item["lq"][None].to(device)
    if isinstance(network, (KDSR, KDSRTeacher)):
        hints = [item["gt"][None].to(device)] if isinstance(network, KDSRTeacher) else []
        idr = network.estimate_idr(lq, *hints)
        return _vectors(idr=idr[0], guide=network.converter(idr)[0])
    if isinstance(network, LightBSRTeacher):
        kernel, noise_sigma = item["kernel"][None].to(device), item["noise_sigma"][None].to(device)
        prior = benchmark_prior(
            network.setting, kernel, noise_sigma, basis=network.kernel_basis, photo=item["photo"][None]
        )
        features = network.query_estimator(lq, prior if network.use_prior else None)
    else:
        features = network.estimator(lq)  # type: ignore[operator]
    h, w = lq.shape[-2:]
    idr = network.converter(features, (h, w))  # type: ignore[operator]
    return _vectors(
        idr_channel=idr.channel[0], idr_spatial=idr.spatial[0].mean((1, 2)), estimator=features[0].mean((1, 2))
    )


def _vectors(**found: Tensor) -> dict[str, np.ndarray]:
    return {name: vector.double().cpu().numpy() for name, vector in found.items()}


@torch.inference_mode()
def collect(network: nn.Module, image_set: ImageSet, protocol: Protocol, device: torch.device) -> Representations:
    """The representations of every image under every setting of the protocol; an image that fails is left out."""
    found = Representations()
    scale: int = network.upscale  # type: ignore[assignment]
    datasets = [image_set.dataset(setting, scale) for setting in protocol.settings(scale)]
    for i in tqdm(range(len(image_set.files)), unit="image", disable=None):
        try:
            vectors = [represent(network, dataset[i], device) for dataset in datasets]
        except InputError as error:
            found.failures.append(str(error))
            continue
        for label, vector in enumerate(vectors):
            for name in vector:
                found.features.setdefault(name, []).append(vector[name])
            found.labels.append(label)
            found.groups.append(i)
    return found


def _targets(protocol: Protocol, scale: int, labels: np.ndarray) -> dict[str, np.ndarray]:
    """What the linear probes look for, where it varies: the kernel's width and the noise level."""
    degradations = [parse_fixed_degradation(setting.degradation) for setting in protocol.settings(scale)]
    values = {
        "sigma": np.array([(d.sigma_x * d.sigma_y) ** 0.5 for d in degradations]),
        "noise": np.array([d.noise_sigma for d in degradations]),
    }
    return {name: value[labels] for name, value in values.items() if np.ptp(value) > 0}


def _load(entry: str) -> tuple[str, str, nn.Module]:
    """Name, path and network of a ``[NAME=]FILE`` entry."""
    name, equals, path = entry.partition("=")
    if not equals or os.path.isfile(entry):
        name, path = os.path.splitext(os.path.basename(entry))[0], entry
    if os.path.basename(name) != name or not name:
        raise InputError(f"--weights {entry!r}: the name {name!r} becomes part of a file's name: give another")
    path = find_weights(path)
    network = load_any_network(path)
    if isinstance(network, LightBSRTeacher) and not network.kernel_basis.numel():
        raise InputError(f"the teacher in {path!r} has no kernel basis: convert it with --kernel-basis FILE")
    return name, path, network


def _find_images(data: str, scale: int, limit: int) -> ImageSet:
    folder = os.path.abspath(data)
    found = find_set(os.path.dirname(folder), os.path.basename(folder), scale) if os.path.isdir(folder) else None
    if found is None:
        raise InputError(f"data folder {data!r} is no folder of images")
    return ImageSet(found.name, found.folder, found.files[:limit])


def idr(
    data: str,
    *,
    weights: Sequence[str],
    protocol: str = "idr_iso",
    out: str | None = None,
    device: str | None = None,
    limit: int = 100,
) -> int:
    """Score and picture the representations of networks.

    Writes ``tsne_NAME.png`` for each, and ``results.csv``, ``.md`` and ``.json``.

    Args:
        data: a folder of HR images.
        weights: ``FILE`` or ``NAME=FILE`` each: students, and teachers with what they are shown.
        protocol: name or path; its settings are the degradations to tell apart.
        out: folder of the results.
        device: None takes the GPU where there is one.
        limit: at most so many images are used.

    Returns:
        How many images failed; each is named on standard error.

    Raises:
        InputError: anything that makes the whole run meaningless.
    """
    the_protocol, the_device = load_protocol(protocol), pick_device(device)
    if not the_protocol.has_hr:
        raise InputError(f"protocol {the_protocol.name!r} has no degradations that could be told apart")
    loaded = [_load(entry) for entry in weights]
    names = [name for name, _, _ in loaded]
    if len(set(names)) < len(names):
        raise InputError(f"--weights: the names {', '.join(names)} are not all different: give NAME=FILE")
    scales: set[Any] = {network.upscale for _, _, network in loaded}
    if len(scales) > 1:
        raise InputError(f"--weights: the networks' scales are {sorted(scales)}, but must be the same")
    scale = int(scales.pop())
    image_set = _find_images(data, scale, limit)
    out = out or os.path.join("results", f"idr_{the_protocol.name}_x{scale}")
    check_out(out, the_protocol, scale)
    labels = [setting.label for setting in the_protocol.settings(scale)]
    rows: list[dict[str, Any]] = []
    failures: dict[str, None] = {}
    for name, path, network in loaded:
        found = collect(network.to(the_device), image_set, the_protocol, the_device)
        failures.update(dict.fromkeys(found.failures))
        if not found.labels:
            raise InputError("\n".join([f"data folder {data!r} holds no image that can be used", *found.failures]))
        numbers, groups = np.array(found.labels, dtype=int), np.array(found.groups, dtype=int)
        panels = []
        for representation, vectors in found.features.items():
            features = np.array(vectors)
            scores = idr_scores(features, numbers, groups, _targets(the_protocol, scale, numbers))
            rows.append({"weights": name, "sha256": sha256_file(path), "representation": representation, **scores})
            panels.append((f"{name}: {representation}", tsne(features)))
        with atomic_write(os.path.join(out, f"tsne_{name}.png")) as temporary:
            cv2.imwrite(temporary, scatter_panels(panels, numbers, labels))
    _write(out, the_protocol, scale, image_set, rows)
    for sentence in failures:
        print(f"lightbsr: error: {sentence}", file=sys.stderr)
    return len(failures)


def _write(out: str, protocol: Protocol, scale: int, image_set: ImageSet, rows: list[dict[str, Any]]) -> None:
    """Write CSV, JSON and Markdown, and print the table."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(os.path.join(out, "results.csv"), file.getvalue())
    stated = {"name": protocol.name, "sha256": protocol.checksum(scale), **protocol.facts}
    stated["settings"] = {setting.label: setting.degradation for setting in protocol.settings(scale)}
    result = {"protocol": stated, "scale": scale, "images": list(image_set.files), "scores": rows}
    write_text(os.path.join(out, "results.json"), json.dumps(result, indent=1) + "\n")
    head = [name for name in rows[0] if name != "sha256"]
    cells = [[row[name] if isinstance(row[name], str) else f"{row[name]:.3f}" for name in head] for row in rows]
    title = f"IDR quality on {image_set.name}, {len(image_set.files)} images, protocol {protocol.name}, x{scale}"
    text = f"{title}\n\n{markdown_table(head, cells)}\n"
    write_text(os.path.join(out, "results.md"), text)
    print(f"{text}\nwritten: {os.path.join(out, 'tsne_*.png')}, results.md, results.csv, results.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of HR images")
    parser.add_argument(
        "--weights", required=True, nargs="+", metavar="[NAME=]FILE", help="students' or teachers', or packaged"
    )
    parser.add_argument("--protocol", default="idr_iso", metavar="P", help="idr_iso (default), idr_aniso_noise, ...")
    parser.add_argument("--out", metavar="DIR", help="folder of the results (results/idr_PROTOCOL_xS)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU where there is one)")
    parser.add_argument("--images", type=at_least(1), default=100, metavar="N", help="use at most N images (100)")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    options = dict(protocol=args.protocol, out=args.out, device=args.device, limit=args.images)
    return 1 if idr(args.data, weights=args.weights, **options) else 0
