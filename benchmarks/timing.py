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
        forms: by name; each has been called before, to warm up. One that takes more than the budget is called once.
        budget: seconds for all rounds together.
        least, most: rounds, whatever the budget.
    """
    times: dict[str, list[float]] = {name: [] for name in forms}
    start = time.perf_counter()
    for round_number in range(most):
        spent = time.perf_counter() - start
        if round_number >= least and spent + spent / round_number > budget:
            break
        for name, form in forms.items():
            if not times[name] or times[name][0] <= budget:
                times[name].append(seconds(form, device))
    return times
