"""Interleaved repeats: the forms take turns, so that a machine that gets slower on the way does so for all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from machine import seconds


@dataclass
class Spread:
    """Median and quartiles of some measurements."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        if len(values) < 2:
            return cls(values[0], values[0], values[0], 1)
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(statistics.median(values), low, high, len(values))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def interleaved(
    forms: Mapping[str, Callable[[], Any]], device: torch.device, *, budget: float, least: int = 3, most: int = 50
) -> dict[str, list[float]]:
    """Seconds of every form, round by round, as many rounds as fit into the budget.

    Args:
        forms: by name; each is called once to warm up, and once only besides where that took more than the budget.
        budget: seconds for all rounds together, the warm-up not counted.
        least, most: rounds, whatever the budget.
    """
    slow = [name for name, form in forms.items() if seconds(form, device) > budget]
    times = {name: [seconds(forms[name], device)] if name in slow else [] for name in forms}
    forms = {name: form for name, form in forms.items() if name not in slow}
    start = time.perf_counter()
    for round_number in range(most):
        spent = time.perf_counter() - start
        if round_number >= least and spent + spent / round_number > budget:
            break
        for name, form in forms.items():
            times[name].append(seconds(form, device))
    return times
