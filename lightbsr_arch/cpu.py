"""Faster forms of LightBSR's blocks and of EDSR's tail for the CPU: the same parameters, and the same results up to
rounding.

``use_cpu_kernels`` puts them into a network. On a GPU and in a traced or compiled graph they fall back to the plain
forms, blocks also under autocast unless it is inference in bfloat16. Gradients of gradients need the plain forms too.
"""

import functools
import math
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .idr import IDR
from .layers import ConvNeXtBranch, PixelShuffleTail
from .lightbsr_arch import IDRAdaptationBlock, IDRModulation
from .pooling import Pool, global_average

Network = TypeVar("Network", bound=nn.Module)


def use_cpu_kernels(network: Network) -> Network:
    """Give the blocks and the tail of a network, in place, their CPU form; the state dict keeps its keys.

    Returns:
        The network itself.
    """
    forms: dict[type[nn.Module], type[nn.Module]] = {
        ConvNeXtBranch: CPUConvNeXtBranch,
        IDRModulation: CPUIDRModulation,
        IDRAdaptationBlock: CPUIDRAdaptationBlock,
        PixelShuffleTail: CPUPixelShuffleTail,
    }
    for module in network.modules():
        module.__class__ = forms.get(type(module), type(module))
    return network


def _in_graph_or_on_gpu(x: Tensor) -> bool:
    return torch.jit.is_tracing() or torch.compiler.is_compiling() or x.device.type != "cpu"


def _falls_back(x: Tensor) -> bool:
    if _in_graph_or_on_gpu(x):
        return True
    if torch.is_autocast_enabled("cpu"):
        return torch.is_grad_enabled() or torch.get_autocast_dtype("cpu") != torch.bfloat16
    return False


def _linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none", shortcut: Tensor | None = None
) -> Tensor:
    """A linear layer without gradients, (..., n) -> (..., m), then an activation (``none``, ``gelu``) or a shortcut.

    One call of oneDNN where it can, so that either is applied before the result leaves the cache.
    """
    if torch.is_autocast_enabled("cpu"):
        x, weight = x.bfloat16(), weight.bfloat16()
        bias = None if bias is None else bias.bfloat16()
    if _fused(x.dtype) and shortcut is not None and shortcut.dtype == x.dtype:
        return torch.ops.mkldnn._linear_pointwise.binary(x, shortcut, weight, bias, "add")
    if _fused(x.dtype):
        x = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")
    else:
        x = F.linear(x, weight, bias)
        x = F.gelu(x) if activation == "gelu" else x
    return x if shortcut is None else shortcut + x


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

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        if _falls_back(x):
            return super().forward(x, shortcut)
        weight, bias = self.layer_scale[:, None] * self.reduce.weight, self.layer_scale * self.reduce.bias
        if torch.is_grad_enabled():
            x = _Depthwise7x7.apply(x, self.depthwise.weight, self.depthwise.bias).permute(0, 2, 3, 1)
            x = self.act(self.expand(self.norm(x)))
            return shortcut + F.linear(x, weight, bias).permute(0, 3, 1, 2)
        x = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        x = _linear(x, self.expand.weight, self.expand.bias, "gelu")
        return _linear(x, weight, bias, shortcut=shortcut.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class CPUIDRModulation(IDRModulation):
    """Inference writes both parts into their place; the gate's 1x1 convolution is a linear layer."""

    def forward(self, x: Tensor, idr: IDR, pool: Pool = global_average) -> Tensor:
        if _falls_back(x) or torch.is_grad_enabled():
            return super().forward(x, idr, pool)
        part, rest = x.split(self.widths, dim=1)
        part = part.clone()  # read twice, faster where its pixels are not apart
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
            # The mean over pixels that are not apart is faster, even with the channels that it does not need.
            pooled = global_average(x)[:, self.widths[0] :] if pool is global_average else pool(rest)
            gate = self.channel_gate(torch.cat([pooled, idr.channel], dim=1))  # (B, 48)
            torch.mul(rest, gate[:, :, None, None], out=rest_out)
        return out


class CPUIDRAdaptationBlock(IDRAdaptationBlock):
    """Inference applies the GELU in place."""

    def forward(self, x: Tensor, idr: IDR, pool: Pool = global_average) -> Tensor:
        if _falls_back(x) or torch.is_grad_enabled():
            return super().forward(x, idr, pool)
        return self.branch(torch.ops.aten.gelu_(self.modulation(x, idr, pool)), x)


class CPUPixelShuffleTail(PixelShuffleTail):
    """The tail, which has no activation, as one 5x5 convolution at the LR image's size and one PixelShuffle.

    Only next to the borders, where every convolution pads its own input with zeros, it is computed layer by layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        if _in_graph_or_on_gpu(x) or min(x.shape[2:]) < self._rows_needed()[0]:
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            kernel, bias = self._one_convolution()
        out = F.pixel_shuffle(F.conv2d(x, kernel, bias, padding=2), math.isqrt(len(kernel) // 3))
        for dim in (2, 3):
            first, last = self._border(x, dim, at_end=False), self._border(x, dim, at_end=True)
            n = first.shape[dim]
            out = torch.cat([first, out.narrow(dim, n, out.shape[dim] - 2 * n), last], dim)
        return out

    def _steps(self) -> list[tuple[Any, int]]:
        """The convolutions before the last, and the factors of the PixelShuffles that follow them."""
        layers: Any = self.upsample
        return [(conv, shuffle.upscale_factor) for conv, shuffle in zip(layers[::2], layers[1::2], strict=True)]

    def _one_convolution(self) -> tuple[Tensor, Tensor]:
        """Kernels (3 * upscale^2, n, 5, 5) and bias (3 * upscale^2,) of the convolution that the layers make up."""
        # From the last layer to the first: the layers from here on are one convolution and PixelShuffle(scale).
        kernel, bias, scale = self.conv.weight, cast(Tensor, self.conv.bias), 1
        for conv, step in reversed(self._steps()):
            side = kernel.shape[-1]
            reach = math.ceil(side // 2 / step)  # of the kernel, in pixels before this PixelShuffle
            free = (2 * reach + 1) * step - side
            starts = range(reach * step - side // 2, reach * step - side // 2 + step)  # where each phase's kernel lies
            phases = [F.pad(kernel, (left, free - left, top, free - top)) for top in starts for left in starts]
            kernel = torch.stack(phases).unflatten(0, (step, step)).unflatten(2, (3, scale, scale))
            kernel = kernel.permute(2, 0, 3, 1, 4, 5, 6, 7).flatten(0, 4)  # as PixelShuffle(step * scale) takes them
            kernel = F.pixel_unshuffle(kernel, step)
            bias = bias.view(3, 1, scale, 1, scale).expand(3, step, scale, step, scale).flatten()
            bias = bias + kernel.sum((2, 3)) @ conv.bias
            kernel = F.conv_transpose2d(kernel, conv.weight)
            scale *= step
        return kernel, bias

    def _rows_needed(self) -> list[int]:
        """Rows of each convolution's input next to a border of which the border's rows of the result are made."""
        wrong = 0  # rows of the result that ``_one_convolution`` does not know
        for _, step in self._steps():
            wrong = wrong * step + 1
        rows = [wrong + 1]
        for _, step in reversed(self._steps()):
            rows.insert(0, math.ceil(rows[0] / step) + 1)
        return rows

    def _border(self, x: Tensor, dim: int, *, at_end: bool) -> Tensor:
        """The rows (``dim`` 2) or columns (3) of the result next to a border, layer by layer."""
        padding = [1, 1, 1, 1]  # left, right, top, bottom: none within the image
        padding[2 * (3 - dim) + (not at_end)] = 0

        def padded(x: Tensor, rows: int) -> Tensor:
            return F.pad(x.narrow(dim, x.shape[dim] - rows if at_end else 0, rows), padding)

        *rows, last = self._rows_needed()
        for (conv, step), n in zip(self._steps(), rows, strict=True):
            x = F.pixel_shuffle(F.conv2d(padded(x, n), conv.weight, conv.bias), step)
        return F.conv2d(padded(x, last), self.conv.weight, self.conv.bias)
