"""Make a trained student part of the package: its EMA weights as fp16 safetensors that carry how they were trained.

    python tools/pack_weights.py experiments/lightbsr_student_x4_iso_cpu_budget lightbsr_x4_iso

``tools/model_card.py`` then measures the weights and writes their card.
"""

import argparse
import datetime
import json
import re
import shlex
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lightbsr_arch import build_from_state_dict
from lightbsr_compat import InputError, atomic_write, load_options, load_weights_file

WEIGHTS = Path(__file__).parents[1] / "lightbsr" / "weights"
_TIME = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ INFO: ", re.MULTILINE)


def training_hours(experiment: Path) -> float:
    """Hours between the first and the last entry of each of a run's logs, summed: resumed runs have several."""
    seconds = 0.0
    for log in sorted(experiment.glob("train_*.log")):
        times = _TIME.findall(log.read_text(encoding="utf-8"))
        first, last = (datetime.datetime.fromisoformat(time) for time in (times[0], times[-1]))
        seconds += (last - first).total_seconds()
    return seconds / 3600


def used_options(experiment: Path) -> dict[str, Any]:
    """The options of a run: BasicSR's copy of the option file, with the ``--force_yml`` of the command line above it.

    Raises:
        InputError: no training run there.
    """
    copies = sorted(experiment.glob("*.yml"))
    if len(copies) != 1:
        raise InputError(f"{str(experiment)!r} holds {len(copies)} option files, but must be the folder of one run")
    command = re.search(r"^# CMD:\n# (.*)$", copies[0].read_text(encoding="utf-8"), re.MULTILINE)
    words = shlex.split(command[1]) if command else []
    forced = words[words.index("--force_yml") + 1 :] if "--force_yml" in words else []
    return load_options(copies[0], forced)


def describe_run(experiment: Path) -> dict[str, Any]:
    """What a model card says of one training run."""
    options = used_options(experiment)
    train, dataset = options["train"], options["datasets"]["train"]
    return {
        "options": options["name"],
        "iterations": train["total_iter"],
        "iterations_of_stage_1": train.get("idr_pretrain_iter", 0),
        "batch": dataset["batch_size_per_gpu"],
        "views": dataset["num_views"],
        "lr_patch": dataset["gt_size"] // options["scale"],
        "learning_rate": train["optim_g"]["lr"],
        "ema_decay": train["ema_decay"],
        "amp": train.get("amp"),
        "seed": options["manual_seed"],
        "degradation": dataset["degradation"],
        "device": "GPU" if options["num_gpu"] else "CPU",
        "hours": round(training_hours(experiment), 2),
    }


def pack(experiment: Path, target: Path) -> str:
    """Write the student of a training run.

    Args:
        experiment: folder of the student's run; its teacher's run is the one that its option file names.
        target: the ``.safetensors`` to write.

    Returns:
        A sentence that says what was written.

    Raises:
        InputError: no finished training run there, or no EMA weights.
    """
    student = describe_run(experiment)
    options = used_options(experiment)
    teacher = experiment.parent / Path(options["path"]["pretrain_network_teacher"]).parents[1].name
    checkpoint = load_weights_file(experiment / "models" / "net_g_latest.pth")
    if "params_ema" not in checkpoint:
        raise InputError(f"{str(experiment)!r}: net_g_latest.pth has no EMA weights: train with ema_decay")
    network = build_from_state_dict(checkpoint["params_ema"])
    metadata = {
        "name": target.stem,
        "network": type(network).__name__,
        "scale": str(network.upscale),
        "degradation": student["degradation"],
        "training": json.dumps([describe_run(teacher), student]),
    }
    half = {
        key: (value.half() if value.is_floating_point() else value).clone(memory_format=torch.contiguous_format)
        for key, value in checkpoint["params_ema"].items()
    }
    with atomic_write(target) as temporary:
        save_file(half, temporary, metadata)
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return f"{type(network).__name__}, {parameters:,} trainable parameters, {target.stat().st_size:,} bytes: {target}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a trained student part of the package.")
    parser.add_argument("experiment", type=Path, help="folder of the student's training run")
    parser.add_argument("name", help="e.g. lightbsr_x4_iso")
    args = parser.parse_args()
    try:
        print(pack(args.experiment, WEIGHTS / f"{args.name}.safetensors"))
    except InputError as error:
        raise SystemExit(f"pack_weights: error: {error}") from None


if __name__ == "__main__":
    main()
