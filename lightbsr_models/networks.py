"""Register the networks in BasicSR: ours, which know nothing of it, and bicubic interpolation as a baseline."""

import torch
from basicsr.utils.matlab_functions import imresize
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from lightbsr_arch import KDSR, KDSRTeacher, LightBSR, LightBSRTeacher
from lightbsr_compat import register

for _network in (LightBSR, LightBSRTeacher, KDSR, KDSRTeacher):
    register(ARCH_REGISTRY)(_network)


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
