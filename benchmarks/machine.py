"""The machine: what it is, what it can do at best, and how much memory a function takes."""

import datetime
import gc
import platform
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function: Callable[[], Any], device: torch.device) -> float:
    """Wall-clock time of one call."""
    synchronise(device)
    start = time.perf_counter()
    function()
    synchronise(device)
    return time.perf_counter() - start


def describe(device: torch.device) -> dict[str, str]:
    """Machine, versions and date, as they stand under every table."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    else:
        name = f"{_cpu_name()}, {torch.get_num_threads()} threads"
    return {
        "machine": name,
        "versions": f"Python {platform.python_version()}, PyTorch {torch.__version__}",
        "date": datetime.date.today().isoformat(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def ceilings(device: torch.device, *, side: int, megabytes: int) -> dict[str, float]:
    """What the device reaches at best: a large matrix product and a large copy, the best of five.

    Args:
        side: of the square float32 matrices.
        megabytes: that are copied.

    Returns:
        ``gmacs``: 1e9 multiply-accumulates a second; ``gigabytes``: read and written, a second.
    """
    a, b = torch.rand(2, side, side, device=device)
    source = torch.rand(megabytes * 250_000, device=device)
    target = torch.empty_like(source)
    product = min(seconds(lambda: torch.mm(a, b), device) for _ in range(5))
    copy = min(seconds(lambda: target.copy_(source), device) for _ in range(5))
    return {"gmacs": side**3 / 1e9 / product, "gigabytes": 2 * source.nbytes / 1e9 / copy}


def peak_mib(function: Callable[[], Any], device: torch.device) -> float | None:
    """How much memory a function takes at most, beyond what was in use before.

    On the CPU (Linux alone) that is the process's: call it in a process of its own, before anything was computed, since
    memory that was used once may stay with the process.
    """
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    if not sys.platform.startswith("linux"):
        return None
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = _resident_kib("VmRSS")
    function()
    return (_resident_kib("VmHWM") - before) / 2**10


def _resident_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def _command(arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-W", "ignore", str(Path(__file__).with_name("run.py")), *arguments]


def in_own_process(*arguments: str) -> str | None:
    """What ``run.py`` prints last when it is called with these arguments; None where it fails."""
    done = subprocess.run(_command(arguments), capture_output=True, text=True, check=False)
    return done.stdout.split()[-1] if done.returncode == 0 and done.stdout.split() else None


class Elsewhere:
    """A function that is called here and runs in a process of its own, which starts at the first call.

    Args:
        arguments: of ``run.py``, which make it call ``serve``.
    """

    def __init__(self, *arguments: str) -> None:
        self._command = _command(arguments)
        self._process: subprocess.Popen[str] | None = None

    def __call__(self) -> None:
        if self._process is None:
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            weakref.finalize(self, self._process.communicate)  # the process ends with its standard input
        assert self._process.stdin and self._process.stdout
        print(file=self._process.stdin, flush=True)
        if not self._process.stdout.readline():
            raise RuntimeError("the process has ended")


def serve(function: Callable[[], Any]) -> None:
    """Call a function for every line of the standard input, and answer with a line."""
    for _ in sys.stdin:
        function()
        print(flush=True)
