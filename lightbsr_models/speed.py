"""Activation checkpointing, and the blocks that ``torch.compile`` compiles; the networks know nothing of either."""

import functools
from typing import Any

from torch import nn
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
