"""Cost of networks: parameters, multiply-accumulates and milliseconds, measured side by side."""

import copy
import math
import statistics
import time
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .methods import Method
from .protocols import Size

_ROUNDS = 5


def count_gmacs(network: nn.Module, lr_size: Sequence[int]) -> float:
    """Multiply-accumulates in 1e9 of an LR image of (height, width): half of PyTorch's count of floating operations.

    Convolutions and matrix products count. The network runs on the meta device: nothing is computed.
    """
    network = copy.deepcopy(network).to("meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.empty(1, 3, *lr_size, device="meta"))
    return counter.get_total_flops() / 2 / 1e9


def _milliseconds(network: nn.Module, lq: torch.Tensor) -> float:
    start = time.perf_counter()
    try:
        network(lq)
    except torch.OutOfMemoryError:  # the scores are good all the same
        return math.nan
    if lq.is_cuda:
        torch.cuda.synchronize(lq.device)
    return 1e3 * (time.perf_counter() - start)


@torch.inference_mode()
def measure(
    methods: Sequence[Method], device: torch.device, *, lr_size: Sequence[int], speed_size: Sequence[int]
) -> dict[str, Size]:
    """The cost of every method that has a network, by its name.

    The networks take turns, so that a machine that gets slower on the way does so for all of them.

    Args:
        methods: networks are on ``device``.
        device: where they run.
        lr_size: (height, width) of the LR image that multiply-accumulates are counted for.
        speed_size: (height, width) of the LR image that is timed.
    """
    networks = {method.name: method.network for method in methods if method.network is not None}
    lq = torch.rand(1, 3, *speed_size, generator=torch.Generator().manual_seed(0)).to(device)
    # The first round warms up.
    rounds = [{name: _milliseconds(network, lq) for name, network in networks.items()} for _ in range(_ROUNDS + 1)]
    return {
        name: Size(
            parameters=sum(p.numel() for p in network.parameters() if p.requires_grad) / 1e6,
            gmacs=count_gmacs(network, lr_size),
            milliseconds=statistics.median(times[name] for times in rounds[1:]),
        )
        for name, network in networks.items()
    }
