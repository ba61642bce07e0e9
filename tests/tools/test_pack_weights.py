"""Trained students are packed as fp16 files with metadata of their training."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from pack_weights import facts, pack, packed_runs, table, training_hours
from safetensors import safe_open
from safetensors.torch import save_file

from lightbsr.packaged import packaged_weights
from lightbsr.upscaling.stated import in_words
from lightbsr.upscaling.upscaler import Upscaler, load_network
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
    (tmp_path / "clean").mkdir()
    for i in range(2):
        noise = np.random.RandomState(i).randint(0, 255, (96, 80, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "clean" / f"{i}.png"), noise)
    return tmp_path / STUDENT


def test_hours_are_summed_over_the_logs_of_a_resumed_run(experiment):
    assert training_hours(experiment) == pytest.approx(0.75)


def test_ema_weights_in_fp16_with_training_and_licences(experiment, tmp_path):
    target = tmp_path / "weights" / "tiny.safetensors"
    pack(experiment, target, photographs="nine of mine, CC0", clean=tmp_path / "clean")
    ema = torch.load(experiment / "models" / "net_g_latest.pth", weights_only=True)["params_ema"]
    loaded = load_network(str(target)).state_dict()
    assert all(torch.equal(loaded[key], value.half().to(value.dtype)) for key, value in ema.items())
    with safe_open(target, "pt") as file:
        metadata = file.metadata()
        assert file.get_tensor("sr_network.head.weight").dtype == torch.float16
    assert len(json.loads(metadata.pop("clean_idr"))) == SIZES["num_channel_idr"]
    (probe,) = json.loads(metadata.pop("idr_probes")).items()
    assert probe[0] == "sigma" and len(probe[1]["weights"]) == SIZES["num_channel_idr"]
    teacher, student = json.loads(metadata.pop("training"))
    assert metadata == {
        "name": "tiny",
        "network": "LightBSR",
        "scale": "4",
        "degradation": "iso",
        "licence": "Apache-2.0",
        "photographs": "nine of mine, CC0",
    }
    assert (teacher["options"], teacher["hours"], teacher["views"], teacher["batch"]) == (TEACHER, 0.5, 4, 8)
    assert (student["options"], student["hours"], student["iterations"]) == (STUDENT, 0.75, 60)
    assert f"| {STUDENT} | 60 |" in facts(target)


def test_all_runs_behind_the_weights_are_stated(experiment, tmp_path):
    """A student of two runs, whose teacher started from packed weights: theirs, teacher, first run, second run."""
    second = tmp_path / "second"
    shutil.copytree(experiment, second)
    copy = second / f"{STUDENT}.yml"
    path = f"path: {{pretrain_network_g: experiments/{STUDENT}/models/net_g_latest.pth}}"
    copy.write_text(copy.read_text() + f"name: second\n{path}\n")
    pack(experiment, tmp_path / "first.safetensors", photographs="", clean=tmp_path / "clean")
    target = tmp_path / "tiny.safetensors"
    pack(second, target, photographs="", clean=tmp_path / "clean", before=tmp_path / "first.safetensors")
    assert [run["options"] for run in packed_runs(target)] == [TEACHER, STUDENT, TEACHER, STUDENT, "second"]
    copy.write_text(copy.read_text().replace(f"experiments/{STUDENT}/models", "elsewhere"))
    pack(second, target, photographs="", clean=tmp_path / "clean")
    assert [run["options"] for run in packed_runs(target)] == [TEACHER, "second"]
    shutil.rmtree(tmp_path / TEACHER)
    with pytest.raises(InputError, match=f"{TEACHER}' holds 0 option files"):
        pack(second, target, photographs="", clean=tmp_path / "clean")


def test_the_mean_of_weights(experiment, tmp_path):
    one, target = tmp_path / "one.safetensors", tmp_path / "mean.safetensors"
    pack(experiment, one, photographs="", clean=tmp_path / "clean")
    halves, zeros = load_network(str(one)).state_dict(), tmp_path / "zeros.pth"
    torch.save({"params": {key: torch.zeros_like(value) for key, value in halves.items()}}, zeros)
    pack(experiment, target, photographs="", clean=tmp_path / "clean", mean_with=[zeros])
    for key, value in load_network(str(target)).state_dict().items():
        expected = halves[key] / 2 if value.is_floating_point() else halves[key]
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-7)
    with safe_open(target, "pt") as file:
        assert file.metadata()["weights"] == "the mean of the last run's EMA weights and of 1 before them"
    torch.save({"params": LightBSR(**{**SIZES, "num_feat": 12}).state_dict()}, zeros)
    with pytest.raises(InputError, match=r"zeros.pth' holds weights of another network"):
        pack(experiment, target, photographs="", clean=tmp_path / "clean", mean_with=[zeros])


def test_the_newest_weights_of_a_stopped_run(experiment, tmp_path):
    latest = experiment / "models" / "net_g_latest.pth"
    latest.rename(experiment / "models" / "net_g_40.pth")
    torch.save({"params": {}}, experiment / "models" / "net_g_5.pth")
    pack(experiment, tmp_path / "tiny.safetensors", photographs="", clean=tmp_path / "clean")
    assert f"| {STUDENT} | 40 |" in facts(tmp_path / "tiny.safetensors")


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_strength_moves_the_idr_from_that_of_clean_images(strength):
    image = np.random.RandomState(1).uniform(0, 1, (24, 20, 3)).astype(np.float32)  # noise, far from clean
    with safe_open(packaged_weights()["lightbsr_x4_photo"], "pt") as file:
        clean = torch.tensor([json.loads(file.metadata()["clean_idr"])])
    upscaler = Upscaler("lightbsr_x4_photo", device="cpu")
    own = upscaler.estimate_idr([image])
    expected = upscaler(image, idr=clean + strength * (own - clean))
    found = Upscaler("lightbsr_x4_photo", device="cpu", strength=strength)(image)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.abs(found - upscaler(image)).max() > 0.01


@pytest.mark.parametrize("stated", ["[", '{"sigma": {}}', '{"x": 1}', '{"jpeg": [1]}', '["a"]'])
def test_damaged_metadata_is_one_sentence(tmp_path, stated):
    path = tmp_path / "w.safetensors"
    save_file(LightBSR(**SIZES).state_dict(), path, {"clean_idr": stated, "idr_probes": stated})
    with pytest.raises(InputError, match="idr_probes in its metadata cannot be read"):
        in_words(path, torch.zeros(1, 6))
    with pytest.raises(InputError, match="clean_idr in its metadata cannot be read"):
        Upscaler(path, strength=0.5)


def test_strength_needs_weights_that_state_the_idr_of_clean_images(experiment):
    with pytest.raises(InputError, match=r"strength needs the IDR of clean images, which '.*net_g_latest.pth'"):
        Upscaler(experiment / "models" / "net_g_latest.pth", strength=0.5)
    with pytest.raises(InputError, match="strength is 3, but must be within"):
        Upscaler(experiment / "models" / "net_g_latest.pth", strength=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [({"params": {}}, "has no EMA weights"), ({"params_ema": None}, "values that are not finite in fp16")],
)
def test_weights_that_cannot_be_packed_are_refused(experiment, tmp_path, content, message):
    if "params_ema" in content:
        state_dict = LightBSR(**SIZES).state_dict()
        state_dict["sr_network.head.bias"][0] = 1e6
        content = {"params_ema": state_dict}
    torch.save(content, experiment / "models" / "net_g_latest.pth")
    with pytest.raises(InputError, match=message):
        pack(experiment, tmp_path / "tiny.safetensors", photographs="", clean=tmp_path / "clean")
    assert not (tmp_path / "tiny.safetensors").exists()


def test_the_cards_table():
    lines = table({("Set5", "sigma1.2"): {"Bicubic": [27.694, 0.79], "ours": [29.678, 0.8409]}}).splitlines()
    assert lines[2:] == ["| Set5 | sigma1.2 | 27.69 / 0.7900 | 29.68 / 0.8409 | +1.98 |"]
