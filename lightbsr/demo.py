"""``lightbsr demo``: from photographs to a tested student, in minutes, on a CPU.

It makes an LMDB, then runs ``lightbsr train`` and ``lightbsr test`` with packaged option files in a folder of its own.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from lightbsr_compat import InputError, atomic_write, require_basicsr

from .prepare import prepare

# Photographs that scikit-learn and scikit-image carry in their packages: (package, file below its folder).
_TRAINING = (
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/rocket.jpg"),
    ("skimage", "data/motorcycle_left.png"),
)
_HELD_OUT = ("skimage", "data/chelsea.png")
_SIGMAS = (1.2, 2.4, 3.6)
_PICTURE_CROP = 160  # HR pixels


def _photograph(package: str, name: str) -> np.ndarray:
    """Read one of the packages' photographs, (H, W, 3) uint8, BGR."""

    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise InputError(f"the demo's photographs need {package}: pip install 'lightbsr[demo]'")
    path = Path(spec.origin).parent / name
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"the demo's photograph {str(path)!r} is missing from this version of {package}")
    return image


def _prepare(folder: Path, photographs: dict[str, np.ndarray]) -> None:
    """Write the photographs, and an LMDB of the training images."""
    for file, image in photographs.items():
        target = folder / "photographs" / ("held_out" if file == _HELD_OUT[1] else "train") / f"{Path(file).stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), image)
    train = folder / "photographs" / "train"
    print(prepare(str(train), f"{train}.lmdb", size=0))


def _run(folder: Path, command: str, option_file: str, forced: Sequence[str] = ()) -> None:

    print(f"\n$ lightbsr {command} -opt {option_file}", flush=True)
    words = [command, "-opt", option_file, *(["--force_yml", *forced] if forced else [])]
    result = subprocess.run([sys.executable, "-W", "ignore", "-m", "lightbsr", *words], cwd=folder)
    if result.returncode:
        raise InputError(f"lightbsr {command} -opt {option_file} failed with exit status {result.returncode}")


def _result(folder: Path, run: str, sigma: float) -> np.ndarray:
    """Read a test run's image of the held-out photograph, (H, W, 3) uint8, BGR."""
    stem = Path(_HELD_OUT[1]).stem
    path = folder / "results" / run / "visualization" / f"sigma{sigma}" / f"{stem}_{run}.png"
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None, path
    return image


def _labelled(image: np.ndarray, label: str) -> np.ndarray:
    """Enlarge an image (H, W, 3) twice and put the label above it."""
    image = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    strip = np.full((28, image.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, label, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([strip, image])


def _compare(folder: Path) -> str:
    """Write the side-by-side pictures; returns the table of PSNR."""
    from basicsr.metrics import calculate_psnr

    from lightbsr_data import BlindBenchmarkDataset

    rows = ["", f"held-out photograph: {_HELD_OUT[1]} of {_HELD_OUT[0]}; PSNR on Y in dB, x4", ""]
    rows += ["| sigma | bicubic | student | gain |", "|---|---|---|---|"]
    for sigma in _SIGMAS:
        dataset = BlindBenchmarkDataset(
            {
                "dataroot_gt": str(folder / "photographs" / "held_out"),
                "io_backend": {"type": "disk"},
                "scale": 4,
                "degradation": {"sigma": sigma},
            }
        )
        item = dataset[0]
        lq, gt = ((item[k] * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1] for k in ("lq", "gt"))
        bicubic, student = _result(folder, "bicubic_x4_demo", sigma), _result(folder, "lightbsr_student_x4_demo", sigma)
        scores = [calculate_psnr(image, gt, crop_border=4, test_y_channel=True) for image in (bicubic, student)]
        rows.append(f"| {sigma} | {scores[0]:.2f} | {scores[1]:.2f} | {scores[1] - scores[0]:+.2f} |")
        enlarged = cv2.resize(lq, (gt.shape[1], gt.shape[0]), interpolation=cv2.INTER_NEAREST)
        top, left = (gt.shape[0] - _PICTURE_CROP) // 3, (gt.shape[1] - _PICTURE_CROP) // 3
        panels = [
            _labelled(image[top : top + _PICTURE_CROP, left : left + _PICTURE_CROP], label)
            for image, label in (
                (enlarged, f"LR, sigma {sigma}"),
                (bicubic, f"bicubic {scores[0]:.2f} dB"),
                (student, f"LightBSR {scores[1]:.2f} dB"),
                (gt, "HR"),
            )
        ]
        with atomic_write(str(folder / f"compare_sigma{sigma}.png")) as temporary:
            cv2.imwrite(temporary, np.hstack(panels))
    return "\n".join(rows)


def demo(output: str, *, forced: Sequence[str] = ()) -> None:
    """Run the demo in a new folder ``output``: logs, checkpoints, results, table and pictures stay there.

    Args:
        output: the folder.
        forced: ``--force_yml`` entries for both trainings, such as ``train:total_iter=10``.

    Raises:
        InputError: the folder exists and is not empty, a photograph is missing, or a step failed.
    """

    folder = Path(output).absolute()
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"demo folder {output!r} exists and is not empty: remove it, or name another with -o")
    photographs = {file: _photograph(package, file) for package, file in (*_TRAINING, _HELD_OUT)}
    _prepare(folder, photographs)
    _run(folder, "train", "lightbsr_teacher_x4_demo", forced)
    _run(folder, "train", "lightbsr_student_x4_demo", forced)
    _run(folder, "test", "lightbsr_student_x4_demo_test")
    _run(folder, "test", "bicubic_x4_demo")
    table = _compare(folder)
    (folder / "table.md").write_text(table.strip() + "\n", encoding="utf-8")
    print(table)
    shown = os.path.relpath(folder)
    print(f"\npictures: {shown}/compare_sigma*.png; training logs: {shown}/experiments/*/*.log")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("-o", "--output", default="demo", metavar="DIR", help="new folder for everything (demo)")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""

    require_basicsr("lightbsr demo")
    demo(args.output)
    return 0
