"""Option files of tiny runs, and one run of teacher and student through BasicSR's own loops, shared by the tests."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
import yaml
from basicsr.test import test_pipeline as run_test_pipeline
from basicsr.train import train_pipeline

import lightbsr_models  # noqa: F401  (registers the models)

TOTAL_ITER, PRETRAIN_ITER, BATCH, EMA_DECAY, MOMENTUM, QUEUE_SIZE = 6, 3, 4, 0.8, 0.9, 40
SIZES = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6)


def _options(kind: str, train_root: str, val_root: str) -> dict[str, Any]:
    teacher = kind == "teacher"
    network = dict(type="LightBSRTeacher" if teacher else "LightBSR", upscale=4, **SIZES)
    if teacher:
        network |= dict(queue_size=QUEUE_SIZE, momentum=MOMENTUM)
        losses = dict(contrast_opt=dict(type="ContrastiveLoss", temperature=0.07))
    else:
        losses = dict(
            spatial_opt=dict(type="MSELoss"),
            channel_kl_opt=dict(type="KLDistillationLoss"),
            channel_l1_opt=dict(type="L1Loss", loss_weight=0.1),
        )
    return dict(
        name=kind,
        model_type="LightBSRTeacherModel" if teacher else "LightBSRStudentModel",
        scale=4,
        num_gpu=0,
        manual_seed=0,
        datasets=dict(
            train=dict(
                name="train",
                type="DegradationPriorDataset",
                dataroot_gt=train_root,
                io_backend=dict(type="lmdb" if train_root.endswith(".lmdb") else "disk"),
                degradation="aniso_noise",
                num_views=2 if teacher else 1,
                gt_size=32,
                use_hflip=True,
                use_rot=True,
                batch_size_per_gpu=BATCH,
                num_worker_per_gpu=1,
                dataset_enlarge_ratio=4,
            ),
            val=dict(
                name="val",
                type="BlindBenchmarkDataset",
                dataroot_gt=val_root,
                io_backend=dict(type="disk"),
                degradation=dict(sigma_x=3.5, sigma_y=2.0, theta=45, noise_sigma=5),
            ),
        ),
        network_g=network,
        path=dict(pretrain_network_g=None, resume_state=None),
        train=dict(
            total_iter=TOTAL_ITER,
            idr_pretrain_iter=PRETRAIN_ITER,
            ema_decay=EMA_DECAY,
            optim_g=dict(type="Adam", lr=1e-3, betas=[0.9, 0.99]),
            scheduler=dict(type="TwoStageCosine", warmup_iter=1, eta_min=1e-5),
            pixel_opt=dict(type="L1Loss", loss_weight=255.0),
            **losses,
        ),
        val=dict(
            val_freq=PRETRAIN_ITER,
            save_img=False,
            metrics=dict(psnr=dict(type="calculate_psnr", crop_border=4, test_y_channel=True)),
        ),
        logger=dict(print_freq=1, save_checkpoint_freq=1, use_tb_logger=False),
    )


@pytest.fixture(scope="session")
def val_folder(tmp_path_factory, photo) -> Path:
    """Two small pictures."""
    folder = tmp_path_factory.mktemp("val")
    for i, (height, width) in enumerate([(33, 40), (48, 32)]):
        cv2.imwrite(str(folder / f"val_{i}.png"), photo(50 + i, height, width))
    return folder


@pytest.fixture(scope="session")
def run_options(image_lmdb, val_folder) -> Callable[[str], dict[str, Any]]:
    """``run_options('teacher' | 'student')``: what stands in a tiny option file; a new dictionary every time."""
    return lambda kind: _options(kind, str(image_lmdb), str(val_folder))


@pytest.fixture(scope="session")
def run_pipeline() -> Callable[..., None]:
    """Run BasicSR's train or test loop in this process with an option file made of a dictionary."""

    def run(root: Path, options: dict[str, Any], *arguments: str, train: bool = True) -> None:
        path = root / f"{options['name']}.yml"
        path.write_text(yaml.safe_dump(options))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["train.py", "-opt", str(path), *arguments])
            (train_pipeline if train else run_test_pipeline)(str(root))

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
        return torch.utils.data.default_collate([dataset[i] for i in range(BATCH)])

    return batch
