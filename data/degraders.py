"""From a batch of a dataset to what a model trains on: LR images, made on the training device, and their prior.

One class for each kind of dataset; all are called alike, so that the models need not know which one they have.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .degradations import ClassicDegradation
from .priors import degradation_prior
from .settings import DegradationSetting, get_setting


class TrainingBatch(NamedTuple):
    """What a model trains on, on its device.

    Attributes:
        lq: (B, D, 3, h, w) in [0, 1]: D views that share their image's degradation.
        gt: (B, 3, H, W) in [0, 1]: the HR image of view 0.
        prior: (B, P), or None where no kernel basis was given.
    """

    lq: Tensor
    gt: Tensor
    prior: Tensor | None


class ClassicDegrader:
    """Batches of ``DegradationPriorDataset``: blur, bicubic down-sampling, noise.

    Args:
        setting: one of ``SETTINGS``.
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
            prior = degradation_prior(kernel, noise_sigma, basis=basis, setting=self.setting)
        return TrainingBatch(self.degradation(gt, kernel, noise_sigma), gt[:, 0], prior)


def build_degrader(opt: dict[str, Any]) -> ClassicDegrader:
    """The degrader of ``datasets: train: degradation`` of an option file.

    Raises:
        InputError: no such setting.
    """
    return ClassicDegrader(get_setting(opt["datasets"]["train"]["degradation"]), scale=opt["scale"])
