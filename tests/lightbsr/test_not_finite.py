"""Weights and losses that are not finite: one sentence from every command, and nothing is written of them."""

import pytest
import tiny
import torch
import yaml

import lightbsr_cli as cli
from lightbsr_arch import LightBSR, LightBSRTeacher

IO = dict(type="BlindBenchmarkDataset", name="x", io_backend={"type": "disk"}, degradation={"sigma": 1.2})


@pytest.fixture
def folder(tmp_path, monkeypatch, image_folder):
    """The working folder: a student's and a teacher's weights with a NaN in them, and option files that read them."""
    monkeypatch.chdir(tmp_path)
    network = dict(type="LightBSR", **tiny.LIGHTBSR_SIZES)
    for name, made in {
        "student": LightBSR(**tiny.LIGHTBSR_SIZES),
        "teacher": LightBSRTeacher(**tiny.LIGHTBSR_SIZES),
    }.items():
        weights = made.state_dict()
        weights["sr_network.head.bias"][0] = torch.nan
        torch.save({"params": weights}, f"{name}.pth")
    test = dict(
        name="x", model_type="SRModel", scale=4, num_gpu=0, network_g=network, val={"save_img": True, "suffix": None}
    )
    test |= dict(
        datasets={"test": {**IO, "dataroot_gt": str(image_folder)}}, path={"pretrain_network_g": "student.pth"}
    )
    train = tiny.options("lightbsr_student_x4_iso", image_folder, {"path": {"pretrain_network_teacher": "teacher.pth"}})
    for name, options in dict(test=test, train=train).items():
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(options))
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        "upscale {images} --weights student.pth",
        "convert student.pth out.pth",
        "export --weights student.pth --onnx out.onnx",
        "benchmark --data {images} --method a=student.pth --out out --protocol real",
        "idr --data {images} --weights student.pth --out out",
        "check -opt test.yml",
        "test -opt test.yml",
        "check -opt train.yml",
        "train -opt train.yml",
    ],
)
def test_weights_with_a_nan_are_refused_by_every_command(folder, image_folder, capsys, words):
    if words.startswith("export"):
        pytest.importorskip("onnxscript")
    before = sorted(folder.rglob("*"))
    assert cli.main(words.format(images=image_folder).split()) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lightbsr: error: ")]
    assert len(lines) == 1 and ".pth'" in lines[0] and "not finite" in lines[0] and "sr_network.head.bias" in lines[0]
    assert sorted(folder.rglob("*")) == before


def test_a_learning_rate_of_1e30_stops_training_with_the_last_finite_checkpoint(folder, image_folder, capsys):
    changes = {"train": {"optim_g": {"lr": 1e30}, "scheduler": {"warmup_iter": -1}}}
    options = tiny.options("lightbsr_teacher_x4_iso", image_folder, changes)
    (folder / "x.yml").write_text(yaml.safe_dump(options))
    assert cli.main(["train", "-opt", "x.yml"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lightbsr: error: ")]
    assert len(lines) == 1 and "training stops at iteration" in lines[0] and "l_" in lines[0]
    for path in folder.glob("experiments/*/models/*.pth"):
        saved = torch.load(path, weights_only=True)
        assert all(value.isfinite().all() for weights in saved.values() for value in weights.values())
