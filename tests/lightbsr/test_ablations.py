"""Ablations: option files of a few lines over a base, networks that lack what was taken away, a few iterations each."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from lightbsr.packaged import find_option_file, packaged_options
from lightbsr.training.option_files import check_options
from lightbsr_arch import LightBSR, LightBSRTeacher, build_from_state_dict, network_options
from lightbsr_compat import InputError, load_options
from lightbsr_data import kernel_basis
from lightbsr_models.networks import LightBSRWithEstimatorNoise

SIZES = dict(num_feat=8, num_group=2, num_block=1, num_idr=16, num_channel_idr=4, layer_scale_init=1.0)
ABLATIONS = {name: path for name, path in packaged_options().items() if Path(path).parent.name == "ablation"}
TEACHERS = sorted(name for name in ABLATIONS if "teacher" in name)


# --- base: NAME ---


def test_base_is_merged_section_by_section(tmp_path):
    (tmp_path / "a.yml").write_text("x: 1\ns: {p: 1, q: {r: 2, t: 3}, l: [1, 2]}\n")
    (tmp_path / "b.yml").write_text("base: a.yml\ns: {q: {r: 5}, l: [3], p: ~}\ny: 7\n")
    (tmp_path / "c.yml").write_text("base: b.yml\nx: 9\n")
    expected = {"x": 9, "y": 7, "s": {"p": None, "q": {"r": 5, "t": 3}, "l": [3]}}
    assert load_options(tmp_path / "c.yml") == expected
    assert load_options(tmp_path / "c.yml", ["s:q:t=8"])["s"]["q"] == {"r": 5, "t": 8}


def test_a_base_that_is_not_there_and_one_that_goes_round(tmp_path):
    (tmp_path / "a.yml").write_text("base: lightbsr_student_x4_isu\n")
    with pytest.raises(InputError, match=r"a.yml': base is .*did you mean 'lightbsr_student_x4_iso'"):
        load_options(tmp_path / "a.yml")
    (tmp_path / "b.yml").write_text("base: c.yml\n")
    (tmp_path / "c.yml").write_text("base: b.yml\n")
    with pytest.raises(InputError, match="has this file for its own base"):
        load_options(tmp_path / "b.yml")


# --- the option files ---


def flat(options, prefix=""):
    for name, value in options.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}:")
        else:
            yield f"{prefix}{name}", value


@pytest.mark.parametrize("name", sorted(ABLATIONS))
def test_a_file_is_short_and_differs_in_what_it_is_about(name):
    text = Path(ABLATIONS[name]).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 9
    options, base = load_options(ABLATIONS[name]), load_options(find_option_file(yaml.safe_load(text)["base"]))
    assert options["name"] == name
    said = dict(flat(options))
    differing = {key for key, value in flat(base) if said.get(key, "absent") != value} | {*said} - {*dict(flat(base))}
    differing -= {"name", "path:pretrain_network_teacher", "find_unused_parameters"}
    contrast = {"contrast_opt:type", "contrast_opt:temperature", "contrast_opt", "idr_pretrain_iter", "total_iter"}
    allowed = {
        "no_prior": {"network_g:use_prior"},
        "no_contrast": {f"train:{key}" for key in contrast} | {"datasets:train:num_views"},
        "no_modulation": {"network_g:spatial_modulation", "network_g:channel_modulation"},
        "spatial_only": {"network_g:channel_modulation"},
        "channel_only": {"network_g:spatial_modulation"},
        "no_correction": {"network_g:idr_correction"},
        "estimator_noise": {"network_g:estimator_noise"},
    }
    expected = set().union(*(keys for part, keys in allowed.items() if part in name))
    if "student" in name and not re.search("modulation|only|correction", name):
        expected = set()  # the teacher alone differs
    elif views := re.search(r"views(\d)", name):
        expected = {"datasets:train:num_views"}
        assert options["datasets"]["train"]["num_views"] == int(views[1])
    assert differing == expected


# --- the networks ---

OPTIONS = [
    {"spatial_modulation": False},
    {"channel_modulation": False},
    {"spatial_modulation": False, "channel_modulation": False},
    {"idr_correction": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_networks_are_read_off_their_weights(options):
    network = LightBSR(**SIZES, **options).eval()
    _, found = network_options(network.state_dict())
    assert {name: found[name] for name in options} == options
    lq = torch.rand(1, 3, 9, 7)
    assert torch.equal(build_from_state_dict(network.state_dict())(lq), network(lq))
    teacher = LightBSRTeacher(**SIZES, **options, queue_size=8).eval()
    prior = torch.rand(1, 15)
    assert torch.equal(build_from_state_dict(teacher.state_dict())(lq, prior), teacher(lq, prior))


def test_what_is_taken_away_has_no_say():
    lq = torch.rand(1, 3, 12, 12)

    def changes(options, which):
        """Whether the SR image changes with that IDR."""
        network = LightBSR(**SIZES, **options).eval()
        idr = network.estimate_idr(lq)
        other = idr._replace(**{which: getattr(idr, which) + 1})
        return not torch.equal(network.sr_network(lq, idr), network.sr_network(lq, other))

    assert [changes({}, which) for which in ("channel", "spatial")] == [True, True]
    assert [changes({"spatial_modulation": False}, w) for w in ("channel", "spatial")] == [True, False]
    assert [changes({"channel_modulation": False}, w) for w in ("channel", "spatial")] == [False, True]
    assert [changes(OPTIONS[2], which) for which in ("channel", "spatial")] == [False, False]


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
    assert torch.allclose(noisy(lq)[1:], noisy(lq[1:]), atol=1e-5)  # whatever else is in the batch
    assert torch.equal(still(lq), network(lq))


# --- a few iterations of each ---


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.RandomState(0)
    for i in range(4):
        image = cv2.resize(random.uniform(0, 255, (9, 9, 3)), (64, 64), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{i}.png"), image.clip(0, 255).astype(np.uint8))
    return folder


def forced(options, photographs):
    """``--force_yml`` entries that make an option file small enough for a test."""
    entries = [f"datasets:{phase}:dataroot_gt={photographs}" for phase in options["datasets"]]
    entries += [f"datasets:{phase}:io_backend={{type: disk}}" for phase in options["datasets"]]
    entries += [f"network_g:{name}={value}" for name, value in SIZES.items()]
    entries += ["num_gpu=0", "train:total_iter=2", "logger:save_checkpoint_freq=2", "logger:use_tb_logger=false"]
    entries += ["val:val_freq=2", "datasets:train:gt_size=32", "datasets:train:num_worker_per_gpu=0"]
    entries += ["datasets:train:batch_size_per_gpu=2", "datasets:train:dataset_enlarge_ratio=1"]
    if options["train"]["idr_pretrain_iter"]:
        entries.append("train:idr_pretrain_iter=1")
    if options["network_g"]["type"] == "LightBSRTeacher":
        entries.append("network_g:queue_size=8")
    return entries


# In one process: starting Python and torch takes longer than all the training here.
DRIVER = """
import os, sys, json
from lightbsr_cli import main
for name, entries in json.load(open("runs.json")):
    assert main(["train", "-opt", name, "--force_yml", *entries]) == 0, name
"""


def test_each_trains(photographs, tmp_path):
    names = [name for name in TEACHERS if not re.search("views[3567]", name)]
    names += [name.replace("teacher", "student") for name in names]
    runs = [(name, forced(load_options(ABLATIONS[name]), photographs)) for name in names]
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    words = [sys.executable, "-W", "ignore", "-c", DRIVER]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    log = result.stdout + result.stderr
    assert log.count("End of training") == len(names) and "l_pix: nan" not in log
    for name in names:
        folder = tmp_path / "experiments" / name
        # BasicSR's copy of the option file still says what it is based on, and can be used again.
        assert load_options(folder / f"{name}.yml") == load_options(ABLATIONS[name])
        network = build_from_state_dict(torch.load(folder / "models" / "net_g_latest.pth")["params"])
        if "no_prior" in name and "teacher" in name:
            assert network.query_estimator[0].in_channels == 3


def test_contrast_must_be_taken_away_in_so_many_words(photographs, capsys):
    name = "lightbsr_teacher_x4_iso_no_contrast"
    options = load_options(ABLATIONS[name], forced(load_options(ABLATIONS[name]), photographs))
    assert check_options(options, is_train=True) == []
    options["train"]["idr_pretrain_iter"] = 1
    assert any("must be 0 where contrast_opt is ~" in f for f in check_options(options, is_train=True))
    del options["train"]["contrast_opt"]
    assert any("contrast_opt is missing" in f for f in check_options(options, is_train=True))
