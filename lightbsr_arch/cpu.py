"""A faster form of the ConvNeXt branch for the CPU: the same parameters, and the same results up to rounding.

``use_cpu_kernels`` puts it into a network. On a GPU, under autocast and in a traced or compiled graph it falls back to
the plain form.
"""

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import ConvNeXtBranch

Network = TypeVar("Network", bound=nn.Module)

STRIP = 4096  # pixels at a time: their 128 features, 2 MiB of float32, stay in a core's cache


def use_cpu_kernels(network: Network) -> Network:
    """Give the ConvNeXt branches of a network, in place, their CPU form; the state dict keeps its keys.

    Returns:
        The network itself.
    """
    for module in network.modules():
        if type(module) is ConvNeXtBranch:
            module.__class__ = CPUConvNeXtBranch
    return network


class CPUConvNeXtBranch(ConvNeXtBranch):
    """The layer scale multiplies the weights; inference works on strips of pixels that stay in the cache."""

    def forward(self, x: Tensor) -> Tensor:
        graph = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if graph or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        weight, bias = self.layer_scale[:, None] * self.reduce.weight, self.layer_scale * self.reduce.bias
        if torch.is_grad_enabled():
            # The bias is added by itself: its gradient within oneDNN's depthwise convolution is slow.
            kernels, shift = self.depthwise.weight, self.depthwise.bias
            assert shift is not None
            x = F.conv2d(x, kernels, padding=3, groups=len(kernels)) + shift[:, None, None]
            return F.linear(self._expanded(x.permute(0, 2, 3, 1)), weight, bias).permute(0, 3, 1, 2)
        x = self.depthwise(x).permute(0, 2, 3, 1).contiguous()  # (B, h, w, n)
        out = torch.empty_like(x)
        strips = (tensor.flatten(0, 2).split(STRIP) for tensor in (x, out))
        for pixels, result in zip(*strips, strict=True):  # (STRIP, n)
            torch.addmm(bias, self._expanded(pixels), weight.T, out=result)
        return out.permute(0, 3, 1, 2)

    def _expanded(self, x: Tensor) -> Tensor:
        return self.act(self.expand(self.norm(x)))  # (..., n) -> (..., 2n)
