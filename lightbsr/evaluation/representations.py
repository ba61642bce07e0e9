"""The representations that networks make of degraded images, and what the networks do with them."""

import io
import os
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from lightbsr.upscaling.upscaler import load_any_network
from lightbsr_arch import KDSR, KDSRTeacher, LightBSRTeacher
from lightbsr_compat import InputError
from lightbsr_data import PhotoParameters, benchmark_prior
from lightbsr_data.scores import finite_mean, finite_score

from .idr_scores import tsne
from .image_sets import SetImage
from .methods import to_8_bit_image
from .scoring import make_lq, make_metrics, read_hr

_NO_JPEG = 100.0  # the quality that stands for an image that is not compressed


class Vectors(NamedTuple):
    """Representations of images under degradations.

    Attributes:
        features: representation -> (N, C).
        labels: (N,) number of each vector's degradation.
        images: (N,) number of each vector's image.
    """

    features: dict[str, np.ndarray]
    labels: np.ndarray
    images: np.ndarray


def load(entry: str) -> tuple[str, str, nn.Module | None]:
    """Name, path and network (None of an ``.npz`` file) of a ``[NAME=]FILE`` entry.

    Raises:
        InputError: a name that cannot be part of a file's name, or weights that do not load.
    """
    name, equals, path = entry.partition("=")
    if not equals or os.path.isfile(entry):
        name, path = os.path.splitext(os.path.basename(entry))[0], entry
    if os.path.basename(name) != name or not name:
        raise InputError(f"--weights {entry!r}: the name {name!r} becomes part of a file's name: give another")
    if path.lower().endswith(".npz"):
        return name, path, None
    network = load_any_network(path)
    if isinstance(network, LightBSRTeacher) and not network.kernel_basis.numel():
        raise InputError(f"the teacher in {path!r} has no kernel basis: convert it with --kernel-basis FILE")
    return name, path, network


def read_vectors(path: str, labels: Sequence[str]) -> Vectors:
    """Another method's vectors, from a NumPy ``.npz`` file.

    Args:
        path: of a file with ``names`` (N,) of images, ``labels`` (N,) of the protocol's settings, ``vectors`` (N, C).
        labels: the protocol's.

    Raises:
        InputError: no such file, an array that is missing or of another shape, a label that the protocol does not
            have, or a vector that is not finite.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names, found, vectors = file["names"].astype(str), file["labels"].astype(str), file["vectors"].astype(float)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path!r} is no .npz file of names, labels and vectors: {str(error).splitlines()[0]}"
        ) from None
    if vectors.ndim != 2 or names.shape != (len(vectors),) or found.shape != (len(vectors),):
        raise InputError(f"{path!r}: names {names.shape}, labels {found.shape} and vectors {vectors.shape} do not fit")
    unknown = sorted(set(found.tolist()) - set(labels))
    if unknown:
        raise InputError(f"{path!r}: label {unknown[0]!r} is none of the protocol's: {', '.join(labels)}")
    if not np.isfinite(vectors).all():
        raise InputError(f"{path!r} has vectors that are not finite (NaN or infinity)")
    numbers = np.array([labels.index(label) for label in found.tolist()])
    return Vectors({"vectors": vectors}, numbers, np.unique(names, return_inverse=True)[1])


def _estimate(
    network: nn.Module, lq: Tensor, hr: np.ndarray, degradation: PhotoParameters
) -> tuple[Any, dict[str, Tensor]]:
    """The IDR of lq (1, 3, h, w) as the SR network takes it, and the vectors that are scored.

    LightBSR's teacher is told the degradation, KDSR's is shown the HR image. Vectors of LightBSR: idr_channel (48,);
    idr_spatial (8,) and estimator (128,), pooled over the image. Of KDSR: idr (4 n,), which is distilled, and guide
    (n,), which the SR network takes.
    """
    if isinstance(network, (KDSR, KDSRTeacher)):
        gt = torch.from_numpy(hr.transpose(2, 0, 1).copy())[None].to(lq) / 255.0
        idr = network.estimate_idr(lq, gt) if isinstance(network, KDSRTeacher) else network.estimate_idr(lq)
        guide = network.converter(idr)
        return guide, {"idr": idr[0], "guide": guide[0]}
    if isinstance(network, LightBSRTeacher):
        noise_sigma = torch.tensor([degradation.noise_sigma]).to(lq)
        kernel, photo = degradation.kernel().to(lq), degradation.scalars()[None].to(lq)
        prior = benchmark_prior(network.setting, kernel, noise_sigma, basis=network.kernel_basis, photo=photo)
        features = network.query_estimator(lq, prior if network.use_prior else None)
    else:
        features = network.estimator(lq)  # type: ignore[operator]
    idr = network.converter(features, lq.shape[-2:])  # type: ignore[operator]
    pooled = {"idr_spatial": idr.spatial[0].mean((1, 2)), "estimator": features[0].mean((1, 2))}
    return idr, {"idr_channel": idr.channel[0], **pooled}


@torch.inference_mode()
def collect(
    network: nn.Module,
    images: Sequence[SetImage],
    degradations: Sequence[PhotoParameters],
    device: torch.device,
    *,
    swap: bool = False,
) -> tuple[Vectors, np.ndarray, list[str]]:
    """The representations of every image under every degradation.

    Args:
        network: a student or teacher, on ``device``.
        images, degradations: every degradation is put on every image.
        swap: whether LR images are also super-resolved with the IDRs of the same image's other degradations.

    Returns:
        The vectors; PSNR on Y of the degradation i with the IDR of j, (images, i, j), empty without ``swap``; and a
        sentence for each image that is left out.
    """
    scale: int = network.upscale  # type: ignore[assignment]
    psnr = make_metrics(["psnr"], crop_border=scale, device=device)[0]["psnr"]
    rows: list[dict[str, np.ndarray]] = []
    swapped, used, failures = [], [], []
    for number, image in enumerate(tqdm(images, unit="image", disable=None)):
        try:
            hr = read_hr(image, scale)
            assert hr is not None
            lqs = [make_lq(image, hr, degradation, scale)[None].to(device) for degradation in degradations]
            estimates = [_estimate(network, lq, hr, d) for lq, d in zip(lqs, degradations, strict=True)]
            vectors = [{k: v.double().cpu().numpy() for k, v in vectors.items()} for _, vectors in estimates]
            if not all(np.isfinite(vector).all() for row in vectors for vector in row.values()):
                raise InputError(f"image {image.name!r}: its IDR is not finite (NaN or infinity)")
            if swap:
                srs = [[network.sr_network(lq, idr)[0] for idr, _ in estimates] for lq in lqs]  # type: ignore[operator]
                swapped.append([[finite_score(psnr, to_8_bit_image(sr), hr) for sr in line] for line in srs])
        except InputError as error:
            failures.append(str(error))
            continue
        rows += vectors
        used.append(number)
    features = {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    labels = np.tile(np.arange(len(degradations)), len(used))
    return Vectors(features, labels, np.repeat(used, len(degradations))), np.array(swapped), failures


def swap_loss(psnr: np.ndarray) -> dict[str, float]:
    """PSNR lost by super-resolving an LR image with the IDR of the same image under another degradation.

    Args:
        psnr: (images, i, j) of the degradation i with the IDR of j, NaN where there is none.

    Returns:
        psnr_own: the mean with the image's own IDR, in dB.
        swap_loss: how much is lost: the mean over all ordered pairs of two degradations of an image, in dB.
    """
    own = np.diagonal(psnr, axis1=1, axis2=2)  # (images, i)
    lost = (own[:, :, None] - psnr)[:, ~np.eye(psnr.shape[1], dtype=bool)]  # (images, pairs)
    return {"psnr_own": finite_mean(own.ravel())[0], "swap_loss": finite_mean(lost.ravel())[0]}


def targets(degradations: Sequence[PhotoParameters], labels: np.ndarray) -> dict[str, np.ndarray]:
    """Targets of the linear probes, (N,) each, where they vary: kernel widths, noise level, JPEG quality."""
    sigma_x, sigma_y = (np.array([getattr(d, name) for d in degradations]) for name in ("sigma_x", "sigma_y"))
    widths = {"sigma": sigma_x} if (sigma_x == sigma_y).all() else {"sigma_x": sigma_x, "sigma_y": sigma_y}
    values = {
        **widths,
        "noise": np.array([d.noise_sigma for d in degradations]),
        "jpeg": np.array([_NO_JPEG if d.quality is None else d.quality for d in degradations]),
    }
    return {name: value[labels] for name, value in values.items() if np.ptp(value[labels]) > 0}


def scatter_plot(name: str, vectors: Vectors, labels: Sequence[str]) -> bytes:
    """t-SNE of every representation, a colour for each degradation: a PNG file."""
    figure = Figure(figsize=(4.5 * len(vectors.features), 5), layout="constrained")
    for i, (representation, features) in enumerate(vectors.features.items(), 1):
        axes = figure.add_subplot(1, len(vectors.features), i)
        points = tsne(features)
        for number, label in enumerate(labels):
            x, y = points[vectors.labels == number].T
            axes.scatter(x, y, s=12, color=f"C{number}", label=label)
        axes.set(title=f"{name}: {representation}", xticks=[], yticks=[])
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
