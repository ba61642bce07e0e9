"""Copies of BasicSR's ``train.py`` with ``import lightbsr`` train our option files."""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch

import lightbsr_compat  # noqa: F401  lets BasicSR be imported


def script(folder, *, importing=""):
    """Write BasicSR's ``train.py`` with one import into a folder."""
    import basicsr

    folder.mkdir(exist_ok=True)

    source = (Path(basicsr.__file__).parent / "train.py").read_text(encoding="utf-8")
    source = source.replace("import datetime\n", f"import lightbsr_compat\n{importing}\nimport datetime\n", 1)
    (folder / "train.py").write_text(source.replace("osp.join(__file__, osp.pardir, osp.pardir)", "'.'"))
    return folder / "train.py"


def train(folder, opt, *program, arguments=()):
    """Run a training program; the last weights of its experiment."""
    words = [sys.executable, "-W", "ignore", *map(str, program), "-opt", str(tiny.write(folder, opt)), *arguments]
    done = subprocess.run(words, cwd=folder, env=tiny.environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return torch.load(tiny.experiment(folder) / "models" / "net_g_latest.pth", weights_only=True)


def test_a_copy_of_basicsrs_script_trains_a_teacher_and_train_pipeline_its_student(tmp_path, image_folder):
    teacher = tiny.options("lightbsr_teacher_x4_iso", image_folder)
    weights = train(tmp_path, teacher, script(tmp_path, importing="import lightbsr"))
    path = {"pretrain_network_teacher": str(tiny.experiment(tmp_path) / "models" / "net_g_latest.pth")}
    student = tiny.options("lightbsr_student_x4_iso", image_folder, {"path": path})
    program = ["-c", "import lightbsr; lightbsr.train_pipeline('.')"]
    weights |= {
        "student": train(tmp_path / "student", student, *program, arguments=["--force_yml", "name=other"])["params_ema"]
    }
    assert tiny.experiment(tmp_path / "student").name == "other"
    assert weights.keys() == {"params", "params_ema", "student"}
    assert all(value.isfinite().all() for part in weights.values() for value in part.values())


MODULE = """
import random, cv2, numpy, pathlib, torch
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import DATASET_REGISTRY, MODEL_REGISTRY

@MODEL_REGISTRY.register()
class StockModel(SRModel):
    def feed_data(self, data):
        self.gt = data["lq"][..., :48, :48]
        lq = torch.nn.functional.avg_pool2d(self.gt, 2)
        self.lq = lq + 0.1 * torch.randn_like(lq) + random.random() * numpy.random.rand()

@DATASET_REGISTRY.register()
class WithoutOpt(torch.utils.data.Dataset):
    def __init__(self, opt):
        self.paths = sorted(pathlib.Path(opt["dataroot_lq"]).iterdir())
    def __len__(self):
        return len(self.paths)
    def __getitem__(self, index):
        image = cv2.imread(str(self.paths[index])) / 255 * random.random()
        return {"lq": torch.from_numpy(image).permute(2, 0, 1).float()}
"""


def stock_options(image_folder, dataset="SingleImageDataset"):
    """Options of a plain ``SRModel`` that draws from every generator."""
    train_set = dict(
        name="train",
        type=dataset,
        dataroot_lq=str(image_folder),
        io_backend={"type": "disk"},
        batch_size_per_gpu=1,
        num_worker_per_gpu=0,
        dataset_enlarge_ratio=4,
    )
    return dict(
        name="stock",
        model_type="StockModel",
        scale=2,
        num_gpu=0,
        manual_seed=0,
        datasets=dict(train=train_set),
        network_g=dict(type="MSRResNet", num_feat=4, num_block=1, upscale=2),
        path={},
        train=dict(
            total_iter=20,
            ema_decay=0.9,
            optim_g=dict(type="Adam", lr=1e-3),
            scheduler=dict(type="MultiStepLR", milestones=[10], gamma=0.5),
            pixel_opt=dict(type="L1Loss"),
        ),
        logger=dict(print_freq=10, save_checkpoint_freq=10, use_tb_logger=False),
    )


def test_a_stock_model_trains_to_the_same_bits_with_and_without_us(tmp_path, image_folder):
    runs = [
        train(tmp_path / name, stock_options(image_folder), script(tmp_path / name, importing=MODULE + importing))
        for name, importing in (("with", "import lightbsr"), ("without", ""))
    ]
    assert runs[0].keys() == {"params", "params_ema"}
    assert tiny.differences(*runs) == []


@pytest.mark.parametrize("dataset", ["SingleImageDataset", "WithoutOpt"])
def test_lightbsr_train_resumes_a_stock_model_exactly(tmp_path, image_folder, dataset):
    """A data set without an attribute ``opt`` too."""
    opt, program = stock_options(image_folder, dataset), ["-m", "lightbsr.train", "--import", "stock_module"]
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stock_module.py").write_text(MODULE)
    whole = train(tmp_path / "whole", opt, *program)
    train(tmp_path / "parts", opt, *program, arguments=["--force_yml", "train:total_iter=10"])
    parts = train(tmp_path / "parts", opt, *program, arguments=["--auto_resume"])
    logs = "".join(log.read_text() for log in tiny.experiment(tmp_path / "parts").glob("*.log"))
    assert "iter: 10." in logs and "Resuming training" in logs
    assert tiny.differences(whole, parts) == []
