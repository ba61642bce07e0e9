"""Datasets of HR images with a degradation: random for training, fixed for benchmarks.

Source: LightBSR (ICCV 2025), Sec. 4.1. They register themselves in BasicSR and take the ``datasets`` section of an
option file. The LR images of training are made on the training device (``ClassicDegradation``), not here.
"""

import math
import zlib
from typing import Any

import numpy as np
import torch
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor
from torch.utils.data import Dataset

from lightbsr_compat import InputError, did_you_mean

from .degradations import degrade
from .images import HRImages
from .kernels import gaussian_kernels, sample_degradation
from .photo import NO_BLUR, PhotoParameters, degrade_photo, jpeg, sample_photo
from .settings import DOWNSAMPLERS, KERNEL_SIZE, get_setting


def _images(opt: dict[str, Any]) -> HRImages:
    return HRImages(opt["dataroot_gt"], io_backend=opt["io_backend"]["type"], meta_info_file=opt.get("meta_info_file"))


def _to_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


@DATASET_REGISTRY.register()
class DegradationPriorDataset(Dataset):
    """HR patches with one random degradation per image.

    An image is flipped and transposed once; its D views are independent crops of it and share its degradation. All
    draws come from torch's generator of the worker, which BasicSR's loop reseeds every epoch.

    Options (besides BasicSR's own of a train dataset):
        dataroot_gt: folder or LMDB of HR images.
        io_backend: ``type: disk`` or ``type: lmdb``.
        meta_info_file: optional, with ``disk``.
        gt_size: side of an HR patch in pixels, a multiple of the scale.
        num_views: views D of an image (4 for the teacher, 1 for the student).
        degradation: a setting, by its name (``iso``, ``aniso_noise``, ``photo``) or as a mapping (``get_setting``).
        use_hflip, use_rot: random horizontal flips; random vertical flips and transposes.

    Items:
        gt: (D, 3, gt_size, gt_size) uint8, RGB.
        kernel: (21, 21) float32, summing to 1.
        noise_sigma: () float32, on the 0-255 scale.
        lq_views: (D, 3, gt_size / scale, gt_size / scale) uint8, and photo: (4,) float32, of settings that are not
            classic; else the training device degrades.

    Raises:
        InputError: wrong options, or an image that is missing, unreadable or smaller than ``gt_size``.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt
        self.gt_size: int = opt["gt_size"]
        self.num_views: int = opt["num_views"]
        self.setting = get_setting(opt["degradation"])
        if self.gt_size < 1 or self.gt_size % opt["scale"]:
            raise InputError(f"gt_size is {self.gt_size}, but must be a positive multiple of the scale, {opt['scale']}")
        if self.gt_size <= KERNEL_SIZE // 2:
            raise InputError(
                f"gt_size is {self.gt_size}, but must be above {KERNEL_SIZE // 2}: the blur mirrors that much"
            )
        if self.num_views < 1:
            raise InputError(f"num_views is {self.num_views}, but must be at least 1")
        self.images = _images(opt)
        for index, size in enumerate(self.images.sizes):
            if size is not None:
                self._check_size(index, *size)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))

        def draw(high: int) -> int:
            return int(torch.randint(high, (), generator=generator))

        image = self.check_item(index)
        if self.opt.get("use_hflip", True) and draw(2):
            image = image[:, ::-1]
        if self.opt.get("use_rot", True):
            if draw(2):
                image = image[::-1]
            if draw(2):
                image = image.transpose(1, 0, 2)
        size = self.gt_size
        views = []
        for _ in range(self.num_views):
            top, left = draw(image.shape[0] - size + 1), draw(image.shape[1] - size + 1)
            views.append(_to_tensor(image[top : top + size, left : left + size]))
        if not self.setting.is_classic:
            photo = sample_photo(self.setting, generator)
            gt = torch.stack(views)
            return {
                "gt": gt,
                "lq_views": degrade_photo(gt.float() / 255.0, photo, scale=self.opt["scale"], generator=generator),
                "kernel": photo.kernel()[0],
                "noise_sigma": torch.tensor(photo.noise_sigma),
                "photo": photo.scalars(),
            }
        parameters = sample_degradation(self.setting, 1, generator)
        kernel = gaussian_kernels(parameters.sigma_x, parameters.sigma_y, parameters.theta)
        return {"gt": torch.stack(views), "kernel": kernel[0], "noise_sigma": parameters.noise_sigma[0]}

    def check_item(self, index: int) -> np.ndarray:
        """Read an image, (H, W, 3) uint8, RGB; raises InputError where it cannot be used."""
        image = self.images.read(index)
        self._check_size(index, *image.shape[:2])
        return image

    def _check_size(self, index: int, height: int, width: int) -> None:
        if min(height, width) < self.gt_size:
            raise InputError(
                f"image {self.images.path(index)!r} is {width}x{height}, but both sides must be at least gt_size,"
                f" {self.gt_size}"
            )


_DEGRADATION_KEYS = ("sigma", "sigma_x", "sigma_y", "theta", "noise_sigma", "downsample", "jpeg")


def parse_fixed_degradation(degradation: Any) -> PhotoParameters:
    """Read one fixed degradation of an option file or protocol.

    Entries: ``sigma``, or ``sigma_x``, ``sigma_y`` (HR pixels) and ``theta`` (degrees), may only be missing beside
    ``downsample``: no blur then; ``noise_sigma`` (0, on the 0-255 scale); ``downsample`` (bicubic); ``jpeg``, a quality
    (none). An entry that is None (YAML's ``~``) counts as not given: a file can take back what its ``base`` says.

    Raises:
        InputError: an unknown, missing, negative or non-numeric entry.
    """
    if not isinstance(degradation, dict):
        raise InputError(f"degradation is {degradation!r}, but a benchmark needs a mapping such as {{sigma: 1.2}}")
    degradation = {key: value for key, value in degradation.items() if value is not None}
    for key, value in degradation.items():
        if key not in _DEGRADATION_KEYS:
            raise InputError(f"degradation has an unknown entry {key!r}{did_you_mean(str(key), _DEGRADATION_KEYS)}")
        if key == "downsample":
            if value not in DOWNSAMPLERS:
                raise InputError(f"degradation downsample is {value!r}, but must be one of {', '.join(DOWNSAMPLERS)}")
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise InputError(f"degradation {key} is {value!r}, but must be a number")
    quality = degradation.get("jpeg")
    if quality is not None and not (1 <= quality <= 100 and quality == int(quality)):
        raise InputError(f"degradation jpeg is {quality!r}, but must be a whole number, a quality from 1 to 100")
    kernel = {key: float(degradation[key]) for key in ("sigma", "sigma_x", "sigma_y", "theta") if key in degradation}
    if not kernel and "downsample" in degradation:
        kernel = {"sigma": NO_BLUR}
    if kernel.keys() == {"sigma"}:
        kernel = {"sigma_x": kernel["sigma"], "sigma_y": kernel["sigma"], "theta": 0.0}
    if kernel.keys() != {"sigma_x", "sigma_y", "theta"}:
        raise InputError(f"degradation is {degradation!r}, but needs either sigma, or sigma_x, sigma_y and theta")
    noise_sigma = float(degradation.get("noise_sigma", 0.0))
    if min(kernel["sigma_x"], kernel["sigma_y"]) <= 0 or noise_sigma < 0:
        raise InputError(f"degradation is {degradation!r}, but kernel widths must be positive and noise not negative")
    return PhotoParameters(
        sigma_x=kernel["sigma_x"],
        sigma_y=kernel["sigma_y"],
        theta=math.radians(kernel["theta"]),
        how=degradation.get("downsample", "bicubic"),
        noise_sigma=noise_sigma,
        poisson=False,
        gray=False,
        quality=None if quality is None else int(quality),
    )


def benchmark_noise(name: str, degradation: PhotoParameters, size: tuple[int, int, int]) -> Tensor | None:
    """The noise that a benchmark adds: a function of image name and degradation alone, drawn on the CPU.

    Args:
        name: of the image, without folder and suffix.
        degradation: as ``parse_fixed_degradation`` returns it.
        size: (3, h, w) of the LR image.

    Returns:
        (3, h, w) float32 on the 0-255 scale, or None without noise.
    """
    if not degradation.noise_sigma:
        return None
    parts = dict(
        noise_sigma=degradation.noise_sigma,
        sigma_x=degradation.sigma_x,
        sigma_y=degradation.sigma_y,
        theta=math.degrees(degradation.theta),
    )
    label = "|".join([name, *(f"{key}={value:g}" for key, value in parts.items())])
    # numpy's RandomState is frozen: the same numbers with every version and on every machine.
    noise = np.random.RandomState(zlib.crc32(label.encode())).standard_normal(size)
    return torch.from_numpy(noise * degradation.noise_sigma).float()


def degrade_fixed(gt: Tensor, degradation: PhotoParameters, noise: Tensor | None, *, scale: int) -> Tensor:
    """Blur, down-sample, add noise, round and compress, each as far as the degradation says.

    Args:
        gt: (B, 3, H, W) in [0, 1], H and W multiples of ``scale``.
        degradation: of all images.
        noise: (B, 3, H / scale, W / scale) on the 0-255 scale, or None.

    Returns:
        (B, 3, H / scale, W / scale) in [0, 1], multiples of 1/255.
    """
    lq = degrade(gt, degradation.kernel().expand(len(gt), -1, -1), noise, scale=scale, how=degradation.how)
    if degradation.quality is None:
        return lq
    return jpeg((lq * 255.0).round(), degradation.quality) / 255.0


@DATASET_REGISTRY.register()
class BlindBenchmarkDataset(Dataset):
    """Whole HR images and their LR images under one fixed degradation.

    Options:
        dataroot_gt, io_backend, meta_info_file: as in ``DegradationPriorDataset``.
        degradation: ``{sigma: 1.2}``, or ``{sigma_x: 2, sigma_y: 0.5, theta: 30, noise_sigma: 5}`` with widths in HR
            pixels, the angle in degrees and the noise on the 0-255 scale; for photographs also ``downsample: area`` and
            ``jpeg: 75`` (``parse_fixed_degradation``).

    Items:
        lq: (3, h, w) float32 in [0, 1], multiples of 1/255.
        gt: (3, h * scale, w * scale) float32 in [0, 1], cropped at the bottom right.
        kernel: (21, 21) float32; noise_sigma: () float32; photo: (4,) float32 (``PhotoParameters``), for a teacher.
        lq_path, gt_path: path of the HR image.

    Raises:
        InputError: wrong options, or an image that is missing, unreadable or smaller than the blur kernel's border.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt
        self.scale: int = opt["scale"]
        self.degradation = parse_fixed_degradation(opt["degradation"])
        self.images = _images(opt)
        self.kernel = self.degradation.kernel()  # (1, 21, 21)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, path = self.check_item(index), self.images.path(index)
        height, width = image.shape[:2]
        gt = _to_tensor(image).float() / 255.0
        size = (3, height // self.scale, width // self.scale)
        noise = benchmark_noise(self.images.names[index], self.degradation, size)
        lq = degrade_fixed(gt[None], self.degradation, None if noise is None else noise[None], scale=self.scale)[0]
        return {
            "lq": lq,
            "gt": gt,
            "kernel": self.kernel[0],
            "noise_sigma": torch.tensor(self.degradation.noise_sigma),
            "photo": self.degradation.scalars(),
            "lq_path": path,
            "gt_path": path,
        }

    def check_item(self, index: int) -> np.ndarray:
        """Read an image, (H, W, 3) uint8, RGB, cropped to the scale; raises InputError where it cannot be used."""
        image = self.images.read(index)
        height, width = (side // self.scale * self.scale for side in image.shape[:2])
        if min(height, width) <= self.kernel.shape[-1] // 2:
            raise InputError(
                f"image {self.images.path(index)!r} is {image.shape[1]}x{image.shape[0]}, too small to be blurred by a"
                " 21x21 kernel"
            )
        return image[:height, :width]
