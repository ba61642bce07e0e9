"""Option files are checked before BasicSR sees them: every packaged one is right, every mistake is named."""

import copy

import cv2
import pytest
import torch
import yaml

import lightbsr_cli as cli
from lightbsr_arch import LightBSR, LightBSRTeacher
from lightbsr_compat import has_basicsr, load_options

if not has_basicsr():
    pytest.skip("needs BasicSR", allow_module_level=True)

from lightbsr.packaged import find_option_file, packaged_options
from lightbsr.training import preflight
from lightbsr.training.option_files import check_options
from lightbsr_data import kernel_basis

SIZES = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6)
# What a fresh checkout has not got: data sets, and what an earlier run writes.
ABSENT = ("is no folder", "no such checkpoint file", "is no LMDB", "meta_info")


@pytest.mark.parametrize("name", sorted(packaged_options()))
def test_packaged_option_files_lack_nothing_but_data(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = packaged_options()[name]
    options = load_options(path)
    findings = check_options(options, is_train="train" in options)
    assert [f for f in findings if not any(reason in f for reason in ABSENT)] == []
    assert load_options(path)["name"] in (name, name.removesuffix("_test"))


def test_the_packaged_files_are_those_that_the_readme_names():
    names = packaged_options()
    for kind in ("teacher", "student"):
        for scale in (2, 3, 4):
            for setting in ("iso", "aniso_noise"):
                options = load_options(names[f"lightbsr_{kind}_x{scale}_{setting}"])
                train = options["datasets"]["train"]
                assert (options["scale"], train["degradation"]) == (scale, setting)
                assert train["gt_size"] == 64 * scale
                assert train["num_views"] == (4 if kind == "teacher" else 1)
    assert len(load_options(names["lightbsr_x4_iso"])["datasets"]) == 12
    assert len(load_options(names["lightbsr_x4_aniso9"])["datasets"]) == 18


@pytest.mark.parametrize("setting", ["iso", "aniso_noise"])
@pytest.mark.parametrize("budget", ["cpu_budget", "small_budget"])
def test_a_budgets_student_fits_its_teacher(setting, budget):
    teacher, student = (
        load_options(packaged_options()[f"lightbsr_{kind}_x4_{setting}_{budget}"]) for kind in ("teacher", "student")
    )
    assert teacher["datasets"]["train"]["degradation"] == student["datasets"]["train"]["degradation"] == setting
    path = f"experiments/{teacher['name']}/models/net_g_latest.pth"
    assert student["path"]["pretrain_network_teacher"] == path and student["path"]["param_key_teacher"] == "params_ema"
    shared = student["network_g"].keys() - {"type"}
    assert {k: student["network_g"][k] for k in shared} == {k: teacher["network_g"][k] for k in shared}


def test_a_file_is_taken_before_a_packaged_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_option_file("lightbsr_x4_iso") == packaged_options()["lightbsr_x4_iso"]
    (tmp_path / "lightbsr_x4_iso").write_text("name: mine")
    assert find_option_file("lightbsr_x4_iso") == "lightbsr_x4_iso"


@pytest.fixture
def options(tmp_path, photo):
    """A student's option file that is right, with its teacher and its photographs."""
    (tmp_path / "hr").mkdir()
    cv2.imwrite(str(tmp_path / "hr" / "a.png"), photo(1, 64, 64))
    teacher = LightBSRTeacher(queue_size=8, kernel_basis=kernel_basis(), setting="iso", **SIZES)
    torch.save({"params": teacher.state_dict()}, tmp_path / "teacher.pth")
    options = load_options(packaged_options()["lightbsr_student_x4_iso"])
    train = options["datasets"]["train"]
    train.update(dataroot_gt=str(tmp_path / "hr"), io_backend={"type": "disk"}, gt_size=32, dataset_enlarge_ratio=64)
    options["datasets"]["val"]["dataroot_gt"] = str(tmp_path / "hr")
    options["path"]["pretrain_network_teacher"] = str(tmp_path / "teacher.pth")
    options["network_g"].update(SIZES)
    return options


def test_a_right_file_has_no_findings(options):
    assert check_options(options, is_train=True) == []


MISTAKES = [
    (("nam",), "x", "unknown option 'nam'; did you mean 'name'?"),
    (("scale",), "4", "scale is '4', but must be a whole number"),
    (("scale",), 5, "scale is 5, but must be 2, 3 or 4"),
    (("num_gpu",), "all", "num_gpu is 'all'"),
    (("model_type",), "LightBSRStudent", "did you mean 'LightBSRStudentModel'?"),
    (("network_g", "num_feats"), 8, "network_g: unknown option 'num_feats'; did you mean 'num_feat'?"),
    (("network_g", "num_feat"), 8.5, "network_g: num_feat is 8.5, but must be a whole number"),
    (("network_g", "num_feat"), True, "network_g: num_feat is True, but must be a whole number"),
    (("network_g", "type"), "LightBRS", "did you mean 'LightBSR'?"),
    (("network_g", "upscale"), 2, "network_g: upscale is 2, but scale is 4"),
    (("datasets", "train", "gt_size"), None, "datasets: train: gt_size is missing"),
    (("datasets", "train", "gt_size"), 34, "gt_size is 34, but must be a positive multiple of the scale, 4"),
    (("datasets", "train", "gt_size"), 8, "gt_size is 8, but must be above 10"),
    (("datasets", "train", "degradation"), "isotropic", "did you mean 'iso'?"),
    (("datasets", "train", "degradation"), "aniso_noise", "has degradation 'iso', but the option file says"),
    (("datasets", "train", "dataroot_gt"), "nowhere", "dataroot_gt 'nowhere' is no folder"),
    (("datasets", "train", "io_backend"), {"type": "lmdb"}, "is no LMDB"),
    (("datasets", "train", "use_flip"), True, "did you mean 'use_hflip'?"),
    (("datasets", "vall"), {}, "datasets: 'vall' is none of train, val"),
    (("datasets", "val", "degradation"), {"sigm": 1.2}, "unknown entry 'sigm'; did you mean 'sigma'?"),
    (("path", "pretrain_network_teacher"), "nowhere.pth", "no such checkpoint file: 'nowhere.pth'"),
    (("path", "pretrain_network_teacher"), None, "path pretrain_network_teacher is missing"),
    (("path", "pretrain_teacher"), "x.pth", "path: unknown option 'pretrain_teacher'"),
    (("train", "optim_g", "lr"), "fast", "train: optim_g: lr is 'fast', but must be a number"),
    (("train", "scheduler", "type"), "TwoStageCosin", "did you mean 'TwoStageCosine'?"),
    (("train", "pixel_opt", "type"), "L1Los", "did you mean 'L1Loss'?"),
    (("train", "channel_kl_opt", "temprature"), 1.0, "did you mean 'temperature'?"),
    (("train", "spatial_opt"), None, "train: spatial_opt is missing"),
    (("train", "idr_pretrain_iter"), 10**9, "must be at most total_iter"),
    (("val", "metrics", "psnr", "crop_boder"), 4, "did you mean 'crop_border'?"),
    (("val", "metrics", "psnr", "type"), "calculate_psn", "did you mean 'calculate_psnr'?"),
    (("logger",), None, "logger is missing"),
]


@pytest.mark.parametrize(("where", "value", "sentence"), MISTAKES, ids=[":".join(map(str, m[0])) for m in MISTAKES])
def test_a_mistake_is_named(options, where, value, sentence):
    target = options
    for section in where[:-1]:
        target = target[section]
    target[where[-1]] = value
    findings = check_options(options, is_train=True)
    assert any(sentence in finding for finding in findings), findings


def test_all_mistakes_are_named_at_once(options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options["network_g"]["num_feats"] = 8
    options["train"]["optim_g"]["lr"] = "fast"
    del options["datasets"]["train"]["gt_size"]
    (tmp_path / "student.yml").write_text(yaml.safe_dump(options))
    assert cli.main(["train", "-opt", "student.yml"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("lightbsr: error: student.yml: ") for line in lines)
    assert not (tmp_path / "experiments").exists()


def test_data_that_are_not_there_hide_nothing_else_and_are_named_once(options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options["num_gpu"] = 0
    for name in ("train", "val"):
        options["datasets"][name]["dataroot_gt"] = "nowhere"
    (tmp_path / "student.yml").write_text(yaml.safe_dump(options))
    monkeypatch.setattr(preflight, "_available_memory", lambda num_gpu: (1, "this machine"))
    assert cli.main(["check", "-opt", "student.yml"]) == 2
    data, memory = capsys.readouterr().err.splitlines()
    assert "'nowhere' is no folder" in data and "of memory, but this machine has" in memory
    options["path"]["pretrain_network_teacher"] = "none.pth"
    data, teacher = check_options(options, is_train=True)
    assert "'nowhere' is no folder" in data and "'none.pth'" in teacher
    options["datasets"]["train"]["gt_size"] = 2  # what follows from it is not looked into
    size, data = check_options(options, is_train=True)
    assert "gt_size is 2" in size and "'nowhere' is no folder" in data


def test_a_queue_that_the_batch_does_not_divide(options):
    teacher = load_options(packaged_options()["lightbsr_teacher_x4_iso"])
    teacher["datasets"] = copy.deepcopy(options["datasets"])
    teacher["datasets"]["train"].update(num_views=2, batch_size_per_gpu=6)
    teacher["network_g"].update(SIZES, queue_size=64)
    assert check_options(teacher, is_train=True) == [
        "queue_size is 64, but must be a multiple of the batch of all ranks, 6 (batch_size_per_gpu x processes)"
    ]


def test_weights_of_another_size_are_refused_in_a_test_file(options, tmp_path):
    torch.save({"params": LightBSR(**{**SIZES, "num_block": 2}).state_dict()}, tmp_path / "student.pth")
    test = load_options(packaged_options()["lightbsr_x4_iso"])
    test["datasets"] = {"test_1": {**options["datasets"]["val"], "name": "a"}}
    test["network_g"].update(SIZES)
    test["path"]["pretrain_network_g"] = str(tmp_path / "student.pth")
    (finding,) = check_options(test, is_train=False)
    assert "has num_block 2, but the option file says 1" in finding


@pytest.mark.parametrize("content", ["a: [", "- 1\n- 2\n", "", "\x00"])
def test_files_that_are_no_options(tmp_path, monkeypatch, capsys, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yml").write_text(content)
    assert cli.main(["train", "-opt", "x.yml"]) == 2
    assert "'x.yml'" in capsys.readouterr().err


def test_an_unknown_packaged_name_is_told_the_nearest(capsys):
    assert cli.main(["test", "-opt", "lightbsr_x4_isso"]) == 2
    assert "did you mean 'lightbsr_x4_iso'?" in capsys.readouterr().err
