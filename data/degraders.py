"""From a batch of a dataset to what a model trains on: LR images, made on the training device, and their prior.

One class for each kind of dataset; all are called alike, so that the models need not know which one they have.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightbsr_compat import InputError, did_you_mean, require_basicsr

from .degradations import ClassicDegradation
from .priors import SECOND_ORDER_PRIOR_CHANNELS, classic_as_second_order, degradation_prior, second_order_prior
from .second_order import PairPool, SecondOrderDegradation, parse_orders
from .settings import SETTINGS, DegradationSetting, get_setting

REAL_WORLD = "real_world"  # the name of Real-ESRGAN's setting, as option files and teachers have it


class TrainingBatch(NamedTuple):
    """A batch to train on, on the model's device.

    Attributes:
        lq: (B, D, 3, h, w) in [0, 1]: D views that share their image's degradation.
        gt: (B, 3, H, W) in [0, 1]: the HR image of view 0.
        prior: (B, P), or None where no kernel basis was given.
        sharpened_gt: (B, 3, H, W), or None where no loss asks for it.
    """

    lq: Tensor
    gt: Tensor
    prior: Tensor | None
    sharpened_gt: Tensor | None = None


class ClassicDegrader:
    """Batches of ``DegradationPriorDataset``; photographs have their LR images from there already.

    Args:
        setting: as ``get_setting`` returns it.
        scale: 2, 3 or 4.

    Attributes:
        name: of the setting, as option files and teachers have it.
        num_prior_channels: length P of the prior.
    """

    def __init__(self, setting: DegradationSetting, *, scale: int) -> None:
        self.setting = setting
        self.name = setting.name
        self.num_prior_channels = setting.num_prior_channels
        self.degradation = ClassicDegradation(scale=scale)

    def __call__(self, data: dict[str, Any], device: torch.device, basis: Tensor | None) -> TrainingBatch:
        """Degrade a batch of HR views, gt (B, D, 3, H, W) uint8; ``basis`` (441, 15) is what the prior is made with."""
        gt = data["gt"].to(device, non_blocking=True).float() / 255.0
        kernel, noise_sigma = data["kernel"].to(device), data["noise_sigma"].to(device)
        prior = None
        if basis is not None:
            photo = None if self.setting.is_classic else data["photo"].to(device)
            prior = degradation_prior(kernel, noise_sigma, basis=basis, setting=self.setting, photo=photo)
        if self.setting.is_classic:
            lq = self.degradation(gt, kernel, noise_sigma if self.setting.has_noise else None)
        else:
            lq = data["lq_views"].to(device, non_blocking=True).float() / 255.0
        return TrainingBatch(lq, gt[:, 0], prior)


def unsharp_mask() -> nn.Module:
    """BasicSR's USM sharpening of images (B, 3, H, W) in [0, 1]."""
    require_basicsr("USM sharpening")
    from basicsr.utils import USMSharp

    return USMSharp()


def paired_crops(
    gt: Tensor, lq: Tensor, *, gt_size: int, num_views: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random crops of HR images and the same places of their LR images, on the LR image's grid.

    Args:
        gt: (B, 3, H, W).
        lq: (B, 3, H / scale, W / scale).
        gt_size: side of an HR crop, a multiple of the scale.
        num_views: D.
        generator: on the CPU.

    Returns:
        gt (B, D, 3, gt_size, gt_size), lq (B, D, 3, gt_size / scale, gt_size / scale)
    """
    batch, _, height, width = lq.shape
    scale = gt.shape[-1] // width
    size = gt_size // scale
    tops = torch.randint(height - size + 1, (batch, num_views), generator=generator).tolist()
    lefts = torch.randint(width - size + 1, (batch, num_views), generator=generator).tolist()

    def crop(images: Tensor, step: int) -> Tensor:
        return torch.stack(
            [
                torch.stack(
                    [
                        image[:, top * step : (top + size) * step, left * step : (left + size) * step]
                        for top, left in zip(*places, strict=True)
                    ]
                )
                for image, *places in zip(images, tops, lefts, strict=True)
            ]
        )

    return crop(gt, scale), crop(lq, 1)


class RealWorldDegrader:
    """Batches of BasicSR's ``RealESRGANDataset``: Real-ESRGAN's second-order degradation, crops, pair pool.

    The views of an image are independent crops of its one LR image, so they share its degradation. Options, of
    ``datasets: train``: ``gt_size``, ``num_views`` (1), ``second_order``, ``pool_size`` (180; 0 for none).

    Args:
        dataset_opt: ``datasets: train`` of an option file.
        scale: 2, 3 or 4.
        sharpen: whether the HR images are sharpened before they are degraded (the returned ones never are).

    Attributes:
        name, num_prior_channels: as of ``ClassicDegrader``.

    Raises:
        InputError: an option that is out of its range.
    """

    name = REAL_WORLD
    num_prior_channels = SECOND_ORDER_PRIOR_CHANNELS

    def __init__(self, dataset_opt: dict[str, Any], *, scale: int, sharpen: bool) -> None:
        self.gt_size: int = dataset_opt.get("gt_size") or 0  # BasicSR's data set can do without
        self.num_views: int = dataset_opt.get("num_views", 1)
        if not 0 < self.gt_size <= 400 or self.gt_size % scale:
            raise InputError(
                f"gt_size is {self.gt_size or '~'}, but must be a multiple of the scale, {scale}, and at most the 400"
                " pixels that RealESRGANDataset gives"
            )
        if self.num_views < 1:
            raise InputError(f"num_views is {self.num_views}, but must be at least 1")
        first, second = parse_orders(dataset_opt.get("second_order"))
        self.degradation = SecondOrderDegradation(scale=scale, first=first, second=second)
        self.pool = PairPool(size=dataset_opt.get("pool_size", 180), batch=dataset_opt["batch_size_per_gpu"])
        self._sharpener = unsharp_mask() if sharpen else None

    @torch.no_grad()
    def __call__(self, data: dict[str, Any], device: torch.device, basis: Tensor | None) -> TrainingBatch:
        """Degrade a batch of HR images, gt (B, 3, 400, 400) in [0, 1], with their kernel1, kernel2, sinc_kernel."""
        # One draw of torch's own generator seeds all of a batch's.
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        gt = data["gt"].to(device, non_blocking=True)
        source = gt if self._sharpener is None else self._sharpener.to(device)(gt)
        kernel1, kernel2, sinc_kernel = (data[name].to(device) for name in ("kernel1", "kernel2", "sinc_kernel"))
        lq, parameters = self.degradation(source, kernel1, kernel2, sinc_kernel, generator)
        gt, lq = paired_crops(gt, lq, gt_size=self.gt_size, num_views=self.num_views, generator=generator)
        together = [lq, gt[:, 0]]
        if basis is not None:
            together.append(second_order_prior(parameters, basis=basis))
        lq, gt, *prior = self.pool(*together, generator=generator)
        return TrainingBatch(lq, gt, prior[0] if prior else None)


Degrader = ClassicDegrader | RealWorldDegrader


def build_degrader(opt: dict[str, Any]) -> Degrader:
    """The degrader of ``datasets: train: degradation`` of an option file.

    Raises:
        InputError: no such setting, a dataset that does not go with it, or options that are out of their range.
    """
    dataset_opt = opt["datasets"]["train"]
    name, dataset = dataset_opt.get("degradation"), dataset_opt["type"].removesuffix("_basicsr")
    known = {**dict.fromkeys(SETTINGS, "DegradationPriorDataset"), REAL_WORLD: "RealESRGANDataset"}
    if isinstance(name, str) and name not in known:
        raise InputError(f"degradation is {name!r}, but must be the name of a setting{did_you_mean(name, known)}")
    needed = known[name] if isinstance(name, str) else "DegradationPriorDataset"
    if dataset != needed:
        raise InputError(f"datasets: train: type is {dataset!r}, but degradation {name!r} needs {needed!r}")
    sharpen = bool(opt["train"].get("usm_targets"))
    if name == REAL_WORLD:
        return RealWorldDegrader(dataset_opt, scale=opt["scale"], sharpen=sharpen)
    if sharpen:
        raise InputError(f"usm_targets is given, but belongs to degradation {REAL_WORLD!r} alone, not to {name!r}")
    return ClassicDegrader(get_setting(name), scale=opt["scale"])


def benchmark_prior(
    setting: str, kernel: Tensor, noise_sigma: Tensor, *, basis: Tensor, photo: Tensor | None = None
) -> Tensor:
    """The prior that a teacher of ``setting`` is shown for an image of ``BlindBenchmarkDataset``.

    Args:
        setting: a name that ``get_setting`` takes, or ``real_world``.
        kernel: (B, 21, 21).
        noise_sigma: (B,) on the 0-255 scale.
        basis: (441, 15), the teacher's.
        photo: (B, 4), as of ``degradation_prior``.

    Returns:
        (B, P)
    """
    if setting == REAL_WORLD:
        return second_order_prior(classic_as_second_order(kernel, noise_sigma), basis=basis)
    return degradation_prior(kernel, noise_sigma, basis=basis, setting=get_setting(setting), photo=photo)
