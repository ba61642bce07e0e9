"""Trained students become small files that carry how they were trained."""

import json

import pytest
import torch
from pack_weights import pack, training_hours
from safetensors import safe_open

from lightbsr.upscaling.upscaler import load_network
from lightbsr_arch import LightBSR
from lightbsr_compat import InputError

SIZES = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6)
STUDENT, TEACHER = "lightbsr_student_x4_iso_cpu_budget", "lightbsr_teacher_x4_iso_cpu_budget"


@pytest.fixture
def experiment(tmp_path):
    """Folders of a student's and a teacher's run as BasicSR leaves them."""
    for name, forced in ((STUDENT, " --force_yml train:total_iter=60"), (TEACHER, "")):
        folder = tmp_path / name
        (folder / "models").mkdir(parents=True)
        text = f"# GENERATE TIME: now\n# CMD:\n# lightbsr -opt {name} --launcher none{forced}\n\nbase: {name}\n"
        (folder / f"{name}.yml").write_text(text)
    network = LightBSR(**SIZES)
    ema = {key: value * 0.5 if value.is_floating_point() else value for key, value in network.state_dict().items()}
    torch.save({"params": network.state_dict(), "params_ema": ema}, tmp_path / STUDENT / "models" / "net_g_latest.pth")
    log = "2026-01-01 10:00:00,000 INFO: a\n 2026-09-09 no entry\n2026-01-01 10:30:00,500 INFO: b\n"
    (tmp_path / STUDENT / "train_1.log").write_text(log)
    (tmp_path / STUDENT / "train_2.log").write_text("2026-01-03 23:50:00,0 INFO: a\n2026-01-04 00:05:00,0 INFO: b\n")
    (tmp_path / TEACHER / "train_1.log").write_text(log)
    return tmp_path / STUDENT


def test_hours_are_summed_over_the_logs_of_a_resumed_run(experiment):
    assert training_hours(experiment) == pytest.approx(0.75)


def test_ema_weights_in_fp16_and_how_they_were_trained(experiment, tmp_path):
    target = tmp_path / "weights" / "tiny.safetensors"
    sentence = pack(experiment, target)
    assert str(target) in sentence
    ema = torch.load(experiment / "models" / "net_g_latest.pth", weights_only=True)["params_ema"]
    loaded = load_network(str(target)).state_dict()
    assert all(torch.equal(loaded[key], value.half().to(value.dtype)) for key, value in ema.items())
    with safe_open(target, "pt") as file:
        metadata = file.metadata()
        assert file.get_tensor("sr_network.head.weight").dtype == torch.float16
    assert (metadata["name"], metadata["network"], metadata["scale"], metadata["degradation"]) == (
        "tiny",
        "LightBSR",
        "4",
        "iso",
    )
    teacher, student = json.loads(metadata["training"])
    assert (teacher["options"], teacher["hours"], teacher["views"], teacher["batch"]) == (TEACHER, 0.5, 4, 8)
    assert (student["options"], student["hours"], student["iterations"]) == (STUDENT, 0.75, 60)
    assert (student["amp"], student["seed"], student["lr_patch"], student["device"]) == ("bf16", 0, 32, "CPU")


def test_a_run_without_ema_weights_is_refused(experiment, tmp_path):
    path = experiment / "models" / "net_g_latest.pth"
    torch.save({"params": torch.load(path, weights_only=True)["params"]}, path)
    with pytest.raises(InputError, match="has no EMA weights"):
        pack(experiment, tmp_path / "tiny.safetensors")
    assert not (tmp_path / "tiny.safetensors").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds 0 option files"):
        pack(tmp_path, tmp_path / "tiny.safetensors")
