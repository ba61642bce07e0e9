"""Tiny option files, and one run of teacher and student through BasicSR's own loops, shared by the tests."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import tiny
import torch

from lightbsr.training import pipelines

VAL = dict(name="val", degradation=dict(sigma_x=3.5, sigma_y=2.0, theta=45, noise_sigma=5))


@pytest.fixture(scope="session")
def val_folder(tmp_path_factory, photo) -> Path:
    """Two small pictures."""
    folder = tmp_path_factory.mktemp("val")
    for i, (height, width) in enumerate([(33, 40), (48, 32)]):
        cv2.imwrite(str(folder / f"val_{i}.png"), photo(50 + i, height, width))
    return folder


@pytest.fixture(scope="session")
def run_options(image_lmdb, val_folder) -> Callable[[str], dict[str, Any]]:
    """``run_options('teacher' | 'student')``: a tiny option file of LightBSR; a new dictionary every time."""

    def options(kind: str) -> dict[str, Any]:
        val = dict(VAL, dataroot_gt=str(val_folder), io_backend={"type": "disk"})
        change = {"name": kind, "datasets": {"val": val}, "path": {"pretrain_network_teacher": None}}
        return tiny.options(f"lightbsr_{kind}_x4_aniso_noise", image_lmdb, change)

    return options


@pytest.fixture(scope="session")
def run_pipeline() -> Callable[..., None]:
    """Run BasicSR's train or test loop in this process with an option file made of a dictionary."""

    def run(root: Path, options: dict[str, Any], *arguments: str, train: bool = True) -> None:
        path = tiny.write(root, options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["train.py", "-opt", str(path), *arguments])
            (pipelines.train_pipeline if train else pipelines.test_pipeline)(str(root))

    return run


class Run:
    """A finished run of BasicSR's training loop."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        self.folder = folder
        self.options = options

    def weights(self, iteration: int | str, key: str = "params") -> dict[str, torch.Tensor]:
        return torch.load(self.checkpoint(iteration), weights_only=True)[key]

    def checkpoint(self, iteration: int | str) -> str:
        return str(self.folder / "models" / f"net_g_{iteration}.pth")

    def state(self, iteration: int) -> dict[str, Any]:
        return torch.load(self.folder / "training_states" / f"{iteration}.state", weights_only=True)


@pytest.fixture(scope="session")
def runs_root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def teacher_run(runs_root, run_options, run_pipeline) -> Run:
    """A teacher, trained for three iterations in either stage; a checkpoint of each."""
    options = run_options("teacher")
    run_pipeline(runs_root, options)
    return Run(runs_root / "experiments" / "teacher", options)


@pytest.fixture(scope="session")
def student_run(runs_root, run_options, run_pipeline, teacher_run) -> Run:
    """A student of that teacher, likewise."""
    options = run_options("student")
    options["path"]["pretrain_network_teacher"] = teacher_run.checkpoint("latest")
    run_pipeline(runs_root, options)
    return Run(runs_root / "experiments" / "student", options)


@pytest.fixture
def parsed_options(run_options, tmp_path) -> Callable[..., dict[str, Any]]:
    """Options as ``parse_options`` hands them to a model: ``parsed_options(kind, is_train=True)``."""

    def parse(kind: str, *, is_train: bool = True) -> dict[str, Any]:
        options = copy.deepcopy(run_options(kind))
        options |= dict(is_train=is_train, dist=False, rank=0, world_size=1, auto_resume=False)
        root = os.path.join(tmp_path, "experiments", kind)
        options["path"] |= dict(
            experiments_root=root,
            models=os.path.join(root, "models"),
            training_states=os.path.join(root, "training_states"),
        )
        for dataset in options["datasets"].values():
            dataset["scale"] = options["scale"]
        return options

    return parse


@pytest.fixture
def training_batch(run_options) -> Callable[[str], dict[str, torch.Tensor]]:
    """One batch of the training set, as the loop hands it to a model's ``feed_data``."""
    from basicsr.data import build_dataset

    def batch(kind: str) -> dict[str, torch.Tensor]:
        dataset = build_dataset(run_options(kind)["datasets"]["train"] | {"scale": 4})
        return torch.utils.data.default_collate([dataset[i] for i in range(tiny.BATCH)])

    return batch
