"""Damaged weights, training states, pictures and folders through the commands: sentences, nothing else changed."""

import copy
import io
import os
import shutil
import warnings
import zipfile

import cv2
import numpy as np
import pytest
import tiny
import torch
import yaml
from fuzzing import DAMAGES, EXAMPLES, QUIET, paths, section_of, time_limit
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import lightbsr_cli as cli
from lightbsr_arch import LightBSR

NETWORK = LightBSR(num_feat=4, num_group=1, num_block=1, num_idr=16, num_channel_idr=4).state_dict()
NAMES = ["a", "a b", "-o", "b.c", "x" * 240, "é", "\udcff", "%s", "{}", "*", "\n", "c_HR", "\x1b[31m"]
KINDS = [".png", ".jpg", ".bmp", ".webp", ".tif", ".jp2", ".pgm"]


def contents(folder):
    """Every path below a folder, with what cannot change unnoticed."""
    found = [os.path.join(parent, name) for parent, *kinds in os.walk(folder) for names in kinds for name in names]
    return {path: (os.lstat(path).st_mode, os.lstat(path).st_size, os.lstat(path).st_mtime_ns) for path in found}


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """``run(ARGUMENTS)``: the exit status of a command in ``tmp_path/work``, whose rules it checks."""
    work, keeps = tmp_path / "work", tmp_path / "keeps"
    keeps.mkdir()
    work.mkdir()
    cv2.imwrite(str(keeps / "a.png"), np.random.RandomState(0).randint(0, 256, (12, 17, 3), np.uint8))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.chdir(work)

    def command(*arguments, fresh=True):
        before = contents(keeps), sorted(os.listdir(tmp_path))
        capfd.readouterr()
        with time_limit(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                status = cli.main([str(argument) for argument in arguments])
            except SystemExit as error:  # an argument that the parser refuses
                status = error.code
        shown = capfd.readouterr().err
        assert status in (0, 1, 2), shown[-3000:]
        assert "Traceback" not in shown
        assert (status == 0) == ("lightbsr: error: " not in shown), shown
        assert before == (contents(keeps), sorted(os.listdir(tmp_path)))
        assert not list(work.rglob("*unfinished-*"))
        return status

    return command


def emptied(folder):
    """The folder, all that is in it removed."""
    for name in os.listdir(folder):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return folder


def damaged_bytes(data, content):
    """Bytes of a file with a few of them changed, cut out or repeated."""
    content = bytearray(content)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        kind = data.draw(st.sampled_from(["change", "cut", "repeat", "end"]))
        if kind == "change":
            content[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
        elif kind == "cut":
            del content[at : at + data.draw(st.integers(1, 64))]
        elif kind == "repeat":
            content[at:at] = content[at : at + 64]
        else:
            del content[at:]
    return bytes(content)


def damaged_value(data, value):
    """A tensor with another shape, type or values; or something that is none."""
    if not isinstance(value, torch.Tensor) or data.draw(st.booleans()):
        return copy.deepcopy(data.draw(st.sampled_from(DAMAGES)))  # which a further damage may change
    shape = data.draw(st.just(list(value.shape)) | st.lists(st.integers(0, 20), max_size=5))
    number = data.draw(st.sampled_from([0.0, 1.0, -1.0, 1e30, torch.nan, torch.inf]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = data.draw(st.sampled_from([torch.float32, torch.float16, torch.float64, torch.complex64, torch.bool]))
        return torch.full(shape, number).to(kind)


def damaged_checkpoint(data, content, file):
    """Write a nested dictionary as a checkpoint, damaged in what it holds, in its pickle or in its bytes."""
    for _ in range(data.draw(st.integers(0, 3))):
        path = data.draw(st.sampled_from(list(paths(content)) or [("x",)]))
        section, kind = section_of(content, path), data.draw(st.sampled_from(["change", "change", "remove", "rename"]))
        value = section.pop(path[-1], None)
        if kind == "change":
            section[path[-1]] = damaged_value(data, value)
        elif kind == "rename":
            section[str(path[-1]) + data.draw(st.sampled_from("xs_2."))] = value
    buffer = io.BytesIO()
    torch.save(content, buffer)
    saved = buffer.getvalue()
    kind = data.draw(st.sampled_from(["none", "bytes", "pickle"]))
    if kind == "pickle":  # with checksums that fit
        damaged = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(saved)) as old, zipfile.ZipFile(damaged, "w") as new:
            for name in old.namelist():
                entry = old.read(name)
                new.writestr(name, damaged_bytes(data, entry) if name.endswith("data.pkl") else entry)
        saved = damaged.getvalue()
    file.write_bytes(damaged_bytes(data, saved) if kind == "bytes" else saved)


def copied(content):
    return {key: copied(value) for key, value in content.items()} if isinstance(content, dict) else content


@settings(max_examples=EXAMPLES, **QUIET)
@given(data=st.data())
def test_any_weights_are_used_or_refused(run, tmp_path, data):
    work = emptied(tmp_path / "work")
    file = work / data.draw(st.sampled_from(["w.pth", "w.safetensors"]))
    if file.suffix == ".safetensors":
        weights = {key: value for key, value in NETWORK.items() if data.draw(st.integers(0, 19))}
        save_file(weights, file)
        file.write_bytes(damaged_bytes(data, file.read_bytes()))
    else:
        names = data.draw(st.sampled_from([["params"], ["params_ema", "params"], ["x"], ["params_ema"]]))
        damaged_checkpoint(data, {name: copied(NETWORK) for name in names}, file)
    command = data.draw(st.sampled_from(["upscale", "convert", "test"]))
    if command == "upscale":
        if run("upscale", "../keeps/a.png", "--weights", file.name):
            assert not (work / "results").exists()
    elif command == "convert":
        if run("convert", file.name, "out.pth"):
            assert not (work / "out.pth").exists()
    else:
        options = tiny.options("lightbsr_student_x4_iso", tmp_path / "keeps", {"train": None, "logger": None})
        tiny.merge(options, {"network_g": {"num_feat": 4, "num_channel_idr": 4}, "val": {"save_img": False}})
        options |= dict(datasets={"test": {**options["datasets"]["val"]}}, path={"pretrain_network_g": file.name})
        (work / "test.yml").write_text(yaml.safe_dump(options))
        run("test", "-opt", "test.yml")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, image_folder):
    """The folder of a finished run, with its states, and its option file."""
    folder = tmp_path_factory.mktemp("finished")
    options = tiny.options("lightbsr_teacher_x4_aniso_noise", image_folder, {"val": None, "datasets": {"val": None}})
    done = tiny.train(folder, options)
    assert done.returncode == 0, done.stderr[-2000:]
    (option_file,) = folder.glob("*.yml")
    return folder, option_file


@settings(max_examples=EXAMPLES, **QUIET)
@given(data=st.data())
def test_any_training_state_is_used_or_refused(run, tmp_path, finished, data):
    work, (folder, option_file) = emptied(tmp_path / "work"), finished
    shutil.copytree(folder, work, dirs_exist_ok=True)
    experiment = tiny.experiment(work)
    for path in experiment.glob("*/*_[1-4].pth"):
        path.unlink()
    for path in experiment.glob("*/[1-4].state"):
        path.unlink()
    for name in data.draw(
        st.lists(st.sampled_from(["6.state", "5.state", "net_g_6.pth"]), min_size=1, max_size=2, unique=True)
    ):
        (file,) = experiment.glob(f"*/{name}")
        damaged_checkpoint(data, copied(torch.load(file, weights_only=True)) if file.stat().st_size else {}, file)
    run("train", "-opt", option_file.name, "--auto_resume")


@settings(max_examples=EXAMPLES, **QUIET)
@given(data=st.data())
def test_any_folder_of_pictures_is_used_or_refused(run, tmp_path, data):
    work = emptied(tmp_path / "work")
    folder = work / "in"
    folder.mkdir()
    random = np.random.RandomState(data.draw(st.integers(0, 9)))
    for _ in range(data.draw(st.integers(1, 4))):
        suffix = data.draw(st.sampled_from([*KINDS, ".PNG", ".txt"]))
        parent = folder / data.draw(st.sampled_from(["", "", "Set5", "Set5/HR", "Set5/LR"]))
        path = parent / (data.draw(st.sampled_from(NAMES)) + suffix)
        kind = data.draw(st.sampled_from(["picture"] * 6 + ["folder", "pipe", "link", "loop", "outside", "empty"]))
        if os.path.lexists(path) or (parent.exists() and not parent.is_dir()):
            continue
        parent.mkdir(parents=True, exist_ok=True)
        if kind == "picture":
            size = data.draw(st.sampled_from([(1, 1), (3, 40), (16, 17), (33, 36)]))
            image = random.randint(0, 256, size if suffix == ".pgm" else (*size, data.draw(st.sampled_from([3, 4]))))
            deep = data.draw(st.booleans()) and suffix in (".png", ".tif", ".pgm")
            image = image.astype(np.uint16) * 257 if deep else image.astype(np.uint8)
            written = ".png" if suffix in (".PNG", ".txt") else suffix
            image = image if image.ndim == 2 or written in (".png", ".tif", ".webp") else image[..., :3]
            encoded = cv2.imencode(written, image)[1] if min(size) > 15 or written != ".jp2" else b""
            path.write_bytes(damaged_bytes(data, bytes(encoded)))
        elif kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "empty":
            path.touch()
        else:
            path.symlink_to({"link": "nowhere.png", "loop": folder, "outside": tmp_path / "keeps" / "a.png"}[kind])
    command = data.draw(st.sampled_from(["upscale", "prepare", "benchmark", "real", "paired", "check"]))
    if command == "upscale":
        torch.save({"params": NETWORK}, work / "w.pth")
        formats = data.draw(st.sampled_from(["png", "jpg", "webp", "tiff", "same"]))
        run("upscale", "in", "--weights", "w.pth", "--format", formats)
    elif command == "prepare":
        if run("prepare", "in", "out.lmdb", "--size", data.draw(st.sampled_from([0, 1, 16]))):
            assert not (work / "out.lmdb").exists()
    elif command == "check":
        options = tiny.options("lightbsr_teacher_x4_iso", folder, {"val": None, "datasets": {"val": None}})
        (work / "x.yml").write_text(yaml.safe_dump(options))
        run("check", "-opt", "x.yml", "--full")
    else:
        protocol = {"benchmark": "iso"}.get(command, command)
        run("benchmark", "--data", "in", "--protocol", protocol, "--scale", "4", "--out", "out")
