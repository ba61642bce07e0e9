"""Short training runs from the packaged option files, on the CPU, with BasicSR's own loop."""

import copy
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

import lightbsr  # noqa: F401  (registers everything)
from lightbsr_compat import load_options

OPTIONS = Path(__file__).parents[2] / "options" / "train"


def update(options: dict[str, Any], changes: dict[str, Any]) -> None:
    """Change nested options in place; None removes an entry."""
    for key, value in changes.items():
        if value is None:
            options.pop(key, None)
        elif isinstance(value, dict) and isinstance(options.get(key), dict):
            update(options[key], value)
        else:
            options[key] = copy.deepcopy(value)


def short_options(name: str, *changes: dict[str, Any]) -> dict[str, Any]:
    """The packaged option file ``name``, made small: CPU, no workers, three iterations, no validation."""
    options = load_options(OPTIONS / f"{name}.yml")
    small = {
        "num_gpu": 0,
        "datasets": {"train": {"num_worker_per_gpu": 0, "pin_memory": False, "dataset_enlarge_ratio": 1}, "val": None},
        "val": None,
        "train": {"total_iter": 3},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 100, "use_tb_logger": False},
    }
    for change in (small, *changes):
        update(options, change)
    return options


def train(options: dict[str, Any], folder: Path, monkeypatch) -> dict[str, dict[str, torch.Tensor]]:
    """Run BasicSR's training loop on ``options`` in ``folder``; what the last checkpoint of net_g holds."""
    from basicsr.train import train_pipeline

    path = folder / f"{options['name']}.yml"
    path.write_text(yaml.safe_dump(options), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["train", "-opt", str(path)])
    train_pipeline(str(folder))
    return torch.load(checkpoint(options["name"], folder), weights_only=True)


def checkpoint(name: str, folder: Path, net: str = "net_g") -> Path:
    """Where the run ``name`` in ``folder`` leaves the last weights of ``net``."""
    return folder / "experiments" / name / "models" / f"{net}_latest.pth"
