"""The packaged option files with tiny networks; training runs in subprocesses, compared bit by bit."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from lightbsr.packaged import packaged_options
from lightbsr_compat import load_options

FAULTY_TRAINING = Path(__file__).parent / "faults" / "faulty_training.py"
LIGHTBSR_SIZES = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6)
KDSR_SIZES = dict(num_feat=8, num_block=1, num_resblock=1)
BATCH, TOTAL_ITER, PRETRAIN_ITER, EMA_DECAY, QUEUE_SIZE, MOMENTUM = 4, 6, 3, 0.8, 40, 0.9


def merge(options: dict[str, Any], changes: dict[str, Any]) -> None:
    """Change nested options in place; a value of None removes an option."""
    for name, value in changes.items():
        if value is None:
            options.pop(name, None)
        elif isinstance(value, dict) and isinstance(options.get(name), dict):
            merge(options[name], value)
        else:
            options[name] = copy.deepcopy(value)


def options(name: str, images: Path, *changes: dict[str, Any]) -> dict[str, Any]:
    """A packaged training option file made tiny.

    Six iterations on the CPU, three in either stage (LightBSR alone), a batch of four, noise, an average, a queue of
    40 keys, several epochs; a checkpoint of every iteration, a validation of every third.

    Args:
        name: of the packaged file.
        images: folder or LMDB, for training and validation.
        changes: nested options to be merged over it in turn.
    """
    opt = load_options(packaged_options()[name])
    lightbsr = opt["network_g"]["type"].startswith("LightBSR")
    io = dict(dataroot_gt=str(images), io_backend={"type": "lmdb" if images.suffix == ".lmdb" else "disk"})
    train_set = dict(gt_size=8 * opt["scale"], batch_size_per_gpu=BATCH, num_worker_per_gpu=0, pin_memory=False)
    merge(opt, {"num_gpu": 0, "network_g": LIGHTBSR_SIZES if lightbsr else KDSR_SIZES})
    merge(opt["datasets"], {phase: io for phase in opt["datasets"]})
    merge(opt["datasets"]["train"], dict(train_set, dataset_enlarge_ratio=4))
    merge(opt["train"], dict(total_iter=TOTAL_ITER, ema_decay=EMA_DECAY, optim_g={"lr": 1e-3}))
    if opt["train"]["scheduler"]["type"] == "TwoStageCosine":
        merge(opt["train"], dict(idr_pretrain_iter=PRETRAIN_ITER, scheduler=dict(warmup_iter=1, eta_min=1e-5)))
    if opt["network_g"]["type"] == "LightBSRTeacher":
        merge(opt, dict(network_g=dict(queue_size=QUEUE_SIZE, momentum=MOMENTUM), datasets={"train": {"num_views": 2}}))
    merge(opt, {"logger": dict(print_freq=1, save_checkpoint_freq=1, use_tb_logger=False)})
    if "val" in opt:
        merge(opt, {"val": {"val_freq": 3}})
    for change in changes:
        merge(opt, change)
    return opt


# --- runs in processes of their own ---


def write(folder: Path, opt: dict[str, Any]) -> Path:
    """Write an option file; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{opt['name']}.yml"
    path.write_text(yaml.safe_dump(opt), encoding="utf-8")
    return path


def command(folder: Path, opt: dict[str, Any], *arguments: str, fault: str = "", processes: int = 0) -> list[str]:
    """The command line of a training, with a fault if one is named (``faults/faulty_training.py``).

    Args:
        folder: for the option file.
        processes: how many, under torchrun; 0 without.
    """
    program = [str(FAULTY_TRAINING), fault] if fault else ["-m", "lightbsr.train"]
    launcher = []
    if processes:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        arguments = ("--launcher", "pytorch", *arguments)
    return [sys.executable, "-W", "ignore", *launcher, *program, "-opt", str(write(folder, opt)), *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def train(
    folder: Path, opt: dict[str, Any], *arguments: str, fault: str = "", processes: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a training in its own process until it ends."""
    words = command(folder, opt, *arguments, fault=fault, processes=processes)
    return subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)


def experiment(folder: Path) -> Path:
    """The folder of the one run in ``folder``."""
    (found,) = (folder / "experiments").iterdir()
    return found


def last_iteration(folder: Path) -> int:
    """The iteration of the newest training state, 0 where there is none."""
    return max((int(path.stem) for path in folder.glob("experiments/*/training_states/[0-9]*.state")), default=0)


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Where two nested structures of tensors and plain values are not the same bit by bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{where}: {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [d for key in a for d in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [d for i, pair in enumerate(zip(a, b, strict=True)) for d in differences(*pair, f"{where}/{i}")]
    return [] if a == b else [f"{where}: {a!r} != {b!r}"]


def compare(one: Path, other: Path, iteration: int) -> list[str]:
    """Where the last weights (EMA too) and the training states of two runs differ."""
    found = []
    for name in ("models/net_g_latest.pth", f"models/net_g_{iteration}.pth", f"training_states/{iteration}.state"):
        contents = [torch.load(experiment(folder) / name, weights_only=True) for folder in (one, other)]
        for content in contents:
            content.pop("best_metric_results", None)  # a validation may be cut off, and is not made up for
        found += differences(*contents, name)
    return found
