"""Make a trained student part of the package, and print the tables of its card.

    python tools/pack_weights.py lightbsr_x4_iso --experiment experiments/lightbsr_student_x4_iso_cpu_budget \\
        --clean datasets/val \\
        --photographs "425 photographs: 183 of CID22 (CC BY-SA 4.0), 242 of Unsplash (Unsplash licence)"
    python tools/pack_weights.py lightbsr_x4_iso --data datasets/benchmark --protocols iso aniso9 --sets Set5 Set14

The first writes ``lightbsr/weights/NAME.safetensors``: the newest EMA weights in fp16, or their mean with others
(``--mean-with``), with metadata on training and licences, the IDR of clean images, and linear probes that read blur,
noise and JPEG quality off an IDR.
The second prints Markdown to paste into ``docs/models/NAME.md``, whose words are written by hand;
tests/lightbsr/test_shipped_weights.py compares the weights with that page.
"""

import argparse
import csv
import datetime
import hashlib
import json
import re
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import safetensors.torch
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import lightbsr_cli
from lightbsr import Upscaler
from lightbsr.evaluation.image_sets import find_images
from lightbsr.evaluation.representations import collect, targets
from lightbsr.upscaling.stated import Probe
from lightbsr.upscaling.upscaler import load_network
from lightbsr_arch import build_from_state_dict
from lightbsr_compat import InputError, atomic_write, load_options, load_weights_file
from lightbsr_compat.images import read_rgb8
from lightbsr_data import DegradationSetting, PhotoParameters, get_setting
from lightbsr_data.photo import NO_BLUR

WEIGHTS = Path(__file__).parents[1] / "lightbsr" / "weights"
_PROBE_DRAWS = 32
_TIME = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ INFO: ", re.MULTILINE)


def training_hours(experiment: Path) -> float:
    """Sum the hours between the first and the last entry of each of a run's logs: resumed runs have several."""
    seconds = 0.0
    for log in sorted(experiment.glob("train_*.log")):
        times = [datetime.datetime.fromisoformat(time) for time in _TIME.findall(log.read_text(encoding="utf-8"))]
        seconds += (times[-1] - times[0]).total_seconds()
    return seconds / 3600


def used_options(experiment: Path) -> dict[str, Any]:
    """Read the options of a run: BasicSR's copy of the option file, with the ``--force_yml`` of the command in it.

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


def newest_checkpoint(experiment: Path) -> tuple[Path, int | None]:
    """Find a run's newest weights, and their iteration; None where the run is finished."""
    numbered = {int(p.stem.removeprefix("net_g_")): p for p in (experiment / "models").glob("net_g_[0-9]*.pth")}
    latest = experiment / "models" / "net_g_latest.pth"
    return (latest, None) if latest.exists() or not numbered else (numbered[max(numbered)], max(numbered))


def describe_run(experiment: Path) -> dict[str, Any]:
    """Return the facts of a training run that its card states."""
    options, newest = used_options(experiment), newest_checkpoint(experiment)[1]
    train, dataset = options["train"], options["datasets"]["train"]
    iterations = newest or train["total_iter"]
    return {
        "options": options["name"],
        "iterations": iterations,
        "iterations_of_stage_1": min(train.get("idr_pretrain_iter", 0), iterations),
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


def runs_behind(experiment: Path) -> list[Path]:
    """Find the runs whose weights a run was given, as a start or as its teacher, the oldest first; it is the last.

    Raises:
        InputError: one of them does not lie beside it.
    """
    runs: list[Path] = []
    paths = used_options(experiment)["path"]
    for name in ("pretrain_network_g", "pretrain_network_teacher"):
        match Path(paths.get(name) or "").parts:
            case [*_, run, "models", _]:
                runs += [found for found in runs_behind(experiment.parent / run) if found not in runs]
    return [*runs, experiment]


def clean_idr(network: torch.nn.Module, folder: Path) -> list[float]:
    """Compute the IDR of clean LR images: area averages of the photographs in a folder (``Upscaler``'s strength)."""
    with tempfile.TemporaryDirectory() as temporary:
        torch.save({"params": network.state_dict()}, f"{temporary}/network.pth")
        upscaler = Upscaler(f"{temporary}/network.pth", device="cpu")
    images = [read_rgb8(str(path)) for path in sorted(folder.iterdir())]
    sizes = [tuple(side // upscaler.scale for side in image.shape[1::-1]) for image in images]
    small = [cv2.resize(i, size, interpolation=cv2.INTER_AREA) for i, size in zip(images, sizes, strict=True)]
    return upscaler.estimate_idr(small)[0].tolist()


def idr_probes(network: Any, folder: Path, setting: DegradationSetting) -> dict[str, dict[str, Any]]:
    """Fit probes of blur width, noise level and JPEG quality to the channel IDR, each where the setting varies it.

    The photographs in a folder are degraded by 32 draws of isotropic blur, Gaussian noise and JPEG from the setting's
    ranges; each is left out in a quarter of them.

    Returns:
        The fields of ``Probe`` by the target's name.
    """
    random = np.random.default_rng(0)

    def drawn(limits: tuple[float, float], left_out: float) -> float:
        return left_out if random.random() < 0.25 else random.uniform(*limits)

    degradations = []
    for _ in range(_PROBE_DRAWS):
        sigma, noise = drawn(setting.sigma, NO_BLUR), drawn(setting.noise_sigma, 0.0)
        quality = None if setting.jpeg is None else int(drawn(setting.jpeg, 0)) or None
        way = str(random.choice(setting.downsample))
        degradations.append(PhotoParameters(sigma, sigma, 0.0, way, noise, False, False, quality))
    images = find_images(str(folder), "degraded", network.upscale)
    vectors, _, _ = collect(network, images, degradations, torch.device("cpu"))
    features, probes = vectors.features["idr_channel"], {}
    for name, target in targets(degradations, vectors.labels).items():
        model = make_pipeline(StandardScaler(), Ridge())
        folds = GroupKFold(min(5, len(images)))
        found = cross_val_predict(model, features, target, groups=vectors.images, cv=folds)
        scaler, ridge = (step for _, step in model.fit(features, target).steps)
        weights = ridge.coef_ / scaler.scale_
        bias, error = ridge.intercept_ - weights @ scaler.mean_, np.abs(found - target).mean()
        probes[name] = Probe(weights.tolist(), *map(float, (bias, error, target.min(), target.max())))._asdict()
    return probes


def pack(
    experiment: Path,
    target: Path,
    *,
    photographs: str,
    clean: Path,
    licence: str = "Apache-2.0",
    before: Path | None = None,
    mean_with: Sequence[Path] = (),
) -> None:
    """Write the EMA weights of a student's run, or their mean with others, as fp16 safetensors.

    Args:
        experiment: folder of the student's run; the runs behind it lie beside it, under the names in its option file.
        target: the ``.safetensors`` to write.
        photographs: source and licence of the training images.
        clean: folder of photographs for ``clean_idr`` and ``idr_probes``.
        licence: of the weights.
        before: packed weights that the first of the runs started from; their runs are stated too.
        mean_with: weights of the same network; the mean of these and the run's is packed, and the metadata says so.

    Raises:
        InputError: no finished training run there, no EMA weights, values that are not finite, or no mean with others.
    """
    runs = packed_runs(before) if before else []
    runs += [describe_run(run) for run in runs_behind(experiment)]
    weights = newest_checkpoint(experiment)[0]
    checkpoint = load_weights_file(weights)
    if "params_ema" not in checkpoint:
        raise InputError(f"{str(weights)!r} has no EMA weights: train with ema_decay")
    network = build_from_state_dict(checkpoint["params_ema"])
    sizes = {key: value.shape for key, value in network.state_dict().items()}
    others = [load_network(path).state_dict() for path in mean_with]
    for path, other in zip(mean_with, others, strict=True):
        if {key: value.shape for key, value in other.items()} != sizes:
            raise InputError(f"{str(path)!r} holds weights of another network than {str(weights)!r}: there is no mean")
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.stack([value, *(other[key].to(value) for other in others)]).mean(0))
    half = {
        key: (value.half() if value.is_floating_point() else value).clone(memory_format=torch.contiguous_format)
        for key, value in network.state_dict().items()
    }
    if not all(value.isfinite().all() for value in half.values()):
        raise InputError(f"{str(weights)!r} holds values that are not finite in fp16")
    degradation = runs[-1]["degradation"]
    metadata = {
        "name": target.stem,
        "network": type(network).__name__,
        "scale": str(network.upscale),
        "degradation": degradation if isinstance(degradation, str) else json.dumps(degradation),
        "clean_idr": json.dumps(clean_idr(network, clean)),
        "idr_probes": json.dumps(idr_probes(network, clean, get_setting(degradation))),
        "licence": licence,
        "photographs": photographs,
        "training": json.dumps(runs),
    }
    if others:
        metadata["weights"] = f"the mean of the last run's EMA weights and of {len(others)} before them"
    content = safetensors.torch.save(half, metadata)
    with atomic_write(target) as temporary:
        Path(temporary).write_bytes(content)


def packed_runs(weights: Path) -> list[dict[str, Any]]:
    """Read the training runs that packed weights state."""
    with safetensors.safe_open(weights, "pt") as file:
        runs: list[dict[str, Any]] = json.loads(file.metadata()["training"])
    return runs


def facts(weights: Path) -> str:
    """Format a file's size, checksum and training runs as Markdown."""
    runs, content = packed_runs(weights), weights.read_bytes()
    lines = [f"{len(content):,} bytes; SHA-256 `{hashlib.sha256(content).hexdigest()}`", ""]
    lines += ["| " + " | ".join(runs[0]) + " |", "|---" * len(runs[0]) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, run.values())) + " |" for run in runs)])


def scores(weights: Path, data: Path, protocol: str, sets: list[str]) -> dict[tuple[str, str], dict[str, list[float]]]:
    """Run ``lightbsr benchmark``.

    Returns:
        (set, setting) -> {'ours': [PSNR, SSIM], 'Bicubic': [PSNR, SSIM]}; ``mean`` is a setting too.
    """
    with tempfile.TemporaryDirectory() as out:
        words = ["--data", str(data), "--protocol", protocol, "--method", f"ours={weights}", "--out", out]
        if lightbsr_cli.main(["benchmark", *words, "--sets", *sets]):
            raise InputError(f"protocol {protocol}: the benchmark failed")
        with open(Path(out) / "results.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        if row["method"] in ("ours", "Bicubic"):  # the first of a name is measured here, papers' figures follow
            cell = found.setdefault((row["set"], row["setting"]), {})
            cell.setdefault(row["method"], [float(row["psnr"] or "nan"), float(row["ssim"] or "nan")])
    return found


def table(found: dict[tuple[str, str], dict[str, list[float]]]) -> str:
    """Format scores as the card's Markdown table."""
    lines = ["| set | setting | bicubic | this model | gain |", "|---|---|---|---|---|"]
    for (set_name, setting), cell in found.items():
        (bicubic, bicubic_ssim), (ours, ssim) = cell["Bicubic"], cell["ours"]
        lines.append(
            f"| {set_name} | {setting} | {bicubic:.2f} / {bicubic_ssim:.4f} | {ours:.2f} / {ssim:.4f}"
            f" | {ours - bicubic:+.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a trained student part of the package, or print its tables.")
    parser.add_argument("name", help="e.g. lightbsr_x4_iso")
    parser.add_argument("--experiment", type=Path, help="pack the weights of this training run of a student")
    parser.add_argument("--photographs", help="source and licence of the training images; with --experiment")
    parser.add_argument(
        "--clean", type=Path, help="folder of photographs for the IDR of clean images; with --experiment"
    )
    parser.add_argument("--before", type=Path, help="packed weights that the first run started from; with --experiment")
    parser.add_argument(
        "--mean-with", type=Path, nargs="+", default=[], help="weights to average the run's with; with --experiment"
    )
    parser.add_argument("--data", type=Path, help="print scores on the test sets in this folder")
    parser.add_argument("--protocols", nargs="+", default=["iso"])
    parser.add_argument("--sets", nargs="+", default=["Set5", "Set14"])
    args = parser.parse_args()
    weights = WEIGHTS / f"{args.name}.safetensors"
    try:
        if args.experiment:
            if not (args.photographs and args.clean):
                parser.error("--experiment needs --photographs and --clean")
            pack(
                args.experiment,
                weights,
                photographs=args.photographs,
                clean=args.clean,
                before=args.before,
                mean_with=args.mean_with,
            )
        print(facts(weights))
        for protocol in args.protocols if args.data else []:
            print(f"\n### Protocol {protocol}\n\n{table(scores(weights, args.data, protocol, args.sets))}")
    except InputError as error:
        raise SystemExit(f"pack_weights: error: {error}") from None


if __name__ == "__main__":
    main()
