"""Short training runs from the packaged option files, on the CPU, with BasicSR's own loop."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lightbsr  # noqa: F401  (registers everything)
from lightbsr.packaged import packaged_options
from lightbsr_compat import load_options

_SHORT = {
    "num_gpu": 0,
    "datasets": {"train": {"num_worker_per_gpu": 0, "pin_memory": False, "dataset_enlarge_ratio": 1}, "val": None},
    "val": None,
    "train": {"total_iter": 3},
    "logger": {"print_freq": 1, "save_checkpoint_freq": 100, "use_tb_logger": False},
}


def _update(options: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if value is None:
            options.pop(key, None)
        elif isinstance(value, dict) and isinstance(options.get(key), dict):
            _update(options[key], value)
        else:
            options[key] = copy.deepcopy(value)


@pytest.fixture
def short_options() -> Callable[..., dict[str, Any]]:
    """``short_options(NAME, *CHANGES)``: a packaged option file made short, with nested changes; None takes away."""

    def options(name: str, *changes: dict[str, Any]) -> dict[str, Any]:
        options = load_options(packaged_options()[name])
        for change in (_SHORT, *changes):
            _update(options, change)
        return options

    return options


@pytest.fixture
def checkpoint(tmp_path) -> Callable[..., Path]:
    """``checkpoint(NAME, NET="net_g")``: where the run of that name leaves its last weights."""
    return lambda name, net="net_g": tmp_path / "experiments" / name / "models" / f"{net}_latest.pth"


@pytest.fixture
def train(tmp_path, monkeypatch, checkpoint) -> Callable[[dict[str, Any]], dict[str, dict[str, torch.Tensor]]]:
    """``train(OPTIONS)``: run BasicSR's training loop below ``tmp_path``; what the last checkpoint of net_g holds."""
    from lightbsr import train_pipeline

    def run(options: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
        path = tmp_path / f"{options['name']}.yml"
        path.write_text(yaml.safe_dump(options), encoding="utf-8")
        monkeypatch.setattr("sys.argv", ["train", "-opt", str(path)])
        train_pipeline(str(tmp_path))
        return torch.load(checkpoint(options["name"]), weights_only=True)

    return run
