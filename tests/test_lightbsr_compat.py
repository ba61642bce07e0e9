"""What BasicSR is mended of, each against the fault that it had; safe reading of option files and checkpoints."""

import pickle
import random
import shlex
import subprocess
import sys
from types import SimpleNamespace

import basicsr.test
import basicsr.train
import numpy as np
import pytest
import torch
import yaml
from basicsr.data import build_dataloader
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.models.base_model import BaseModel
from basicsr.utils import options as basicsr_options

from lightbsr_compat import (
    InputError,
    did_you_mean,
    has_basicsr,
    load_options,
    load_weights_file,
    require_basicsr,
    split_force_yml,
)

# --- errors ---


def test_nearest_names_one_or_all():
    assert did_you_mean("upscal", ["upscale", "num_feat"]) == "; did you mean 'upscale'?"
    assert did_you_mean("zzz", ["b", "a"]) == "; known: a, b"


def test_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)


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


def parse(monkeypatch, path, *arguments):
    monkeypatch.setattr("sys.argv", ["test.py", "-opt", str(path), *arguments])
    return basicsr_options.parse_options(str(path.parent), is_train=False)[0]


@pytest.mark.parametrize("module", [basicsr_options, basicsr.train, basicsr.test])
def test_basicsrs_loops_read_options_safely(monkeypatch, tmp_path, module):
    canary = tmp_path / "canary"
    path = write(tmp_path, yaml.safe_dump(MINIMAL) + f"trap: {attack(canary)}\n")
    monkeypatch.setattr("sys.argv", ["train.py", "-opt", str(path)])
    with pytest.raises(InputError, match=r"options\.yml"):
        module.parse_options(str(tmp_path), is_train=True)
    assert not canary.exists()


def test_the_rest_of_basicsrs_parsing_stays(monkeypatch, tmp_path):
    text = yaml.safe_dump(MINIMAL | {"scale": 3, "datasets": {"test_1": {"name": "a"}}, "lr": 1})
    options = parse(monkeypatch, write(tmp_path, text.replace("lr: 1", "lr: 1e-4")))
    assert options["lr"] == 1e-4
    assert options["datasets"]["test_1"] == dict(name="a", phase="test", scale=3)
    assert options["path"]["results_root"] == str(tmp_path / "results" / "x")
    assert (options["is_train"], options["dist"], options["rank"], options["world_size"]) == (False, False, 0, 1)
    assert basicsr_options.yaml is yaml  # put back


def test_forced_options_are_yaml(monkeypatch, tmp_path):
    path = write(tmp_path, yaml.safe_dump(MINIMAL))
    forced = ["--force_yml", "train:a=1e-4", "train:b=[1, 2]", "train:c=~", "name=y", "train:d=a=b"]
    options = parse(monkeypatch, path, *forced)
    assert options["train"] == dict(a=1e-4, b=[1, 2], c=None, d="a=b")
    assert options["name"] == "y"


@pytest.mark.parametrize(
    "spelling",
    [
        lambda entry: ["--force_yml", entry],
        lambda entry: [f"--force_yml={entry}"],
        lambda entry: ["--force", entry],  # argparse takes abbreviations
        lambda entry: [f"--force_y={entry}"],
    ],
    ids=["plain", "equals sign", "abbreviated", "abbreviated, equals sign"],
)
def test_forced_options_run_no_code(monkeypatch, tmp_path, spelling):
    canary = tmp_path / "canary"
    path = write(tmp_path, yaml.safe_dump(MINIMAL))
    entry = f"train:a=[__import__('pathlib').Path({str(canary)!r}).touch()]"
    try:
        parse(monkeypatch, path, *spelling(entry))
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
    ["", "- 1\n- 2\n", "hello", "a: [1", "a: !unknown 3", "a: 2001-99-99"],
    ids=["empty", "list", "text", "unclosed", "tag", "no such day"],
)
def test_what_holds_no_options_is_refused(tmp_path, text):
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


def test_checkpoints_run_no_code(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "weights.pth"
    torch.save({"params": Trap(canary)}, path)
    torch.load(path, weights_only=False)
    assert canary.exists()  # the trap works
    canary.unlink()
    with pytest.raises(InputError, match=r"weights\.pth"):
        load_weights_file(path)
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"params": Trap(canary)}, protocol=2))
    with pytest.raises(InputError, match=r"old\.pth"):
        load_weights_file(tmp_path / "old.pth")
    assert not canary.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not a zip", b"\x80\x02}q\x00."])
def test_garbage_is_no_checkpoint(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.pth.*cannot be read as a PyTorch checkpoint"):
        load_weights_file(tmp_path / "weights.pth")


def test_a_truncated_checkpoint_is_refused(tmp_path):
    torch.save({"params": {"w": torch.rand(1000)}}, tmp_path / "whole.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:2000])
    with pytest.raises(InputError, match=r"half\.pth"):
        load_weights_file(tmp_path / "half.pth")


def test_a_missing_checkpoint_is_refused(tmp_path):
    for path in (tmp_path / "gone.pth", tmp_path):
        with pytest.raises(InputError, match="no such checkpoint file"):
            load_weights_file(path)


def test_a_sound_checkpoint_is_read(tmp_path):
    torch.save({"params": {"w": torch.arange(3)}, "iter": 5}, tmp_path / "weights.pth")
    read = load_weights_file(tmp_path / "weights.pth")
    assert read["iter"] == 5 and torch.equal(read["params"]["w"], torch.arange(3))


# --- resume ---


def resume(tmp_path, **options):
    path = dict(training_states=str(tmp_path), models=str(tmp_path), resume_state=None, pretrain_network_g=None)
    opt = dict(auto_resume=False, path={**path, **options.pop("path", {})}, network_g={}) | options
    return basicsr.train.load_resume_state(opt), opt


def save_state(path, iteration):
    """A training state and the weights that belong to it."""
    torch.save({"params": {}}, path.with_name(f"net_g_{iteration}.pth"))
    torch.save(dict(epoch=1, iter=iteration, optimizers=[], schedulers=[]), path)
    return str(path)


def test_resume_needs_no_gpu(tmp_path):
    state, opt = resume(tmp_path, path={"resume_state": save_state(tmp_path / "7.state", 7)})
    assert state["iter"] == 7
    assert opt["path"]["pretrain_network_g"] == str(tmp_path / "net_g_7.pth")


def test_auto_resume_takes_the_newest_by_number(tmp_path):
    for iteration in (9, 100, 20):
        save_state(tmp_path / f"{iteration}.state", iteration)
    state, opt = resume(tmp_path, auto_resume=True)
    assert state["iter"] == 100
    assert opt["path"]["resume_state"] == str(tmp_path / "100.state")


def test_nothing_to_resume(tmp_path):
    assert resume(tmp_path)[0] is None
    assert resume(tmp_path, auto_resume=True)[0] is None
    assert resume(tmp_path, auto_resume=True, path={"training_states": str(tmp_path / "nowhere")})[0] is None


def test_resuming_from_weights_is_refused(tmp_path):
    torch.save({"params": {"w": torch.zeros(1)}}, tmp_path / "net_g_7.pth")
    with pytest.raises(InputError, match=r"net_g_7\.pth.*is not a training state.*\.state file"):
        resume(tmp_path, path={"resume_state": str(tmp_path / "net_g_7.pth")})
    torch.save(torch.zeros(1), tmp_path / "tensor.pth")
    with pytest.raises(InputError, match="is not a training state"):
        resume(tmp_path, path={"resume_state": str(tmp_path / "tensor.pth")})


def test_resuming_from_a_missing_or_broken_state_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.state"):
        resume(tmp_path, path={"resume_state": str(tmp_path / "gone.state")})
    (tmp_path / "5.state").write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"5\.state"):
        resume(tmp_path, auto_resume=True)


# --- averages ---


def network_with_statistics(value):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    network.register_buffer("queue", torch.full((3,), value))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(value)
    network[1].running_mean.fill_(value)
    network[1].running_var.fill_(value)
    network[1].num_batches_tracked.fill_(int(value))
    return network


def test_ema_averages_parameters_and_statistics_and_copies_the_rest():
    model = SimpleNamespace(net_g=network_with_statistics(10.0), net_g_ema=network_with_statistics(2.0))
    model.get_bare_model = lambda network: network
    BaseModel.model_ema(model, decay=0.75)
    average = model.net_g_ema
    for value in (*average.parameters(), average[1].running_mean, average[1].running_var):
        torch.testing.assert_close(value.detach(), torch.full_like(value, 0.75 * 2 + 0.25 * 10))
    assert average[1].num_batches_tracked == 10
    assert average.queue.tolist() == [10.0] * 3
    assert model.net_g[1].running_mean.tolist() == [10.0] * 2  # the source is left alone


def test_ema_with_decay_0_copies_exactly():
    model = SimpleNamespace(net_g=network_with_statistics(0.1), net_g_ema=network_with_statistics(7.3))
    model.get_bare_model = lambda network: network
    BaseModel.model_ema(model, decay=0)
    expected = model.net_g.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.net_g_ema.state_dict().items())


# --- workers ---


class Draws(torch.utils.data.Dataset):
    """What numpy, random and torch draw in a worker."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor([np.random.randint(2**31), random.getrandbits(31), int(torch.randint(2**31, ()))])


def epochs_of_draws(seed, workers=2):
    torch.manual_seed(seed)
    options = dict(phase="train", batch_size_per_gpu=1, num_worker_per_gpu=workers)
    dataset = Draws()
    loader = build_dataloader(dataset, options, num_gpu=0, sampler=EnlargedSampler(dataset, 1, 0), seed=seed)
    return [torch.cat(list(loader)) for _ in range(2)]


def test_every_worker_and_epoch_draws_anew():
    draws = torch.cat(epochs_of_draws(0))
    for source in draws.T:  # numpy, random, torch
        assert len(torch.unique(source)) == 8


def test_workers_follow_the_seed():
    first, again, other = epochs_of_draws(0), epochs_of_draws(0), epochs_of_draws(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not (first[0] == other[0]).any()


# --- importing ---


@pytest.mark.parametrize(
    "imports",
    [
        "import lightbsr_compat, basicsr",
        "import lightbsr_models; import lightbsr_data; import lightbsr_models",
        "import lightbsr_arch",
    ],
)
def test_each_package_can_be_imported_first(imports):
    subprocess.run([sys.executable, "-W", "ignore", "-c", imports], check=True, timeout=120)
