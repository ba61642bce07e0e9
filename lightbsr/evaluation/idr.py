"""``lightbsr idr``: how well implicit degradation representations (IDRs) tell degradations apart.

After LightBSR (ICCV 2025), Fig. 1 and 5 (t-SNE pictures), with numbers beside the pictures. All degradations are put on
the same images.
"""

import argparse
import sys
from typing import Any

from lightbsr_cli import at_least
from lightbsr_compat import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of HR images")
    parser.add_argument(
        "--weights",
        required=True,
        nargs="+",
        metavar="[NAME=]FILE",
        help="students' or teachers', or packaged; .npz: names, labels and vectors of another method",
    )
    parser.add_argument("--protocol", default="idr_iso", metavar="P", help="idr_iso (default), idr_aniso_noise, ...")
    parser.add_argument("--out", metavar="DIR", help="folder of the results (results/idr_PROTOCOL_xS)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU where there is one)")
    parser.add_argument("--images", type=at_least(1), default=100, metavar="N", help="use at most N images (100)")
    parser.add_argument("--swap", action="store_true", help="also measure the PSNR lost with another degradation's IDR")


def run(args: argparse.Namespace) -> int:
    """Write ``tsne_NAME.png`` for each of the weights, ``results.csv`` and ``results.md``.

    Returns:
        The exit status, 1 where an image failed.
    """
    import csv
    import io
    import os

    import numpy as np

    from lightbsr.files import write_file
    from lightbsr.upscaling.upscaler import pick_device

    from .idr_scores import idr_scores
    from .image_sets import canonical, find_images
    from .protocols import load_protocol
    from .representations import collect, load, read_vectors, scatter_plot, swap_loss, targets
    from .tables import Table

    protocol, device = load_protocol(args.protocol), pick_device(args.device)
    if protocol.images != "degraded":
        raise InputError(f"protocol {protocol.name!r} has no degradations that could be told apart")
    loaded = [load(entry) for entry in args.weights]
    names = [name for name, _, _ in loaded]
    if len(set(names)) < len(names):
        raise InputError(f"--weights: the names {', '.join(names)} are not all different: give NAME=FILE")
    scales: set[Any] = {network.upscale for _, _, network in loaded if network is not None}
    if len(scales) > 1:
        raise InputError(f"--weights: the networks' scales are {sorted(scales)}, but must be the same")
    scale = scales.pop() if scales else 4
    by_label = protocol.degradations(scale)
    labels, degradations = list(by_label), [degradation for degradation in by_label.values() if degradation is not None]
    images = find_images(args.data, "degraded", scale)[: args.images]
    if not images:
        raise InputError(f"data folder {args.data!r} is no folder of images")

    out = args.out or os.path.join("results", f"idr_{protocol.name}_x{scale}")
    rows: list[dict[str, Any]] = []
    failures: dict[str, None] = {}  # each once
    for name, path, network in loaded:
        lost: dict[str, float] = {}
        if network is None:
            vectors = read_vectors(path, labels)
        else:
            vectors, psnr, sentences = collect(network.to(device), images, degradations, device, swap=args.swap)
            failures |= dict.fromkeys(sentences)
            if not len(vectors.labels):
                raise InputError("\n".join([f"data folder {args.data!r} holds no image that can be used", *sentences]))
            lost = swap_loss(psnr) if args.swap else {}
        probed = targets(degradations, vectors.labels)
        for representation, features in vectors.features.items():
            scores = idr_scores(features, vectors.labels, vectors.images, probed)
            rows.append({"weights": name, "representation": representation, **scores, **lost})
        write_file(os.path.join(out, f"tsne_{name}.png"), scatter_plot(name, vectors, labels))

    head = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, head, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    cells = [[row[k] if isinstance(row.get(k), str) else f"{row.get(k, np.nan):.3f}" for k in head] for row in rows]
    title = f"IDR quality on {canonical(os.path.basename(os.path.abspath(args.data)))}, {len(images)} images, protocol"
    page = Table(f"{title} {protocol.name}, x{scale}", head, cells, [True] * len(rows)).markdown() + "\n"
    write_file(os.path.join(out, "results.csv"), text.getvalue())
    write_file(os.path.join(out, "results.md"), page)
    print(f"{page}\nwritten: {os.path.join(out, 'tsne_*.png')}, results.md, results.csv")
    for sentence in failures:
        print(f"lightbsr: error: {sentence}", file=sys.stderr)
    return 1 if failures else 0
