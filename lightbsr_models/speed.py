"""What training can trade: memory against time (checkpointing, accumulation), the first steps' time against the rest's.

The networks know nothing of it. None of this changes what is computed but for the order of sums: checkpointing not even
that. What it gains: docs/performance.md.
"""

import functools
import importlib.util
import os
import shutil
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightbsr_compat import InputError


def sr_parts(network: Any) -> list[nn.Module]:
    """The parts that an SR network's body consists of: LightBSR's groups, KDSR's blocks."""
    body = network.sr_network
    return list(body.groups if hasattr(body, "groups") else body.blocks)


def checkpoint_activations(network: nn.Module) -> None:
    """Let every part of the SR network keep its input alone for the backward pass, and compute the rest again there.

    The estimators are left out: what runs twice would move BatchNorm's statistics twice.
    """
    for part in sr_parts(network):
        # Nothing in them is random.
        part.forward = functools.partial(checkpoint, part.forward, use_reentrant=False, preserve_rng_state=False)  # type: ignore[method-assign]


def compile_blocks(network: nn.Module) -> None:
    """Compile the SR network's blocks: they are alike, so that one graph serves all; names of weights stay."""
    for part in sr_parts(network):
        for block in getattr(part, "blocks", [part]):
            block.compile()


def micro_batch(value: Any, number: int, count: int) -> Any:
    """Part ``number`` of ``count`` equal ones of a tensor (B, ...), or of every tensor of a NamedTuple."""
    if isinstance(value, tuple):
        return type(value)(*(micro_batch(entry, number, count) for entry in value))
    assert isinstance(value, Tensor)
    return value.chunk(count)[number]


def check_accumulate(opt: dict[str, Any]) -> None:
    """Raise InputError where ``train: accumulate`` does not divide the batch of a process."""
    count, batch = opt["train"].get("accumulate") or 1, opt["datasets"]["train"]["batch_size_per_gpu"]
    if count < 1 or batch % count:
        raise InputError(f"train: accumulate is {count}, but must divide batch_size_per_gpu, {batch}")


def check_compile(opt: dict[str, Any]) -> None:
    """Raise InputError where ``train: compile`` asks for what PyTorch could not do here."""
    if not opt["train"].get("compile"):
        return
    if opt["num_gpu"] == 0:
        if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "c++", "clang++", "cl"))):
            raise InputError("train: compile is true, but no C++ compiler is found, which it needs on the CPU")
    elif importlib.util.find_spec("triton") is None:
        raise InputError("train: compile is true, but the package triton is not installed, which it needs on a GPU")
