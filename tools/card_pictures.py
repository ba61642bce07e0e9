"""The pictures of a model card: real photographs before and after, and images that the model fails on."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from lightbsr.evaluation.methods import to_8_bit_image
from lightbsr.files import atomic_write
from lightbsr.pictures import labelled, panels
from lightbsr_compat import InputError
from lightbsr_data import BlindBenchmarkDataset

_REAL_SIDE, _LIMITS_SIDE, _ZOOM = 320, 160, 2


def _rgb(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{str(path)!r} cannot be read as an image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255.0


@torch.inference_mode()
def _upscaled(network: torch.nn.Module, lq: torch.Tensor) -> dict[str, np.ndarray]:
    from basicsr.utils.matlab_functions import imresize  # after lightbsr, which mends BasicSR

    scale: int = network.upscale  # type: ignore[assignment]
    nearest = to_8_bit_image(lq).repeat(scale, 0).repeat(scale, 1)
    return {
        "LR": nearest,
        "bicubic": to_8_bit_image(imresize(lq, scale)),
        "this model": to_8_bit_image(network(lq[None])[0]),
    }


def _crop(image: np.ndarray, corner: Sequence[int], side: int) -> np.ndarray:
    top, left = (min(start, max(0, length - side)) for start, length in zip(corner, image.shape[:2], strict=True))
    return image[top : top + side, left : left + side]


def real_picture(network: torch.nn.Module, data: Path, entries: Sequence[dict[str, Any]]) -> np.ndarray:
    """Real photographs, for which no HR image exists: LR, bicubic, ours; RGB.

    Args:
        entries: ``image`` (below ``data``) and ``corner``, (top, left) of the crop in pixels of the result.
    """
    rows = []
    for entry in entries:
        images = _upscaled(network, _tensor(_rgb(data / entry["image"])))
        rows.append([labelled(_crop(i, entry["corner"], _REAL_SIDE), name, zoom=1) for name, i in images.items()])
    return panels(rows)


def comparison_picture(
    network: torch.nn.Module, data: Path, entries: Sequence[dict[str, Any]]
) -> tuple[np.ndarray, list[str]]:
    """HR images degraded: LR, bicubic, ours and HR, with PSNR on Y; RGB, and a sentence for each row.

    Args:
        entries: ``image`` (an HR image below ``data``), ``degradation``, ``jpeg`` (quality of the LR image, or None),
            ``corner`` and ``what``, the sentence's beginning.
    """
    from basicsr.metrics import calculate_psnr  # after lightbsr, which mends BasicSR

    scale: int = network.upscale  # type: ignore[assignment]
    rows, sentences = [], []
    for entry in entries:
        path = data / entry["image"]
        with tempfile.TemporaryDirectory() as folder:
            cv2.imwrite(str(Path(folder) / f"{path.stem}.png"), _rgb(path)[..., ::-1])
            dataset = {"dataroot_gt": folder, "io_backend": {"type": "disk"}, "scale": scale}
            item = BlindBenchmarkDataset({**dataset, "degradation": entry["degradation"]})[0]
        lq = item["lq"]
        if entry.get("jpeg"):
            _, code = cv2.imencode(".jpg", to_8_bit_image(lq)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, entry["jpeg"]])
            lq = _tensor(np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))[..., ::-1])
        images, gt = _upscaled(network, lq), to_8_bit_image(item["gt"])
        psnr = {
            name: calculate_psnr(image[..., ::-1], gt[..., ::-1], crop_border=scale, test_y_channel=True)
            for name, image in images.items()
        }
        row = [
            labelled(
                _crop(image, entry["corner"], _LIMITS_SIDE),
                name if name == "LR" else f"{name} {psnr[name]:.2f}",
                zoom=_ZOOM,
            )
            for name, image in images.items()
        ]
        rows.append([*row, labelled(_crop(gt, entry["corner"], _LIMITS_SIDE), "HR", zoom=_ZOOM)])
        gain = psnr["this model"] - psnr["bicubic"]
        sentences.append(f"{entry.get('what', '')} ({gain:+.2f} dB against bicubic on {path.stem})")
    return panels(rows), sentences


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8, RGB as a JPEG, whole or not at all."""
    with atomic_write(path) as temporary:
        cv2.imwrite(temporary, image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
