"""Faster forms of LightBSR's blocks for the CPU: the same parameters, and the same results up to rounding.

``use_cpu_kernels`` puts them into a network. On a GPU, in a traced or compiled graph, and under autocast unless it is
inference in bfloat16 they fall back to the plain forms. Gradients of gradients need the plain forms too.
"""

import functools
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .idr import IDR
from .layers import ConvNeXtBranch
from .lightbsr_arch import IDRModulation
from .pooling import Pool, global_average

Network = TypeVar("Network", bound=nn.Module)


def use_cpu_kernels(network: Network) -> Network:
    """Give the blocks of a network, in place, their CPU form; the state dict keeps its keys.

    Returns:
        The network itself.
    """
    forms = {ConvNeXtBranch: CPUConvNeXtBranch, IDRModulation: CPUIDRModulation}
    for module in network.modules():
        module.__class__ = forms.get(type(module), type(module))
    return network


def _falls_back(x: Tensor) -> bool:
    if torch.jit.is_tracing() or torch.compiler.is_compiling() or x.device.type != "cpu":
        return True
    if torch.is_autocast_enabled("cpu"):
        return torch.is_grad_enabled() or torch.get_autocast_dtype("cpu") != torch.bfloat16
    return False


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """A linear layer and its activation (``none`` or ``gelu``) without gradients: (..., n) -> (..., m)."""
    if torch.is_autocast_enabled("cpu"):
        x, weight = x.bfloat16(), weight.bfloat16()
        bias = None if bias is None else bias.bfloat16()
    if _fused(x.dtype):
        # One call of oneDNN, as torch.compile makes it: the activation is applied before the result leaves the cache.
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")
    x = F.linear(x, weight, bias)
    return F.gelu(x) if activation == "gelu" else x


@functools.cache
def _fused(dtype: torch.dtype) -> bool:
    """Whether oneDNN has fast linear layers of a type for this CPU."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Depthwise7x7(torch.autograd.Function):
    """A depthwise 7x7 convolution with padding 3: (B, n, h, w), kernels (n, 1, 7, 7), bias (n,) -> (B, n, h, w).

    oneDNN's fast gradient of depthwise kernels is for at most three columns, so theirs is computed in three parts.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, kernels)
        return F.conv2d(x, kernels, bias, padding=3, groups=len(kernels))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, kernels = ctx.saved_tensors

        def gradients(x: Tensor, kernels: Tensor, columns_padded: int, wanted: list[bool]) -> tuple[Tensor, ...]:
            constants = ([1, 1], [3, columns_padded], [1, 1], False, [0, 0], len(kernels))
            return torch.ops.aten.convolution_backward(grad, x, kernels, None, *constants, wanted)

        padded, only_kernels = F.pad(x, (3, 3)), [False, True, False]
        parts = [
            gradients(padded[..., :-5], kernels[..., :2], 0, only_kernels)[1],
            gradients(x, kernels[..., 2:5], 1, only_kernels)[1],
            gradients(padded[..., 5:], kernels[..., 5:], 0, only_kernels)[1],
        ]
        x_grad = gradients(x, kernels, 3, [True, False, False])[0]
        return x_grad, torch.cat(parts, dim=3), grad.sum((0, 2, 3))


class CPUConvNeXtBranch(ConvNeXtBranch):
    """The layer scale multiplies the weights of the last linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        if _falls_back(x):
            return super().forward(x)
        weight, bias = self.layer_scale[:, None] * self.reduce.weight, self.layer_scale * self.reduce.bias
        if torch.is_grad_enabled():
            x = _Depthwise7x7.apply(x, self.depthwise.weight, self.depthwise.bias).permute(0, 2, 3, 1)
            x = self.act(self.expand(self.norm(x)))
            return F.linear(x, weight, bias).permute(0, 3, 1, 2)
        x = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        x = _linear(x, self.expand.weight, self.expand.bias, "gelu")
        return _linear(x, weight, bias).permute(0, 3, 1, 2)


class CPUIDRModulation(IDRModulation):
    """Inference writes both parts into their place; the gate's 1x1 convolution is a linear layer."""

    def forward(self, x: Tensor, idr: IDR, pool: Pool = global_average) -> Tensor:
        if _falls_back(x) or torch.is_grad_enabled():
            return super().forward(x, idr, pool)
        part, rest = x.split(self.widths, dim=1)
        out = torch.empty_like(x)
        part_out, rest_out = out.split(self.widths, dim=1)
        if self.spatial_gate is not None:
            pointwise: Any = self.spatial_gate[0]
            joined = torch.cat([idr.spatial, part], dim=1).permute(0, 2, 3, 1)
            gate = _linear(joined, pointwise.weight.flatten(1), None, "gelu").permute(0, 3, 1, 2)
            part = self.spatial_gate[2:](gate).mul_(part)
        part_out.copy_(self.partial_conv(part))
        if self.channel_gate is None:
            rest_out.copy_(rest)
        else:
            gate = self.channel_gate(torch.cat([pool(rest), idr.channel], dim=1))  # (B, 48)
            torch.mul(rest, gate[:, :, None, None], out=rest_out)
        return out
