"""How time and memory grow with the work, the exponents of it, and what the papers' training would take."""

import functools
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from counting import kept_bytes
from jobs import OurTraining, Sizes, make_student
from machine import seconds
from rows import OPTIONS, OURS, PUBLISHED
from timing import interleaved

from lightbsr_models.speed import sr_parts


def exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of the power law through the points: the slope of the least-squares line through their logarithms."""
    pairs = [(math.log(x), math.log(y)) for x, y in zip(xs, ys, strict=True)]
    mean_x, mean_y = (statistics.fmean(values) for values in zip(*pairs, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in pairs) / sum((x - mean_x) ** 2 for x, _ in pairs)


def _fits(function: Any) -> bool:
    try:
        function()
    except torch.cuda.OutOfMemoryError:
        return False
    return True


def _series(name: str, axis: str, work: dict[float, Any], device: torch.device, budget: float) -> dict[str, Any]:
    work = {x: function for x, function in work.items() if _fits(function)}
    times = interleaved({str(x): function for x, function in work.items()}, device, budget=budget, most=9)
    medians = [statistics.median(values) for values in times.values()]
    return dict(name=name, axis=axis, x=list(work), seconds=medians, exponent=exponent(list(work), medians))


def _step(kind: str, stage: int, sizes: Sizes, device: torch.device) -> Any:
    return functools.partial(OurTraining(kind, sizes, device).step, stage=stage)


def _that_fit(sizes: Sizes, device: torch.device) -> Sizes:
    """On a GPU a quarter of the batch: the largest points of a series are several times as large."""
    return replace(sizes, batch=max(1, sizes.batch // 4)) if device.type == "cuda" else sizes


def measure(sizes: Sizes, device: torch.device, budget: float, *, ranks: bool = True) -> list[dict[str, Any]]:
    """All series: time against LR area, batch, views, image area and ranks; memory where it can be counted.

    Args:
        budget: seconds for each series.
    """
    sizes = _that_fit(sizes, device)
    sides = [max(8, int(sizes.lr * f) // 4 * 4) for f in (0.5, 0.75, 1.0, 1.5)]
    batches = [max(1, int(sizes.batch * f)) for f in (0.25, 0.5, 1, 2)]
    series = []
    for name, axis, variants in (
        ("student stage 2 step", "LR pixels of a patch", {s * s: replace(sizes, lr=s) for s in sides}),
        ("student stage 2 step", "batch", {b: replace(sizes, batch=b) for b in batches}),
    ):
        work = {x: _step("student", 2, variant, device) for x, variant in variants.items()}
        result = _series(name, axis, work, device, budget)
        kept = [kept_by_student(variants[x], device) for x in result["x"]]
        series.append({**result, "kept_bytes": kept, "memory_exponent": exponent(result["x"], kept)})
    views = {d: _step("teacher", 1, replace(sizes, views=d), device) for d in (2, 3, 4, 6, 8)}
    series.append(_series("teacher stage 1 step", "views", views, device, budget))
    network = make_student(sizes).to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    images = {}
    for side in (sizes.image // 4, sizes.image // 2, sizes.image):
        lq = torch.rand(1, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
        images[side * side] = functools.partial(_infer, network, lq)
    series.append(_series("inference", "LR pixels of an image", images, device, budget))
    if ranks:
        series += _ranks(sizes, device)
    return series


@torch.inference_mode()
def _infer(network: torch.nn.Module, lq: torch.Tensor) -> torch.Tensor:
    return network(lq)


# --- ranks ---


def _ranks(sizes: Sizes, device: torch.device) -> list[dict[str, Any]]:
    """A step with the same batch on every rank, for one rank and more; on the CPU over gloo, a thread each."""
    most = torch.cuda.device_count() if device.type == "cuda" else (os.cpu_count() or 1)
    counts = [n for n in (1, 2, 4, 8) if n <= most]
    if len(counts) < 2:
        return []
    script = str(Path(__file__).with_name("run.py"))
    times = []
    for count in counts:
        launcher = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
        arguments = ["--rank-step", "--sizes", sizes.name, "--device", device.type]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [*launcher, f"--nproc_per_node={count}", script, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            print(f"ranks: {count} processes failed: {done.stderr.strip().splitlines()[-1:]}")
            return []
        times.append(float(done.stdout.split()[-1]))
    result = dict(name="student stage 2 step", axis="ranks, the batch of each the same", x=counts, seconds=times)
    return [{**result, "exponent": exponent(counts, times)}]


def rank_step(sizes: Sizes, device: torch.device) -> None:
    """In a process of torchrun: rank 0 prints the median seconds of a step."""
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank = torch.distributed.get_rank()
    if device.type == "cuda":
        torch.cuda.set_device(rank)
    step = _step("student", 2, _that_fit(sizes, device), device)
    step()
    times = [seconds(step, device) for _ in range(3)]
    torch.distributed.destroy_process_group()
    if rank == 0:
        print(statistics.median(times))


# --- memory ---


def kept_by_student(sizes: Sizes, device: torch.device, **options: Any) -> int:
    """Bytes that the student's stage 2 keeps from forward to backward: counted, not measured.

    With checkpointing: the parts' inputs, and what one part keeps while it is computed again.
    """
    training = OurTraining("student", sizes, device, **options)
    model, network = training.model, training.model.net_g
    lq = training.batch.lq[:, 0]
    inputs: list[int] = []
    first = sr_parts(network)[0]
    for part in sr_parts(network) if options.get("checkpointing") else []:
        part.register_forward_pre_hook(lambda module, args: inputs.append(args[0].nbytes))
    example: list[Any] = []
    first.register_forward_pre_hook(lambda module, args: example.append(args))
    with kept_bytes() as kept:
        model.autocast(network.forward_with_idr, lq)
    again = 0
    if options.get("checkpointing"):
        with kept_bytes() as of_part:
            model.autocast(lambda: type(first).forward(first, *example[0])[0])
        again = of_part[0]
    return kept[0] + sum(inputs) + again


@dataclass
class MemoryEstimate:
    """What training the student (stage 2) with a batch takes, in GB: weights, gradients, Adam's moments, and what the
    forward pass keeps, extrapolated from batches of 1 and 2. Gradients on their way back are not counted."""

    options: str
    gigabytes: float


def estimate_memory(sizes: Sizes, *, batch: int, lr: int) -> list[MemoryEstimate]:
    """For the options that change it."""
    combinations = {
        "off": {},
        "amp: bf16": OPTIONS["amp: bf16"],
        "checkpointing": OPTIONS["checkpointing"],
        "amp: bf16 + checkpointing": dict(amp="bf16", checkpointing=True),
    }
    estimates = []
    weights = sum(p.nbytes for p in make_student(sizes).parameters())
    for name, options in combinations.items():
        one, two = (kept_by_student(replace(sizes, batch=b, lr=lr), torch.device("cpu"), **options) for b in (1, 2))
        estimates.append(MemoryEstimate(name, (4 * weights + one + (batch - 1) * (two - one)) / 1e9))
    return estimates


def measure_memory(sizes: Sizes, device: torch.device) -> list[dict[str, Any]]:
    """The same, measured on a GPU: the most that PyTorch had allocated."""
    results = []
    combinations = dict(OPTIONS) | {"amp: bf16 + checkpointing": dict(amp="bf16", checkpointing=True)}
    for name in ("off", "amp: bf16", "amp: bf16 + channels_last", "checkpointing", "amp: bf16 + checkpointing"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            training = OurTraining("student", sizes, device, **combinations[name])
            for _ in range(2):
                training.step(stage=2)
            results.append(dict(options=name, gigabytes=torch.cuda.max_memory_allocated(device) / 1e9))
        except torch.cuda.OutOfMemoryError:
            results.append(dict(options=name, gigabytes=None))
        training = None  # type: ignore[assignment]
    return results


# --- on paper ---

ITERATIONS = {"stage 1": 97_000, "stage 2": 582_000}  # 100 and 600 epochs of 970 iterations
PAPER_BATCH, PAPER_LR = 64, 64
BANDWIDTH = 25e9  # bytes a second that a GPU exchanges with the others
LATENCY = 50e-6  # seconds of one exchange
EXCHANGES = 24  # an iteration: six synchronised BatchNorms, forwards and backwards, twice each
PRICE = 2.5  # a GPU's hour in USD
RATE = 10_000.0  # 1e9 multiply-accumulates a second that a GPU sustains, where none was measured


def plan(
    rows: dict[str, dict[str, Any]], sizes: Sizes, counts: Sequence[int] = (1, 8, 64), *, measured: bool
) -> list[dict[str, Any]]:
    """Hours and cost of the papers' training on ``counts`` GPUs.

    hours = sum over the stages of iterations * (t * w / N + exchange(N)) / 3600, where t is the step of one GPU, w the
    work of the paper's batch relative to the measured one (batch * LR pixels), and exchange(N) = 2 (N - 1) / N * bytes
    of the weights / BANDWIDTH + EXCHANGES * LATENCY for N > 1. Data and degradation are taken to be hidden behind it.

    Args:
        measured: whether the rows were measured on a GPU; else t is what they counted, at ``RATE``.
    """

    def step(form: dict[str, Any]) -> float | None:
        if measured:
            return form.get("seconds", {}).get("median")
        return form["gmacs"] / RATE if form.get("gmacs") else None

    work = PAPER_BATCH * PAPER_LR**2 / (sizes.batch * sizes.lr**2)
    weights = sum(p.nbytes for p in make_student(sizes).parameters())
    results = []
    for kind in ("teacher", "student"):
        needed = [rows.get(f"{kind}-stage-{stage}", {}) for stage in (1, 2)]
        for who in (PUBLISHED, OURS):
            steps = [step(row.get(who, {})) for row in needed]
            if None in steps:
                continue
            for count in counts:
                exchange = 0.0
                if count > 1:
                    exchange = 2 * (count - 1) / count * weights / BANDWIDTH + EXCHANGES * LATENCY
                hours = sum(n * (t * work / count + exchange) for n, t in zip(ITERATIONS.values(), steps, strict=True))
                hours /= 3600
                results.append(dict(kind=kind, who=who, count=count, hours=hours, cost=hours * count * PRICE))
    return results
