"""Score methods on test sets under a protocol: every image, every setting, every method."""

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.metrics import calculate_niqe, calculate_psnr, calculate_ssim
from torch import Tensor
from tqdm import tqdm

from lightbsr_compat import InputError
from lightbsr_compat.images import read_rgb8
from lightbsr_data import PhotoParameters
from lightbsr_data.datasets import benchmark_noise, degrade_fixed
from lightbsr_data.scores import finite_mean, finite_score
from lightbsr_data.settings import KERNEL_SIZE

from .image_sets import ImageSet, SetImage
from .methods import Method, to_8_bit_image
from .protocols import MEAN, Protocol, Size

PICTURE_SIDE = 256  # pixels of the report's pictures
LOWER_IS_BETTER = ("niqe", "lpips", "dists")
Metric = Callable[[np.ndarray, Any], float]  # (H, W, 3) uint8, RGB: SR image, HR image (None without one)


def _learned_metric(name: str, device: torch.device) -> Metric:
    """LPIPS (AlexNet) or DISTS of whole RGB images, of the package pyiqa.

    Raises:
        InputError: the package is not installed, or its weights cannot be had.
    """
    try:
        network = importlib.import_module("pyiqa").create_metric(name, device=device)
    except ModuleNotFoundError:
        raise InputError(f"{name} is left out: it needs the package pyiqa (pip install pyiqa)") from None
    except Exception as error:  # whatever downloading weights provokes
        raise InputError(f"{name} is left out: pyiqa cannot make it ({' '.join(str(error).split())[:200]})") from None

    @torch.inference_mode()
    def calculate(sr: np.ndarray, hr: np.ndarray) -> float:
        return float(network(*(_to_tensor(image)[None].to(device) for image in (sr, hr))))

    return calculate


def make_metrics(
    names: Sequence[str], *, crop_border: int, device: torch.device
) -> tuple[dict[str, Metric], list[str]]:
    """Metrics on (H, W, 3) uint8, RGB images, and a sentence for each that is not to be had.

    Args:
        names: as in protocols.
        crop_border: pixels shaved on every side for PSNR, SSIM and NIQE.
        device: of LPIPS and DISTS.
    """
    on_y = {"crop_border": crop_border, "test_y_channel": True}
    metrics: dict[str, Metric] = {
        "psnr": lambda sr, hr: calculate_psnr(sr[..., ::-1], hr[..., ::-1], **on_y),
        "ssim": lambda sr, hr: calculate_ssim(sr[..., ::-1], hr[..., ::-1], **on_y),
        "niqe": lambda sr, hr: calculate_niqe(sr[..., ::-1], crop_border=crop_border),
    }
    left_out = []
    for name in names:
        if name in ("lpips", "dists"):
            try:
                metrics[name] = _learned_metric(name, device)
            except InputError as error:
                left_out.append(str(error))
    return {name: metrics[name] for name in names if name in metrics}, left_out


@dataclass
class Results:
    """The scores of a benchmark.

    Attributes:
        settings: labels.
        metrics: names, the main one first.
        methods: names.
        scores: (method, set, setting, metric) -> one score per image, NaN where there is none.
        pictures: (set, image number) -> method, LR or HR -> the middle of the image as JPEG, of ``picture_setting``.
        failures: a sentence for every image without a score.
        sizes: what the networks cost, by method.
    """

    protocol: Protocol
    scale: int
    sets: list[ImageSet]
    settings: list[str]
    metrics: list[str]
    methods: list[str]
    scores: dict[tuple[str, str, str, str], list[float]] = field(default_factory=dict)
    pictures: dict[tuple[str, int], dict[str, bytes]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    sizes: dict[str, Size] = field(default_factory=dict)

    @property
    def picture_setting(self) -> str:
        """The setting that the report shows pictures of: the middle one."""
        return self.settings[len(self.settings) // 2]

    def mean(self, method: str, set_name: str, setting: str, metric: str) -> tuple[float, int]:
        """The mean over the images that have a score, and their number; NaN and 0 where none has.

        The setting ``mean`` gives the mean over all settings and the smallest number.
        """
        if setting != MEAN:
            return finite_mean(self.scores[method, set_name, setting, metric])
        means = [self.mean(method, set_name, label, metric) for label in self.settings]
        return math.fsum(mean for mean, _ in means) / len(means), min(count for _, count in means)

    def rank(self, method: str, set_name: str) -> list[int]:
        """Numbers of the images that have a score under ``picture_setting``, the worst first."""
        scores = self.scores[method, set_name, self.picture_setting, self.metrics[0]]
        order = sorted((i for i, score in enumerate(scores) if math.isfinite(score)), key=lambda i: scores[i])
        return order[::-1] if self.metrics[0] in LOWER_IS_BETTER else order


def _jpeg(image: np.ndarray) -> bytes:
    """The middle of (H, W, 3) uint8, RGB, at most PICTURE_SIDE pixels high and wide, as a JPEG file."""
    top, left = (max(0, side - PICTURE_SIDE) // 2 for side in image.shape[:2])
    crop = image[top : top + PICTURE_SIDE, left : left + PICTURE_SIDE, ::-1]
    return cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def _to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) in [0, 1]."""
    return torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255.0


def read_hr(image: SetImage, scale: int) -> np.ndarray | None:
    """The HR image (H, W, 3) uint8, cropped to a multiple of the scale at the bottom right; None where there is none.

    Raises:
        InputError: it cannot be read, or is smaller than the scale.
    """
    if image.hr is None:
        return None
    hr = read_rgb8(image.hr)
    if min(hr.shape[:2]) < scale:
        raise InputError(f"image {image.hr!r} is {hr.shape[1]}x{hr.shape[0]}, smaller than the scale, {scale}")
    return hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]


def make_lq(image: SetImage, hr: np.ndarray | None, degradation: PhotoParameters | None, scale: int) -> Tensor:
    """The LR image (3, h, w) in [0, 1]: the degraded HR image, or the LR image's file where nothing is degraded.

    What is degraded depends on image, name (which seeds the noise) and degradation alone.

    Raises:
        InputError: a file that cannot be read, sizes that do not fit, or an image too small to be blurred.
    """
    if degradation is not None:
        assert hr is not None
        height, width = hr.shape[:2]
        if min(height, width) <= KERNEL_SIZE // 2:
            raise InputError(f"image {image.name!r} is {width}x{height}, too small to be blurred by a 21x21 kernel")
        noise = benchmark_noise(image.name, degradation, (3, height // scale, width // scale))
        return degrade_fixed(_to_tensor(hr)[None], degradation, None if noise is None else noise[None], scale=scale)[0]
    assert image.lr is not None
    lr = read_rgb8(image.lr)
    height, width = (side * scale for side in lr.shape[:2])
    if hr is not None and hr.shape[:2] != (height, width):
        raise InputError(
            f"{image.hr!r} is {hr.shape[1]}x{hr.shape[0]}, but x{scale} of {image.lr!r} is {width}x{height}"
        )
    return _to_tensor(lr)


def score_all(results: Results, methods: Sequence[Method], metrics: dict[str, Metric]) -> None:
    """Compute all scores, failures and pictures of ``results``.

    Raises:
        InputError: before anything is computed, where a folder of finished images lacks a set or setting.
    """
    degradations = results.protocol.degradations(results.scale)
    for image_set in results.sets:
        for method in methods:
            for setting in degradations:
                if method.folder is not None:
                    method.find_folder(image_set.name, setting)
                for metric in metrics:
                    results.scores[method.name, image_set.name, setting, metric] = [math.nan] * len(image_set.images)
    images = [(image_set.name, i, image) for image_set in results.sets for i, image in enumerate(image_set.images)]
    for set_name, index, image in tqdm(images, unit="image", disable=None):
        where = f"{set_name}, image {image.name!r}"
        try:
            hr = read_hr(image, results.scale)
        except InputError as error:
            results.failures.append(f"{where}: {error}")
            continue
        for setting, degradation in degradations.items():
            try:
                lq = make_lq(image, hr, degradation, results.scale)
            except InputError as error:
                results.failures.append(f"{where}, {setting}: {error}")
                continue
            if setting == results.picture_setting:
                nearest = to_8_bit_image(lq).repeat(results.scale, 0).repeat(results.scale, 1)
                results.pictures[set_name, index] = {"LR": _jpeg(nearest)} | ({} if hr is None else {"HR": _jpeg(hr)})
            for method in methods:
                try:
                    sr = method(lq, scale=results.scale, set_name=set_name, setting=setting, image_name=image.name)
                except (InputError, RuntimeError, MemoryError) as error:  # or it does not fit into memory
                    results.failures.append(f"{where}, {setting}, {method.name}: {' '.join(str(error).split())[:300]}")
                    continue
                if setting == results.picture_setting:
                    results.pictures[set_name, index][method.name] = _jpeg(sr)
                for metric, calculate in metrics.items():
                    score = finite_score(calculate, sr, hr)
                    results.scores[method.name, set_name, setting, metric][index] = score
                    if math.isnan(score):
                        results.failures.append(
                            f"{where}, {setting}, {method.name}: no finite {metric} of {sr.shape[1]}x{sr.shape[0]}"
                            " pixels (equal to the HR image, flat, or too small)"
                        )
