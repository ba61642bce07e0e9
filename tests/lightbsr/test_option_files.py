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
from lightbsr.training.option_files import check_options
from lightbsr_compat.errors import nearest
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
    assert findings.warnings == []
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
    options["num_gpu"] = 0
    return options


def test_a_right_file_has_no_findings(options):
    findings = check_options(options, is_train=True)
    assert findings == [] and findings.warnings == []


REMOVED = object()
LONG = "x" * 101
FILE_NAME = "must be a file name of at most 100 bytes, without / and \\ and control characters"
# An option, its value, and the whole sentence, or a part of it after '...'.
MISTAKES = [
    ("nam", "x", "unknown option 'nam'; did you mean 'name'?"),
    ("name", "../../victim", f"name is '../../victim', but {FILE_NAME}"),
    ("name", "", f"name is '', but {FILE_NAME}"),
    ("name", ".", f"name is '.', but {FILE_NAME}"),
    ("name", "a\nb", f"name is 'a\\nb', but {FILE_NAME}"),
    ("name", "a\0", f"name is 'a\\x00', but {FILE_NAME}"),
    ("name", LONG, f"name is '{LONG[:76]}..., but {FILE_NAME}"),
    ("name", 3, "name is 3, but must be a text"),
    ("name", None, "name is ~, but must be a text"),
    ("scale", "4", "scale is '4', but must be 2, 3 or 4"),
    ("scale", 5, "scale is 5, but must be 2, 3 or 4"),
    ("num_gpu", "all", "num_gpu is 'all', but must be a number of GPUs, 0 for the CPU, or auto"),
    ("num_gpu", -1, "num_gpu is -1, but must be a number of GPUs, 0 for the CPU, or auto"),
    ("manual_seed", 2**32, "manual_seed is 4294967296, but must be at most 2147483648"),
    ("model_type", "LightBSRStudent", "model_type is 'LightBSRStudent'; did you mean 'LightBSRStudentModel'?"),
    ("network_g:num_feats", 8, "network_g: unknown option 'num_feats'; did you mean 'num_feat'?"),
    ("network_g:num_feat", 8.5, "network_g: num_feat is 8.5, but must be a whole number"),
    ("network_g:num_feat", True, "network_g: num_feat is True, but must be a whole number"),
    ("network_g:num_feat", 0, "network_g: num_feat is 0, but must be at least 1"),
    ("network_g:num_block", 10**6, "network_g: LightBSR would have 1,000,000 blocks, but may have 1,024"),
    ("network_g:type", "LightBRS", "network_g: type is 'LightBRS'; did you mean 'LightBSR'?"),
    ("network_g:type", REMOVED, "network_g: type is missing"),
    ("network_g", {"type": "KDSR"}, "network_g: type is 'KDSR', but LightBSRStudentModel trains a LightBSR"),
    ("network_g:upscale", 2, "network_g: upscale is 2, but scale is 4: they must be the same"),
    ("datasets:train:gt_size", None, "datasets: train: gt_size is ~, but must be a whole number"),
    ("datasets:train:gt_size", REMOVED, "datasets: train: gt_size is missing"),
    ("datasets:train:gt_size", 34, "...gt_size is 34, but must be a positive multiple of the scale, 4"),
    ("datasets:train:gt_size", 8, "...gt_size is 8, but must be above 10: the blur mirrors that much"),
    ("datasets:train:num_views", 0, "datasets: train: num_views is 0, but must be at least 1"),
    ("datasets:train:batch_size_per_gpu", 0, "datasets: train: batch_size_per_gpu is 0, but must be at least 1"),
    ("datasets:train:batch_size_per_gpu", 4.0,
     "datasets: train: batch_size_per_gpu is 4.0, but must be a whole number"),
    ("datasets:train:batch_size_per_gpu", REMOVED, "datasets: train: batch_size_per_gpu is missing"),
    ("datasets:train:dataset_enlarge_ratio", 1,
     "...an epoch, fewer than batch_size_per_gpu, 64: raise dataset_enlarge_ratio"),
    ("datasets:train:prefetch_mode", "gpu", "datasets: train: prefetch_mode is 'gpu', but must be 'cpu' or 'cuda'"),
    ("datasets:train:degradation", "isotropic", "...; did you mean 'iso'?"),
    ("datasets:train:degradation", 3,
     "datasets: train: degradation is 3, but must be the name of a setting, or its ranges"),
    ("datasets:train:degradation", "aniso_noise", "...has degradation 'iso', but the option file says 'aniso_noise'"),
    ("datasets:train:dataroot_gt", "nowhere", "dataroot_gt 'nowhere' is no folder"),
    ("datasets:train:dataroot_gt", "", "datasets: train: dataroot_gt is '', but must be a path"),
    ("datasets:train:io_backend", {"type": "lmbd"},
     "datasets: train: io_backend: type is 'lmbd', but must be 'disk' or 'lmdb'"),
    ("datasets:train:use_flip", True, "datasets: train: unknown option 'use_flip'; did you mean 'use_hflip'?"),
    ("datasets:train:type", "ImageFolder", "...; known: BlindBenchmarkDataset, DegradationPriorDataset, "),
    ("datasets:vall", {}, "datasets: 'vall' is none of train, val, val_1, ..."),
    ("datasets:val:name", "../x", f"datasets: val: name is '../x', but {FILE_NAME}"),
    ("datasets:val:degradation", {"sigm": 1.2},
     "datasets: val: degradation: unknown option 'sigm'; did you mean 'sigma'?"),
    ("datasets:val:degradation:sigma", -1, "datasets: val: degradation: sigma is -1, but must be above 0"),
    ("path:pretrain_network_teacher", "no.pth",
     "path: pretrain_network_teacher is 'no.pth', but there is no such checkpoint file"),
    ("path:pretrain_network_teacher", None,
     "...pretrain_network_teacher is missing: a student is distilled from a teacher's checkpoint"),
    ("path:pretrain_teacher", "x.pth",
     "...unknown option 'pretrain_teacher'; did you mean 'pretrain_network_teacher'?"),
    ("path:start_from_teacher", "estimator",
     "path: start_from_teacher is 'estimator', but must be 'all', 'all_but_estimator' or 'sr_network'"),
    ("train:optim_g:lr", "x", "train: optim_g: lr is 'x', but must be a number"),
    ("train:optim_g:lr", float("nan"), "train: optim_g: lr is nan, but must be a finite number"),
    ("train:optim_g:lr", 0, "train: optim_g: lr is 0, but must be above 0"),
    ("train:optim_g:betas", [0.9], "train: optim_g: betas is [0.9], but must be a list of 2 or more"),
    ("train:optim_g:betas", [0.9, 1], "train: optim_g: betas[1] is 1, but must be below 1"),
    ("train:optim_g:eps", -1, "train: optim_g: eps is -1, but must be at least 0"),
    ("train:optim_g:fused", "yes", "train: optim_g: fused is 'yes', but must be true or false"),
    ("train:optim_g:type", "adam", "train: optim_g: type is 'adam'; did you mean 'Adam'?"),
    ("train:scheduler:type", "TwoStageCosin",
     "train: scheduler: type is 'TwoStageCosin'; did you mean 'TwoStageCosine'?"),
    ("train:scheduler:warmup_iter", 582001,
     "train: scheduler: warmup_iter is 582001, but must be at most the 582000 iterations of stage 2 "
     "(total_iter - idr_pretrain_iter)"),
    ("train:pixel_opt:type", "L1Los", "train: pixel_opt: type is 'L1Los'; did you mean 'L1Loss'?"),
    ("train:channel_kl_opt:temprature", 1.0, "...unknown option 'temprature'; did you mean 'temperature'?"),
    ("train:channel_kl_opt:temperature", 0, "train: channel_kl_opt: temperature is 0, but must be above 0"),
    ("train:spatial_opt", None, "train: spatial_opt is ~, but must be a section"),
    ("train:spatial_opt", REMOVED, "train: spatial_opt is missing"),
    ("train:idr_pretrain_iter", 10**9,
     "train: idr_pretrain_iter is 1000000000, but must be at most total_iter, 679000"),
    ("train:amp", "fp61", "train: amp is 'fp61', but must be 'bf16' or 'fp16'"),
    ("train:checkpointing", 1, "train: checkpointing is 1, but must be true or false"),
    ("train:usm_targets", ["l1"],
     "train: usm_targets[0] is 'l1', but must be 'pixel_opt', 'perceptual_opt' or 'gan_opt'"),
    ("train:ema_decay", 1.5, "train: ema_decay is 1.5, but must be at most 1"),
    ("train", 5, "train is 5, but must be a section"),
    ("train", REMOVED, "train is missing"),
    ("val:metrics:psnr:crop_border", REMOVED, "val: metrics: psnr: crop_border is missing"),
    ("val:metrics:psnr:type", "calculate_psn",
     "val: metrics: psnr: type is 'calculate_psn'; did you mean 'calculate_psnr'?"),
    ("val:metrics:psnr", 3, "val: metrics: psnr is 3, but must be a section"),
    ("val:val_freq", REMOVED, "val: val_freq is missing"),
    ("val:suffix", "../x", f"val: suffix is '../x', but {FILE_NAME}"),
    ("val:tile", 0, "val: tile is 0, but must be at least 16"),
    ("logger", None, "logger is missing"),
    ("logger:print_freq", 1.5, "logger: print_freq is 1.5, but must be a whole number"),
    ("dist_params:port", 70000, "dist_params: port is 70000, but must be at most 65535"),
    ("import", "my_module", "import is 'my_module', but must be a list"),
]  # fmt: skip


def edited(options, path, value):
    """Set or remove one option, and the sections that it lies in."""
    *sections, name = path.split(":")
    for section in sections:
        options = options.setdefault(section, {})
    if value is REMOVED:
        del options[name]
    else:
        options[name] = value


@pytest.mark.parametrize(
    ("path", "value", "sentence"), MISTAKES, ids=[f"{path}-{number}" for number, (path, *_) in enumerate(MISTAKES)]
)
def test_a_mistake_is_one_sentence(options, path, value, sentence):
    edited(options, path, value)
    (finding,) = check_options(options, is_train=True)
    assert (sentence.startswith("...") and sentence[3:] in finding) or finding == sentence


def test_a_mistyped_option_of_a_metric_is_a_warning(options):
    options["val"]["metrics"]["psnr"]["test_y_chanel"] = True  # BasicSR's metrics take any option
    findings = check_options(options, is_train=True)
    assert findings == []
    assert findings.warnings == [
        "val: metrics: psnr: option 'test_y_chanel' is passed on as it is; did you mean 'test_y_channel'?"
    ]


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("soft", ["iso"], None),
        ("queue_size", ["blur_kernel_size"], None),
        ("MyNet", ["SpyNet"], None),
        ("isotropic", ["iso", "aniso_noise"], "iso"),
        ("gt_sise", ["gt_size", "size"], "gt_size"),
        ("adam", ["Adam", "AdamW"], "Adam"),
    ],
)
def test_only_near_names_are_suggested(name, known, expected):
    assert nearest(name, known) == expected


def test_a_degradation_may_be_a_mapping_of_ranges(options):
    options["network_g"].update(SIZES)
    options["path"]["pretrain_network_teacher"] = None  # made for another setting
    train = options["datasets"]["train"]
    train["degradation"] = {"isotropic": True, "sigma": [0.5, 2.0], "noise_sigma": [0, 10]}
    findings = check_options(options, is_train=True)
    assert [f for f in findings if "teacher" not in f] == []
    train["degradation"] = {"isotropic": True, "sigm": [0.5, 2.0]}
    (finding,) = check_options(options, is_train=True)
    assert finding.startswith("datasets: train: degradation") and "did you mean 'sigma'?" in finding


def test_iterations_are_written_as_yaml_means_them(options):
    options["val"]["val_freq"] = options["logger"]["save_checkpoint_freq"] = 5e3
    options["train"]["scheduler"]["warmup_iter"] = -1  # BasicSR's way to say none
    assert check_options(options, is_train=True) == []


def test_all_mistakes_are_named_at_once(options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options["network_g"]["num_feats"] = 8
    options["train"]["optim_g"]["lr"] = "fast"
    options["datasets"]["val"]["degradation"] = {"sigma": "x", "nois": 2}
    del options["datasets"]["train"]["gt_size"]
    (tmp_path / "student.yml").write_text(yaml.safe_dump(options))
    assert cli.main(["train", "-opt", "student.yml"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5 and all(line.startswith("lightbsr: error: student.yml: ") for line in lines)
    assert not (tmp_path / "experiments").exists()


def test_data_that_are_not_there_hide_nothing_else_and_are_named_once(options):
    for name in ("train", "val"):
        options["datasets"][name]["dataroot_gt"] = "nowhere"
    options["path"]["pretrain_network_teacher"] = "none.pth"
    data, teacher = check_options(options, is_train=True)
    assert "'nowhere' is no folder" in data and "'none.pth'" in teacher
    options["datasets"]["train"]["gt_size"] = 2  # what follows from it is not looked into
    size, data = check_options(options, is_train=True)
    assert "gt_size is 2" in size and "'nowhere' is no folder" in data


def test_two_data_sets_of_one_name_are_refused(options):
    options["datasets"]["val_2"] = copy.deepcopy(options["datasets"]["val"])
    assert check_options(options, is_train=True) == [
        "datasets: 2 have the name 'Set5', but scores and pictures need different names"
    ]


def test_a_queue_that_the_batch_does_not_divide(options):
    teacher = load_options(packaged_options()["lightbsr_teacher_x4_iso"])
    teacher["datasets"] = copy.deepcopy(options["datasets"])
    teacher["datasets"]["train"].update(num_views=2, batch_size_per_gpu=6)
    teacher["network_g"].update(SIZES, queue_size=64)
    assert check_options(teacher, is_train=True) == [
        "queue_size is 64, but must be a multiple of the batch of all ranks, 6 (batch_size_per_gpu x processes)"
    ]


def test_several_gpus_need_a_launcher(options):
    options["num_gpu"] = 2
    (finding,) = check_options(options, is_train=True)
    assert finding.startswith("num_gpu is 2 without a launcher, but several GPUs need one process each: torchrun")


def test_weights_of_another_size_are_refused_in_a_test_file(options, tmp_path):
    torch.save({"params": LightBSR(**{**SIZES, "num_block": 2}).state_dict()}, tmp_path / "student.pth")
    test = load_options(packaged_options()["lightbsr_x4_iso"])
    test["datasets"] = {"test_1": {**options["datasets"]["val"], "name": "a"}}
    test["network_g"].update(SIZES)
    test["path"]["pretrain_network_g"] = str(tmp_path / "student.pth")
    (finding,) = check_options(test, is_train=False)
    assert "has num_block 2, but the option file says 1" in finding


@pytest.mark.parametrize("content", ["a: [", "- 1\n- 2\n", "", "\x00", "base: {a: 1}\n", "name: x\n? [a]\n: 1\n"])
def test_files_that_are_no_options(tmp_path, monkeypatch, capsys, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yml").write_text(content)
    assert cli.main(["train", "-opt", "x.yml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'x.yml'" in line


def test_an_unknown_packaged_name_is_told_the_nearest(capsys):
    assert cli.main(["test", "-opt", "lightbsr_x4_isso"]) == 2
    assert "did you mean 'lightbsr_x4_iso'?" in capsys.readouterr().err
