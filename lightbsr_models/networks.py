"""Register the networks in BasicSR: ours, an ablation's test network, and bicubic interpolation as a baseline."""

from typing import Any

import torch
from basicsr.utils.matlab_functions import imresize
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from lightbsr_arch import IDR, KDSR, KDSRTeacher, LightBSR, LightBSRTeacher
from lightbsr_compat import register

for _network in (LightBSR, LightBSRTeacher, KDSR, KDSRTeacher):
    register(ARCH_REGISTRY)(_network)


@register(ARCH_REGISTRY)
class LightBSRWithEstimatorNoise(LightBSR):
    """LightBSR with uniform noise, [0, estimator_noise), on the estimator's output: Table 2's rows ``-``, for testing.

    The noise is the same for all images of a size. Shows whether the SR network depends on the estimator at all.

    Args:
        estimator_noise: amplitude.
        sizes: those of ``LightBSR``, whose weights it loads.
    """

    def __init__(self, *, estimator_noise: float = 1.0, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.estimator_noise = estimator_noise

    def estimate_idr(self, lq: Tensor) -> IDR:
        h, w = lq.shape[-2:]
        features = self.estimator(lq)
        noise = torch.rand(features.shape[1:], generator=torch.Generator().manual_seed(0))
        return self.converter(features + self.estimator_noise * noise.to(features), (h, w))


@register(ARCH_REGISTRY)
class Bicubic(nn.Module):
    """Bicubic interpolation as a network without weights: the baseline of every table.

    Args:
        upscale: whole factor.

    Shape:
        (B, 3, h, w) in [0, 1] -> (B, 3, h * upscale, w * upscale), not clamped; MATLAB's imresize by BasicSR.
    """

    def __init__(self, *, upscale: int = 4) -> None:
        super().__init__()
        self.upscale = upscale

    def forward(self, lq: Tensor) -> Tensor:
        return torch.stack([imresize(image.cpu(), self.upscale) for image in lq]).to(lq)
