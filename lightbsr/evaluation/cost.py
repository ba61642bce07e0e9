"""What a network costs: parameters, multiply-accumulates, milliseconds, memory; all networks measured side by side."""

import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .methods import Method, WeightsMethod

GMACS_SIDE = 256  # of the LR image, as papers have it
_ROUNDS = 5


@dataclass
class Cost:
    """What one method costs; None where it has no network, or where the system cannot tell.

    Attributes:
        parameters: trainable ones.
        gmacs: of convolutions and matrix products at an LR image of 256x256.
        milliseconds: median for one LR image of ``side`` x ``side``.
        peak_mib: peak memory beyond the network's own, for the same image.
        side: pixels.
    """

    parameters: int | None = None
    gmacs: float | None = None
    milliseconds: float | None = None
    peak_mib: float | None = None
    side: int | None = None


def count_gmacs(network: nn.Module, side: int = GMACS_SIDE) -> float:
    """Multiply-accumulates in 1e9 of an LR image (1, 3, side, side): half of torch's count of floating operations.

    Counted on the meta device: nothing is computed.
    """
    network = copy.deepcopy(network).to("meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.empty(1, 3, side, side, device="meta"))
    return counter.get_total_flops() / 2 / 1e9


def _milliseconds(network: nn.Module, lq: torch.Tensor) -> float:
    if lq.is_cuda:
        torch.cuda.synchronize(lq.device)
    start = time.perf_counter()
    network(lq)
    if lq.is_cuda:
        torch.cuda.synchronize(lq.device)
    return 1e3 * (time.perf_counter() - start)


def _peak_mib_cuda(network: nn.Module, lq: torch.Tensor) -> float:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(lq.device)
    before = torch.cuda.memory_allocated(lq.device)
    network(lq)
    return (torch.cuda.max_memory_allocated(lq.device) - before) / 2**20


def _resident_kib(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return int(next(line for line in file if line.startswith(field)).split()[1])


@torch.inference_mode()
def _print_peak_mib_cpu(weights: str, side: int) -> None:
    """Print the growth of this process's peak memory while the network runs (Linux only)."""
    from lightbsr.upscaling.upscaler import load_network

    network = load_network(weights)
    network(torch.rand(1, 3, 16, 16))  # the libraries' own memory is not the network's
    lq = torch.rand(1, 3, side, side)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak starts anew
    before = _resident_kib("VmRSS")
    network(lq)
    print((_resident_kib("VmHWM") - before) / 2**10)


def _peak_mib_cpu(weights: str, side: int) -> float | None:
    """Measured in a process of its own, since memory that was used once may stay with the process."""
    if not sys.platform.startswith("linux"):
        return None
    code = f"from lightbsr.evaluation import cost; cost._print_peak_mib_cpu({weights!r}, {side})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return float(result.stdout.split()[-1]) if result.returncode == 0 else None


@torch.inference_mode()
def measure(methods: Sequence[Method], device: torch.device, side: int) -> dict[str, Cost]:
    """The cost of every method by its name.

    The networks take turns, so that a machine that gets slower on the way does so for all of them.

    Args:
        device: where they run.
        side: of the LR image that time and memory are measured with, in pixels.
    """
    costs = {method.name: Cost() for method in methods}
    lq = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    times: dict[str, list[float]] = {}
    networks = [method for method in methods if isinstance(method, WeightsMethod)]
    for method in networks:
        cost = costs[method.name]
        cost.parameters = sum(p.numel() for p in method.network.parameters() if p.requires_grad)
        cost.gmacs = count_gmacs(method.network)
        cost.peak_mib = _peak_mib_cuda(method.network, lq) if lq.is_cuda else _peak_mib_cpu(method.path, side)
        cost.side = side
        _milliseconds(method.network, lq)  # warm up
    for _ in range(_ROUNDS):
        for method in networks:
            times.setdefault(method.name, []).append(_milliseconds(method.network, lq))
    for name, values in times.items():
        costs[name].milliseconds = statistics.median(values)
    return costs
