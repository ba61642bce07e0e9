"""Counts instead of seconds: forward passes, operators, copied bytes, bytes kept for the backward pass."""

import contextlib
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

_COPIES = ("clone", "copy_", "_to_copy")


class OperatorCounter(TorchDispatchMode):
    """Counts what PyTorch computes within a with-block.

    Attributes:
        calls: by the operator's name, such as ``convolution``.
        copied_bytes: written by operators that compute nothing: clones, copies, conversions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.copied_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.calls[name] += 1
        if name in _COPIES and isinstance(result, Tensor):
            self.copied_bytes += result.nbytes
        return result


@contextlib.contextmanager
def forward_passes(network: nn.Module) -> Iterator[Counter[str]]:
    """How often each direct part of a network is run within the block, by its name."""
    passes: Counter[str] = Counter()
    handles = [
        part.register_forward_hook(lambda *_, name=name: passes.update([name]))
        for name, part in network.named_children()
    ]
    yield passes
    for handle in handles:
        handle.remove()


@contextlib.contextmanager
def kept_bytes() -> Iterator[list[int]]:
    """What a forward pass keeps for its backward pass: a list whose one entry is the bytes, each storage once.

    Weights are among them.
    """
    storages: dict[int, int] = {}
    result = [0]

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()  # kept, so that no other can take its address
        result[0] = sum(storages.values())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield result


def _convolution_backward(*shapes_and_options: Any, **_: Any) -> int:
    """Operations of a convolution's gradients; PyTorch's own count forgets the groups of the weight's gradient."""
    grad_out, x, weight, _bias, _stride, _padding, _dilation, transposed, _extra, _groups, mask = shapes_and_options
    places = math.prod((x if transposed else grad_out)[2:])
    return 2 * grad_out[0] * places * math.prod(weight) * sum(mask[:2])


def gmacs(function: Any) -> float:
    """Multiply-accumulates in 1e9 of convolutions and matrix products, forwards and backwards, in one call."""
    formulas = {torch.ops.aten.convolution_backward: _convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        function()
    return counter.get_total_flops() / 2 / 1e9
