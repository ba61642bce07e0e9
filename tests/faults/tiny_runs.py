"""Tiny training runs in processes of their own, and what is needed to compare two of them bit by bit."""

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from lightbsr.packaged import packaged_options
from lightbsr_compat import load_options

SCRIPT = Path(__file__).with_name("faulty_training.py")
SIZES = dict(num_feat=4, num_group=1, num_block=1, num_idr=16, num_channel_idr=4, layer_scale_init=0.1)


def options(images: Path, *, total_iter: int, workers: int = 0, batch: int = 4, **logger: Any) -> dict[str, Any]:
    """An option file of a tiny teacher in two stages: noise, EMA, a queue, several epochs, a validation."""
    images_of = dict(dataroot_gt=str(images), io_backend=dict(type="lmdb" if images.suffix == ".lmdb" else "disk"))
    train_set = dict(
        name="train",
        type="DegradationPriorDataset",
        degradation="aniso_noise",
        num_views=2,
        gt_size=32,
        batch_size_per_gpu=batch,
        num_worker_per_gpu=workers,
        dataset_enlarge_ratio=5,  # seven iterations an epoch, two items left over
    )
    val_set = dict(name="val", type="BlindBenchmarkDataset", degradation=dict(sigma=1.2))
    return dict(
        name="tiny",
        model_type="LightBSRTeacherModel",
        scale=2,
        num_gpu=0,
        manual_seed=3,
        datasets=dict(train=train_set | images_of, val=val_set | images_of),
        network_g=dict(type="LightBSRTeacher", upscale=2, queue_size=40, momentum=0.9, **SIZES),
        path=dict(pretrain_network_g=None, resume_state=None),
        train=dict(
            total_iter=total_iter,
            idr_pretrain_iter=total_iter // 2,
            ema_decay=0.9,
            optim_g=dict(type="Adam", lr=1e-3, betas=[0.9, 0.99]),
            scheduler=dict(type="TwoStageCosine", warmup_iter=3, eta_min=1e-5),
            contrast_opt=dict(type="ContrastiveLoss"),
            pixel_opt=dict(type="L1Loss", loss_weight=255.0),
        ),
        val=dict(val_freq=20, save_img=False, metrics=dict(psnr=dict(type="calculate_psnr", crop_border=2))),
        logger=dict(print_freq=10, save_checkpoint_freq=3, use_tb_logger=False) | logger,
    )


def real_world_options(lmdb: Path, *, total_iter: int, workers: int = 0) -> dict[str, Any]:
    """The packaged option file of KDSR's real-world teacher, made tiny: BasicSR's own dataset, and a pair pool."""
    opt = load_options(packaged_options()["kdsr_teacher_x4_real_world"])
    del opt["val"], opt["datasets"]["val"]
    opt.update(name="tiny", num_gpu=0)
    opt["datasets"]["train"].update(
        dataroot_gt=str(lmdb), gt_size=32, pool_size=6, batch_size_per_gpu=2, num_worker_per_gpu=workers
    )
    opt["datasets"]["train"]["pin_memory"] = False
    opt["network_g"].update(num_feat=8, num_block=1, num_resblock=1)
    opt["train"].update(total_iter=total_iter, scheduler=dict(type="MultiStepLR", milestones=[8], gamma=0.5))
    opt["logger"].update(print_freq=10, save_checkpoint_freq=3, use_tb_logger=False)
    return opt


def command(folder: Path, opt: dict[str, Any], *arguments: str, fault: str = "", processes: int = 0) -> list[str]:
    """The command line of a training run in ``folder``, with a fault if one is named (``faulty_training.py``).

    ``processes``: how many, under torchrun; 0 without.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yml"
    path.write_text(yaml.safe_dump(opt))
    program = [str(SCRIPT), fault] if fault else ["-m", "lightbsr"]
    launcher = []
    if processes:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        arguments = ("--launcher", "pytorch", *arguments)
    return [sys.executable, "-W", "ignore", *launcher, *program, "train", "-opt", str(path), *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def train(
    folder: Path,
    opt: dict[str, Any],
    *arguments: str,
    fault: str = "",
    processes: int = 0,
    timeout: float = 240,
) -> subprocess.CompletedProcess[str]:
    """Run a training in a process of its own to its end, whichever that is."""
    words = command(folder, opt, *arguments, fault=fault, processes=processes)
    return subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=timeout)


def experiment(folder: Path) -> Path:
    return folder / "experiments" / "tiny"


def last_iteration(folder: Path) -> int:
    """The iteration of the newest training state, 0 where there is none."""
    states = (experiment(folder) / "training_states").glob("[0-9]*.state")
    return max((int(path.stem) for path in states), default=0)


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


def random_fault(draw: random.Random, start: int) -> str:
    """kill -9 somewhere in one of the next steps, or at some moment of one of the next saves."""
    if draw.random() < 0.5:
        return f"kill-in-step:{start + draw.randint(1, 9)}:{draw.uniform(0, 0.05):.4f}"
    return f"kill-in-save:{draw.randint(1, 16)}"
