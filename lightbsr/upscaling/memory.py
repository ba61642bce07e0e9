"""How much of an image passes the network at once: memory that is free, and what running out of it looks like."""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

import torch
from torch import nn

# Measured at x4, float32, on a CPU (tests/lightbsr/upscaling/test_memory.py): the tail's two widest layers take the
# most. Bytes for each feature channel, LR pixel and squared factor.
BYTES_PER_FEATURE = 16
_SHARE_OF_FREE_MEMORY = 0.5
_MOST_ON_CPU = 2 * 2**30  # larger tiles are not faster there
_MOST_PIXELS = 1024 * 1024
_UNKNOWN_MEMORY = 4 * 2**30

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h

_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "Failed to allocate memory",
    "bad_alloc",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of PyTorch, ONNX Runtime or OpenVINO says that memory did not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(words in str(error) for words in _OUT_OF_MEMORY)


def keep_freed_memory() -> None:
    """Have this process keep what large tensors leave for the next ones, instead of getting it anew page by page.

    On Linux with glibc alone, elsewhere nothing happens. For a process that does nothing else, as a command is.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, -1)


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _free_in_container() -> list[int]:
    """What the control group of this process leaves (version 2, then 1)."""
    free = []
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        most, taken = _number(limit), _number(used)
        if most is not None and taken is not None:
            free.append(most - taken)
    return free


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device; on a CPU those of the machine or the container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = _free_in_container()
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        free.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return max(min(free, default=_UNKNOWN_MEMORY), 0)


def pixels_at_once(network: nn.Module, device: torch.device) -> int:
    """How many LR pixels should pass the network at once."""
    free = int(free_memory(device) * _SHARE_OF_FREE_MEMORY)
    if device.type == "cpu":
        free = min(free, _MOST_ON_CPU)
    num_feat: int = network.sr_network.head.out_channels  # type: ignore[assignment,union-attr]
    bytes_per_pixel = BYTES_PER_FEATURE * num_feat * network.upscale**2  # type: ignore[operator]
    return min(free // int(bytes_per_pixel), _MOST_PIXELS)
