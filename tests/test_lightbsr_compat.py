"""Safe reading of option files and checkpoints; the faults of BasicSR that a training command corrects."""

import importlib
import logging
import pickle
import random
import shlex

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from lightbsr.training.basicsr_fixes import fixed_basicsr
from lightbsr_compat import (
    InputError,
    has_basicsr,
    load_options,
    load_weights_file,
    require_basicsr,
    split_force_yml,
)

# --- errors ---


def test_missing_basicsr_is_explained(monkeypatch):
    require_basicsr("training")  # it is there
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not has_basicsr()
    with pytest.raises(InputError, match=r"training needs BasicSR.*3\.10 to 3\.12"):
        require_basicsr("training")


# --- option files ---


def write(tmp_path, text):
    path = tmp_path / "options.yml"
    path.write_text(text, encoding="utf-8")
    return path


def test_numbers_without_a_dot_are_numbers(tmp_path):
    text = "a: 1e-4\nb: -2E+3\nc: 1.5e2\nd: 7\ne: 2.0e-4\nf: 1e-4x\ng: '1e-4'\nh: e4\n"
    options = load_options(write(tmp_path, text))
    assert options == dict(a=1e-4, b=-2000.0, c=150.0, d=7, e=2e-4, f="1e-4x", g="1e-4", h="e4")
    assert type(options["a"]) is float and type(options["d"]) is int


def attack(canary):
    return f"!!python/object/apply:os.system [{shlex.quote('touch ' + str(canary))}]"


def test_option_files_run_no_code(tmp_path):
    canary = tmp_path / "canary"
    path = write(tmp_path, f"name: {attack(canary)}\n")
    yaml.load(path.read_text(), Loader=yaml.UnsafeLoader)
    assert canary.exists()  # the trap works
    canary.unlink()
    with pytest.raises(InputError, match=r"options\.yml"):
        load_options(path)
    assert not canary.exists()


MINIMAL = dict(name="x", num_gpu=0, manual_seed=0, datasets={}, path={}, train=dict(a=1), logger={})


@pytest.fixture
def basicsr():
    """BasicSR within a training command."""
    import basicsr.test
    import basicsr.train

    with fixed_basicsr():
        yield basicsr


@pytest.fixture
def parse(basicsr, monkeypatch):
    """Options as BasicSR's test loop parses them."""

    def read(path, *arguments):
        monkeypatch.setattr("sys.argv", ["test.py", "-opt", str(path), *arguments])
        return basicsr.test.parse_options(str(path.parent), is_train=False)[0]

    return read


@pytest.mark.parametrize("module", ["utils.options", "train", "test"])
def test_basicsrs_loops_read_options_safely(basicsr, monkeypatch, tmp_path, module):
    canary = tmp_path / "canary"
    path = write(tmp_path, yaml.safe_dump(MINIMAL) + f"trap: {attack(canary)}\n")
    monkeypatch.setattr("sys.argv", ["train.py", "-opt", str(path)])
    with pytest.raises(InputError, match=r"options\.yml"):
        importlib.import_module(f"basicsr.{module}").parse_options(str(tmp_path), is_train=True)
    assert not canary.exists()


def test_forced_options_are_yaml(parse, tmp_path):
    path = write(tmp_path, yaml.safe_dump(MINIMAL))
    forced = ["--force_yml", "train:a=1e-4", "train:b=[1, 2]", "train:c=~", "name=y", "train:d=a=b", "train:e=None"]
    options = parse(path, *forced)
    assert options["train"] == dict(a=1e-4, b=[1, 2], c=None, d="a=b", e=None)
    assert options["name"] == "y"


@pytest.mark.parametrize(
    "spelling",
    [
        lambda entry: ["--force_yml", entry],
        lambda entry: [f"--force_y={entry}"],  # argparse takes abbreviations
    ],
    ids=["plain", "abbreviated"],
)
def test_forced_options_run_no_code(parse, tmp_path, spelling):
    canary = tmp_path / "canary"
    path = write(tmp_path, yaml.safe_dump(MINIMAL))
    entry = f"train:a=[__import__('pathlib').Path({str(canary)!r}).touch()]"
    try:
        parse(path, *spelling(entry))
    except (InputError, SystemExit):
        pass  # refused is fine, too
    assert not canary.exists()


def test_forced_yaml_tags_run_no_code(tmp_path):
    canary = tmp_path / "canary"
    with pytest.raises(InputError, match="is not a YAML value"):
        load_options(write(tmp_path, "a: 1\n"), [f"a={attack(canary)}"])
    assert not canary.exists()


@pytest.mark.parametrize("entry", ["train:a", "nowhere:a=1", "name:a=1", "train:a:b=1"])
def test_forced_options_must_name_a_section(tmp_path, entry):
    with pytest.raises(InputError, match="SECTION:NAME=VALUE"):
        load_options(write(tmp_path, "name: x\ntrain: {a: 1}\n"), [entry])


@pytest.mark.parametrize(
    "text",
    ["", "- 1\n- 2\n", "hello", "a: [1", "a: !unknown 3", "a: 2001-99-99", "base: {a: 1}"],
    ids=["empty", "list", "text", "unclosed", "tag", "no such day", "base"],
)
def test_files_without_options_are_refused(tmp_path, text):
    with pytest.raises(InputError, match=r"options\.yml"):
        load_options(write(tmp_path, text))


def test_missing_and_binary_option_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.yml.*cannot be read"):
        load_options(tmp_path / "gone.yml")
    (tmp_path / "binary.yml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match=r"binary\.yml.*cannot be read"):
        load_options(tmp_path / "binary.yml")


def test_forced_entries_are_split_off_the_command_line():
    argv = ["x.py", "-opt", "a.yml", "--force_yml", "a=1", "b:c=2", "--launcher", "pytorch", "--force_yml", "d=3"]
    assert split_force_yml(argv) == (["x.py", "-opt", "a.yml", "--launcher", "pytorch"], ["a=1", "b:c=2", "d=3"])
    assert split_force_yml(["x.py", "-opt", "a.yml"]) == (["x.py", "-opt", "a.yml"], [])


# --- checkpoints ---


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return open, (self.canary, "w")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "1.state"])
def test_checkpoints_run_no_code(tmp_path, name):
    canary, path, trap = tmp_path / "canary", tmp_path / name, tmp_path / "trap.pth"
    torch.save({"params": Trap(canary)}, trap)
    torch.load(trap, weights_only=False)
    assert canary.exists()  # the trap works
    canary.unlink()
    for content in (trap.read_bytes(), pickle.dumps({"params": Trap(canary)}, protocol=2)):
        path.write_bytes(content)
        with pytest.raises(InputError, match=name):
            load_weights_file(path)
    assert not canary.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not a zip", b"\x80\x02}q\x00.", None])
def test_garbage_and_truncated_files_are_no_checkpoints(tmp_path, content):
    torch.save({"params": {"w": torch.rand(1000)}}, tmp_path / "whole.pth")
    (tmp_path / "weights.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:2000] if content is None else content)
    with pytest.raises(InputError, match=r"weights\.pth.*cannot be read as a PyTorch checkpoint"):
        load_weights_file(tmp_path / "weights.pth")


def test_a_missing_checkpoint_is_refused(tmp_path):
    for path in (tmp_path / "gone.pth", tmp_path):
        with pytest.raises(InputError, match="no such checkpoint file"):
            load_weights_file(path)


def test_a_valid_checkpoint_is_read(tmp_path):
    torch.save({"params": {"w": torch.arange(3)}, "iter": 5}, tmp_path / "weights.pth")
    read = load_weights_file(tmp_path / "weights.pth")
    assert read["iter"] == 5 and torch.equal(read["params"]["w"], torch.arange(3))
    save_file({"w": torch.arange(3)}, tmp_path / "weights.safetensors")
    assert torch.equal(load_weights_file(tmp_path / "weights.safetensors")["w"], torch.arange(3))


# --- resume ---


@pytest.fixture
def resume(basicsr, tmp_path):
    """(training state, changed options) of BasicSR's train loop."""

    def load(**options):
        path = dict(training_states=str(tmp_path), models=str(tmp_path), resume_state=None, pretrain_network_g=None)
        opt = dict(auto_resume=False, path={**path, **options.pop("path", {})}, network_g={}) | options
        return basicsr.train.load_resume_state(opt), opt

    return load


def save_state(path, iteration):
    """A training state and the weights that belong to it."""
    torch.save({"params": {}}, path.with_name(f"net_g_{iteration}.pth"))
    torch.save(dict(epoch=1, iter=iteration, optimizers=[], schedulers=[]), path)
    return str(path)


def test_auto_resume_takes_the_newest_by_number(resume, tmp_path):
    for iteration in (9, 100, 20):
        save_state(tmp_path / f"{iteration}.state", iteration)
    assert resume()[0] is None
    state, opt = resume(auto_resume=True, network_helper={})  # a network that is never saved
    assert state["iter"] == 100
    assert opt["path"]["pretrain_network_g"] == str(tmp_path / "net_g_100.pth")
    assert opt["path"]["resume_state"] == str(tmp_path / "100.state")


def test_resuming_from_weights_is_refused(resume, tmp_path):
    torch.save({"params": {"w": torch.zeros(1)}}, tmp_path / "net_g_7.pth")
    with pytest.raises(InputError, match=r"net_g_7\.pth.*is not a training state.*\.state file"):
        resume(path={"resume_state": str(tmp_path / "net_g_7.pth")})
    torch.save(torch.zeros(1), tmp_path / "tensor.pth")
    with pytest.raises(InputError, match="is not a training state"):
        resume(path={"resume_state": str(tmp_path / "tensor.pth")})


def test_resuming_from_a_missing_or_broken_state_is_refused(resume, tmp_path):
    with pytest.raises(InputError, match=r"gone\.state"):
        resume(path={"resume_state": str(tmp_path / "gone.state")})
    (tmp_path / "5.state").write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"5\.state"):
        resume(auto_resume=True)


# --- data ---


class Draws(torch.utils.data.Dataset):
    """Items drawn by numpy, random and torch; a data set without the attribute ``opt``."""

    def __init__(self, opt):
        pass

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor([np.random.randint(2**31), random.getrandbits(31), int(torch.randint(2**31, ()))])


def epochs_of_draws(basicsr, seed, workers):
    opt = dict(world_size=1, rank=0, num_gpu=0, dist=False, manual_seed=seed, train=dict(total_iter=8))
    train_set = dict(phase="train", type="Draws", name="x", batch_size_per_gpu=1, num_worker_per_gpu=workers)
    opt["datasets"] = {"train": train_set | {"dataset_enlarge_ratio": None}}
    loader, sampler, *_ = basicsr.train.create_train_val_dataloader(opt, logging.getLogger("x"))
    found = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        found.append(torch.cat(list(loader)))
    return torch.cat(found)


def test_every_epoch_draws_other_numbers_that_depend_on_the_seed_alone(basicsr, monkeypatch):
    monkeypatch.setitem(basicsr.utils.registry.DATASET_REGISTRY._obj_map, "Draws", Draws)
    draws = epochs_of_draws(basicsr, 0, workers=0)
    for source in draws.T:  # numpy, random, torch
        assert len(torch.unique(source)) == 8
    assert torch.equal(draws, epochs_of_draws(basicsr, 0, workers=2))
    assert not (draws == epochs_of_draws(basicsr, 1, workers=0)).any()
