"""Released state dicts become ours: parity of the networks with the released code's numbers, and refusals."""

import errno
import os

import numpy as np
import pytest
import scipy.io
import torch

import lightbsr_cli as cli
from lightbsr.convert import convert_file, load_kernel_basis
from lightbsr.packaged import find_weights
from lightbsr.released import convert_state_dict, recognise
from lightbsr_arch import LightBSR, LightBSRTeacher, build_from_state_dict
from lightbsr_compat import InputError, load_weights_file
from lightbsr_data import kernel_basis

TOLERANCE = 1e-4
TINY = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6)


@pytest.fixture(scope="module")
def student(released_state_dict):
    name, state_dict = convert_state_dict(released_state_dict("lightbsr_student_x4"))
    assert name == "LightBSR"
    return build_from_state_dict(state_dict)


@pytest.fixture(scope="module")
def teacher(released_state_dict):
    name, state_dict = convert_state_dict(released_state_dict("lightbsr_teacher_x4_eval"))
    assert name == "LightBSRTeacher"
    return build_from_state_dict(state_dict)


# --- parity ---


@pytest.mark.parametrize(
    ("fixture", "file", "inputs"),
    [("student", "lightbsr_student_x4", ["lq"]), ("teacher", "lightbsr_teacher_x4_eval", ["lq", "prior"])],
)
def test_parity(request, golden, relative_error, fixture, file, inputs):
    numbers = golden(file)
    with torch.no_grad():
        sr, idr = request.getfixturevalue(fixture).forward_with_idr(*(numbers[name] for name in inputs))
    assert relative_error(sr, numbers["sr"]) <= TOLERANCE
    assert relative_error(idr.channel, numbers["channel_idr"]) <= TOLERANCE
    assert relative_error(idr.spatial, numbers["spatial_idr"]) <= TOLERANCE


# --- conversion ---


def test_no_value_is_changed_or_lost(released_state_dict):
    released = released_state_dict("lightbsr_teacher_x4_eval")
    _, converted = convert_state_dict(released)
    constants = {key for key in released if "sub_mean" in key or "add_mean" in key}
    assert len(constants) == 4
    ours = {id(value) for value in converted.values()}
    assert {key for key, value in released.items() if id(value) not in ours} == constants
    assert len(converted) == len(released) - 4 + 2  # setting and basis


def test_noise_is_recognised_by_the_prior_channels(released_state_dict):
    released = released_state_dict("lightbsr_teacher_x4_eval")
    for key in ("E.encoder_q.E.0.weight", "E.encoder_k.E.0.weight"):
        released[key] = torch.zeros(32, 3 + 18, 3, 3)
    basis = torch.rand(441, 15)
    network = build_from_state_dict(convert_state_dict(released, kernel_basis=basis)[1])
    assert network.setting == "aniso_noise"
    assert torch.equal(network.kernel_basis, basis)


def test_other_state_dicts_are_refused(released_state_dict):
    for state_dict in ({}, {"G.compress.0.weight": torch.zeros(1)}, LightBSR(**TINY).state_dict()):
        assert recognise(state_dict) is None
        with pytest.raises(InputError, match="its first key is"):
            convert_state_dict(state_dict)
    released = released_state_dict("lightbsr_student_x4") | {"G.new_layer.weight": torch.zeros(1)}
    with pytest.raises(InputError, match=r"'G\.new_layer\.weight'"):
        convert_state_dict(released)


# --- files ---


def test_a_students_file(tmp_path, released_state_dict, student):
    source, target = tmp_path / "released.pt", tmp_path / "new" / "ours.pth"
    state_dict = {f"module.{key}": value for key, value in released_state_dict("lightbsr_student_x4").items()}
    torch.save({"state_dict": state_dict, "epoch": 3}, source)
    assert "LightBSR, x4, 3,259,947" in convert_file(str(source), str(target))
    written = torch.load(target, weights_only=True)
    assert list(written) == ["params"]
    expected = student.state_dict()
    assert written["params"].keys() == expected.keys()
    assert all(torch.equal(written["params"][name], value) for name, value in expected.items())


def write_basis(folder, suffix, values):
    path = folder / f"PCA_matrix{suffix}"
    if suffix == ".npy":
        np.save(path, values)
    elif suffix == ".mat":
        scipy.io.savemat(path, {"p": values})
    else:
        torch.save(torch.from_numpy(values), path)
    return str(path)


def test_a_teachers_file_with_its_basis(tmp_path, released_state_dict):
    """The released trainer writes the basis with ``scipy.io.savemat`` under the key p."""
    source, target = str(tmp_path / "released.pt"), str(tmp_path / "ours.pth")
    torch.save(released_state_dict("lightbsr_teacher_x4_eval"), source)
    values = np.random.RandomState(0).rand(15, 441)
    assert "no student" in convert_file(source, target)
    assert cli.main(["convert", source, target, "--kernel-basis", write_basis(tmp_path, ".mat", values)]) == 0
    network = build_from_state_dict(torch.load(target, weights_only=True)["params"])
    assert network.setting == "iso"
    assert torch.equal(network.kernel_basis, torch.from_numpy(values.T).float())


@pytest.mark.parametrize("suffix", [".mat", ".npy", ".pth"])
def test_kernel_bases(tmp_path, suffix):
    values = np.random.rand(441, 15)
    assert torch.equal(load_kernel_basis(write_basis(tmp_path, suffix, values)), torch.from_numpy(values).float())
    for shape in [(441, 14), (6615, 1), (21, 21, 15)]:
        with pytest.raises(InputError, match="must be 441x15"):
            load_kernel_basis(write_basis(tmp_path, suffix, np.zeros(shape)))
    (tmp_path / f"text{suffix}").write_text("hello")
    scipy.io.savemat(tmp_path / "other.mat", {"q": values})
    for name in (f"text{suffix}", f"gone{suffix}", "other.mat"):
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            load_kernel_basis(str(tmp_path / name))


def test_files_that_cannot_be_converted_are_named_and_nothing_is_written(tmp_path, released_state_dict):
    four_colours = released_state_dict("lightbsr_student_x4") | {"G.head.0.weight": torch.zeros(64, 4, 3, 3)}
    not_finite = LightBSR(**TINY).state_dict()
    not_finite["sr_network.head.bias"][0] = float("nan")
    contents = {
        "number.pt": ({"params": 3}, "no state dict"),
        "strange.pt": ({"a": torch.zeros(1)}, "keys are not those"),
        "colours.pt": (four_colours, r"head\.weight' is \(64, 4, 3, 3\), but must be \(64, 3, 3, 3\)"),
        "numbered.pt": ({1: torch.zeros(1)}, "no state dict"),
        "nan.pt": (not_finite, r"'sr_network\.head\.bias' holds values that are not finite"),
    }
    for name, (content, message) in contents.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(InputError, match=rf"{name}.*{message}"):
            convert_file(str(tmp_path / name), str(tmp_path / "new" / "ours.pth"))
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_an_input_error(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"ours\.safetensors' cannot be written: No space left"):
        convert_file("lightbsr_x4_iso", str(tmp_path / "ours.safetensors"))
    assert list(tmp_path.iterdir()) == []


def test_our_weights_are_written_in_another_format(tmp_path):
    target = str(tmp_path / "ours.pth")
    message = convert_file("lightbsr_x4_iso", target)
    assert message == f"LightBSR, x4, 260,816 trainable parameters: written to {target}"
    written, packaged = torch.load(target)["params"], load_weights_file(find_weights("lightbsr_x4_iso"))
    assert written.keys() == packaged.keys()
    assert all(torch.equal(written[key], value.to(written[key].dtype)) for key, value in packaged.items())
    assert all(value.dtype != torch.float16 for value in written.values())
    teacher = LightBSRTeacher(kernel_basis=kernel_basis(), setting="iso", queue_size=8, **TINY)
    torch.save({"params": teacher.state_dict()}, tmp_path / "teacher.pth")
    message = convert_file(str(tmp_path / "teacher.pth"), str(tmp_path / "teacher.safetensors"))
    assert "setting iso" in message and "no student" not in message
    assert load_weights_file(tmp_path / "teacher.safetensors").keys() == teacher.state_dict().keys()
