"""Ablations (LightBSR, ICCV 2025, Tables 1 and 2, Fig. 4): the changes of each option file, and its network."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from lightbsr.packaged import packaged_options
from lightbsr.training.option_files import check_options
from lightbsr_arch import LightBSR, LightBSRTeacher, build_from_state_dict, network_options
from lightbsr_compat import InputError, load_options
from lightbsr_data import kernel_basis
from lightbsr_models.networks import LightBSRWithEstimatorNoise

SIZES = dict(num_feat=8, num_group=2, num_block=1, num_idr=16, num_channel_idr=4, layer_scale_init=1.0)
ABLATIONS = {name: path for name, path in packaged_options().items() if Path(path).parent.name == "ablation"}

SPATIAL_OFF = {"network_g:spatial_modulation": False}
CHANNEL_OFF = {"network_g:channel_modulation": False}
CORRECTION_OFF = {"network_g:idr_correction": False}
NOISE = {"network_g:type": "LightBSRWithEstimatorNoise", "network_g:estimator_noise": 1.0}
UNUSED = {"find_unused_parameters": True}
PRIOR_OFF = {"network_g:use_prior": False}
CONTRAST_OFF = {
    "datasets:train:num_views": 1,
    "train:contrast_opt": None,
    "train:contrast_opt:type": "absent",
    "train:contrast_opt:temperature": "absent",
    "train:idr_pretrain_iter": 0,
    "train:total_iter": 582000,
}
# Row of the table -> what its teacher's file and its student's file change. T4 and M4 are the main files.
ROWS = {
    "T1": (PRIOR_OFF | CONTRAST_OFF, {}),
    "T2": (CONTRAST_OFF, {}),
    "T3": (PRIOR_OFF, {}),
    "M1": (SPATIAL_OFF | CHANNEL_OFF | CORRECTION_OFF | UNUSED, SPATIAL_OFF | CHANNEL_OFF | CORRECTION_OFF),
    "M2": (CHANNEL_OFF | UNUSED, CHANNEL_OFF | UNUSED),
    "M3": (SPATIAL_OFF | UNUSED, SPATIAL_OFF | UNUSED),
    "M5": (CORRECTION_OFF, CORRECTION_OFF),
    **{f"D{d}": ({"datasets:train:num_views": d}, {}) for d in (2, 3, 5, 6, 7, 8)},
}
M5_WEIGHTS = {"path:pretrain_network_g": "experiments/lightbsr_student_x4_iso_M5/models/net_g_latest.pth"}
CHANGES = {"lightbsr_x4_iso_M4-": NOISE, "lightbsr_x4_iso_M5-": NOISE | CORRECTION_OFF | M5_WEIGHTS}
for row, (teacher, student) in ROWS.items():
    weights = f"experiments/lightbsr_teacher_x4_iso_{row}/models/net_g_latest.pth"
    CHANGES[f"lightbsr_teacher_x4_iso_{row}"] = teacher
    CHANGES[f"lightbsr_student_x4_iso_{row}"] = student | {"path:pretrain_network_teacher": weights}


# --- base: NAME ---


def test_base_is_merged_section_by_section(tmp_path):
    (tmp_path / "a.yml").write_text("x: 1\ns: {p: 1, q: {r: 2, t: 3}, l: [1, 2]}\n")
    (tmp_path / "b.yml").write_text("base: a.yml\ns: {q: {r: 5}, l: [3], p: ~}\ny: 7\n")
    (tmp_path / "c.yml").write_text("base: b.yml\nx: 9\n")
    expected = {"x": 9, "y": 7, "s": {"p": None, "q": {"r": 5, "t": 3}, "l": [3]}}
    assert load_options(tmp_path / "c.yml") == expected
    assert load_options(tmp_path / "c.yml", ["s:q:t=8"])["s"]["q"] == {"r": 5, "t": 8}


def test_null_removes_arguments_and_named_entries(tmp_path):
    (tmp_path / "a.yml").write_text(
        "datasets: {train: {}, val: {degradation: {sigma: 1}}}\nnetwork_g: {type: A, x: 1}\n"
        "val: {suffix: a, metrics: {psnr: {type: p}, ssim: {type: s}}}\n"
        "train: {scheduler: {type: S, warmup_iter: 9}, optim_g: {type: Adam, betas: [0.9, 0.99]}}\n"
    )
    (tmp_path / "b.yml").write_text(
        "base: a.yml\ndatasets: {val: {degradation: {sigma: ~, theta: 2}}}\nnetwork_g: {x: ~}\n"
        "val: {suffix: ~, metrics: {psnr: ~}}\n"
        "train: {scheduler: {type: M, warmup_iter: ~, gamma: 1}, optim_g: {type: SGD, betas: ~}}\n"
    )
    options = load_options(tmp_path / "b.yml")
    assert options["datasets"]["val"] == {"degradation": {"theta": 2}}
    assert options["network_g"] == {"type": "A"}
    assert options["val"] == {"suffix": None, "metrics": {"ssim": {"type": "s"}}}
    assert options["train"] == {"scheduler": {"type": "M", "gamma": 1}, "optim_g": {"type": "SGD"}}
    assert load_options(tmp_path / "b.yml", ["datasets:val=~"])["datasets"] == {"train": {}}


def test_a_missing_or_circular_base_is_refused(tmp_path):
    (tmp_path / "a.yml").write_text("base: lightbsr_student_x4_isu\n")
    with pytest.raises(InputError, match=r"a.yml': base is .*did you mean 'lightbsr_student_x4_iso'"):
        load_options(tmp_path / "a.yml")
    (tmp_path / "b.yml").write_text("base: c.yml\n")
    (tmp_path / "c.yml").write_text("base: b.yml\n")
    with pytest.raises(InputError, match="has this file for its own base"):
        load_options(tmp_path / "b.yml")


# --- the option files ---


def flat(options, prefix=""):
    """Options as {"section:name": value}."""
    result = {}
    for name, value in options.items():
        result |= flat(value, f"{prefix}{name}:") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return result


@pytest.mark.parametrize("name", sorted(ABLATIONS.keys() | CHANGES.keys()))
def test_a_file_changes_the_papers_options_and_nothing_else(name):
    base = yaml.safe_load(Path(ABLATIONS[name]).read_text(encoding="utf-8"))["base"]
    assert base == name.rpartition("_")[0]
    options, main = flat(load_options(ABLATIONS[name])), flat(load_options(packaged_options()[base]))
    differing = {key for key in options.keys() | main.keys() if options.get(key, "absent") != main.get(key, "absent")}
    assert {key: options.get(key, "absent") for key in differing} == CHANGES[name] | {"name": name}


# Counted by hand: an IDR-CB has 11,688 parameters (8 of them), a spatial gate 2,688 and a channel gate 3,456 (64 each).
@pytest.mark.parametrize(("row", "count"), [("M1", 2_773_227), ("M2", 3_038_763), ("M3", 3_087_915), ("M5", 3_166_443)])
def test_parameters(row, count):
    options = load_options(ABLATIONS[f"lightbsr_student_x4_iso_{row}"])["network_g"]
    assert options.pop("type") == "LightBSR"
    network = LightBSR(**options)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("name", sorted(name for name in ABLATIONS if re.search("(teacher|student).*_M", name)))
def test_find_unused_parameters_is_set_where_a_parameter_has_no_gradient(name):
    options = load_options(ABLATIONS[name])
    sizes = {key: value for key, value in options["network_g"].items() if key != "type"} | SIZES
    lq = torch.rand(2, 3, 8, 8)
    if "teacher" in name:
        network = LightBSRTeacher(**sizes)
        output = network.contrast(lq[None], torch.rand(1, 15), super_resolve=True)
        (output.queries.sum() + output.sr.sum()).backward()
    else:
        network = LightBSR(**sizes)
        output = network.forward_with_idr(lq)
        (output.sr.sum() + output.idr.channel.sum() + output.idr.spatial.sum()).backward()
    unused = any(p.grad is None for p in network.parameters() if p.requires_grad)
    assert unused == options.get("find_unused_parameters", False)


# --- the networks ---


@pytest.mark.parametrize(
    ("options", "modulated_by"),
    [
        ({"spatial_modulation": False}, {"channel"}),
        ({"channel_modulation": False}, {"spatial"}),
        ({"spatial_modulation": False, "channel_modulation": False, "idr_correction": False}, set()),
        ({"idr_correction": False}, {"channel", "spatial"}),
    ],
    ids=["channel", "spatial", "none", "both"],
)
def test_networks_lack_the_disabled_parts_and_are_rebuilt_from_their_weights(options, modulated_by):
    network, lq = LightBSR(**SIZES, **options).eval(), torch.rand(1, 3, 9, 7)
    idr, sr = network.estimate_idr(lq), network(lq)
    others = {which: idr._replace(**{which: getattr(idr, which) + 1}) for which in idr._fields}
    assert {which for which, o in others.items() if not torch.equal(network.sr_network(lq, o), sr)} == modulated_by
    _, found = network_options(network.state_dict())
    assert {name: found[name] for name in options} == options
    assert torch.equal(build_from_state_dict(network.state_dict())(lq), sr)
    teacher, prior = LightBSRTeacher(**SIZES, **options, queue_size=8).eval(), torch.rand(1, 15)
    assert torch.equal(build_from_state_dict(teacher.state_dict())(lq, prior), teacher(lq, prior))


def test_a_teacher_without_prior_ignores_it():
    options = dict(use_prior=False, kernel_basis=kernel_basis(), setting="iso", queue_size=8)
    teacher = LightBSRTeacher(**SIZES, **options).eval()
    lq = torch.rand(2, 3, 8, 8)
    assert torch.equal(teacher(lq, torch.zeros(2, 15)), teacher(lq, torch.rand(2, 15)))
    rebuilt = build_from_state_dict(teacher.state_dict())
    assert rebuilt.use_prior is False and rebuilt.setting == "iso"
    assert torch.equal(rebuilt(lq, torch.rand(2, 15)), teacher(lq, torch.rand(2, 15)))


def test_estimator_noise():
    torch.manual_seed(0)
    network = LightBSR(**SIZES).eval()
    noisy = LightBSRWithEstimatorNoise(**SIZES, estimator_noise=1.0).eval()
    noisy.load_state_dict(network.state_dict())
    still = LightBSRWithEstimatorNoise(**SIZES, estimator_noise=0.0).eval()
    still.load_state_dict(network.state_dict())
    lq = torch.rand(2, 3, 12, 12)
    assert not torch.equal(noisy(lq), network(lq))
    assert torch.equal(noisy(lq), noisy(lq))
    assert torch.allclose(noisy(lq)[1:], noisy(lq[1:]), atol=1e-5)  # independent of the batch
    assert torch.equal(still(lq), network(lq))


def test_no_contrast_needs_a_null_loss_and_no_stage_1(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # without data: their absence is all that is found
    options = load_options(ABLATIONS["lightbsr_teacher_x4_iso_T2"])
    assert all("is no folder" in finding for finding in check_options(options, is_train=True))
    options["train"]["idr_pretrain_iter"] = 1
    assert any("must be 0 where contrast_opt is ~" in f for f in check_options(options, is_train=True))
    del options["train"]["contrast_opt"]
    assert any("contrast_opt is missing" in f for f in check_options(options, is_train=True))
