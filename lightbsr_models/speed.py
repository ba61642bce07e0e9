"""Activation checkpointing, the blocks that ``torch.compile`` compiles, and the layout of an optimizer's moments."""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def sr_parts(network: Any) -> list[nn.Module]:
    """The parts that an SR network's body consists of: LightBSR's groups, KDSR's blocks."""
    body = network.sr_network
    return list(body.groups if hasattr(body, "groups") else body.blocks)


def sr_blocks(network: Any) -> list[nn.Module]:
    """The blocks of an SR network; they are alike, so that one compiled graph serves all."""
    return [block for part in sr_parts(network) for block in getattr(part, "blocks", [part])]


def checkpoint_activations(network: nn.Module) -> None:
    """Checkpoint the activations of the SR network's parts: each keeps its input and is run again in the backward pass.

    The estimators are left out: what runs twice would move BatchNorm's statistics twice.
    """
    for part in sr_parts(network):
        # Nothing in them is random.
        part.forward = functools.partial(checkpoint, part.forward, use_reentrant=False, preserve_rng_state=False)  # type: ignore[method-assign]


def lay_out_moments(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer's moments the layout of their weights, which fused Adam takes for granted.

    A state that was saved under another ``channels_last``, or on another kind of device, has another layout.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                state[name] = torch.empty_like(weight, dtype=value.dtype, requires_grad=False).copy_(value)
