"""Released state dicts become ours: parity of the networks with the released code's numbers, and refusals."""

import numpy as np
import pytest
import torch

from lightbsr.convert import convert_file, convert_state_dict, load_kernel_basis, recognise
from lightbsr.packaged import find_weights
from lightbsr_arch import LightBSR, LightBSRTeacher, build_from_state_dict
from lightbsr_compat import InputError, load_weights_file
from lightbsr_data import kernel_basis

TOLERANCE = 1e-4


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


def test_student_parity(student, golden, relative_error):
    numbers = golden("lightbsr_student_x4")
    with torch.no_grad():
        sr, idr = student.forward_with_idr(numbers["lq"])
    assert relative_error(sr, numbers["sr"]) <= TOLERANCE
    assert relative_error(idr.channel, numbers["channel_idr"]) <= TOLERANCE
    assert relative_error(idr.spatial, numbers["spatial_idr"]) <= TOLERANCE


def test_teacher_parity(teacher, golden, relative_error):
    numbers = golden("lightbsr_teacher_x4_eval")
    with torch.no_grad():
        sr, idr = teacher.forward_with_idr(numbers["lq"], numbers["prior"])
    assert relative_error(sr, numbers["sr"]) <= TOLERANCE
    assert relative_error(idr.channel, numbers["channel_idr"]) <= TOLERANCE
    assert relative_error(idr.spatial, numbers["spatial_idr"]) <= TOLERANCE


# --- conversion ---


def test_networks_of_the_papers_sizes_come_out(student, teacher):
    assert type(student) is LightBSR and type(teacher) is LightBSRTeacher
    assert student.upscale == teacher.upscale == 4
    assert sum(p.numel() for p in student.parameters() if p.requires_grad) == 3_259_947
    assert teacher.queue.shape == (128, 8192)
    assert teacher.setting == "iso"  # 15 prior channels


def test_no_value_is_changed_or_lost(released_state_dict):
    released = released_state_dict("lightbsr_teacher_x4_eval")
    _, converted = convert_state_dict(released)
    constants = {key for key in released if "sub_mean" in key or "add_mean" in key}
    assert len(constants) == 4
    ours = {id(value) for value in converted.values()}
    assert {key for key, value in released.items() if id(value) not in ours} == constants
    assert len(converted) == len(released) - 4 + 2  # setting and basis


def test_a_parallel_wrappers_prefix_is_taken_off(released_state_dict):
    released = released_state_dict("lightbsr_student_x4")
    _, expected = convert_state_dict(released)
    name, converted = convert_state_dict({f"module.{key}": value for key, value in released.items()})
    assert name == "LightBSR" and list(converted) == list(expected)


def test_noise_is_recognised_by_the_prior_channels(released_state_dict):
    released = released_state_dict("lightbsr_teacher_x4_eval")
    for key in ("E.encoder_q.E.0.weight", "E.encoder_k.E.0.weight"):
        released[key] = torch.zeros(32, 3 + 18, 3, 3)
    basis = torch.rand(441, 15)
    _, converted = convert_state_dict(released, kernel_basis=basis)
    network = build_from_state_dict(converted)
    assert network.setting == "aniso_noise"
    assert torch.equal(network.kernel_basis, basis)


def test_recognise(released_state_dict):
    assert recognise(released_state_dict("lightbsr_student_x4")) == "LightBSR"
    assert recognise(released_state_dict("lightbsr_teacher_x4_eval")) == "LightBSRTeacher"
    assert recognise({}) is None
    assert recognise({"G.compress.0.weight": torch.zeros(1)}) is None
    assert recognise(LightBSR(num_feat=8, num_group=1, num_block=1, num_idr=16).state_dict()) is None


def test_strange_state_dicts_are_refused(released_state_dict):
    with pytest.raises(InputError, match=r"first key is 'conv_first\.weight'"):
        convert_state_dict({"conv_first.weight": torch.zeros(1)})
    with pytest.raises(InputError, match="first key is 'none'"):
        convert_state_dict({})
    released = released_state_dict("lightbsr_student_x4") | {"G.new_layer.weight": torch.zeros(1)}
    with pytest.raises(InputError, match=r"'G\.new_layer\.weight'"):
        convert_state_dict(released)


# --- files ---


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: {"params": d}, lambda d: {"state_dict": d, "epoch": 3}])
def test_a_students_file(tmp_path, released_state_dict, student, wrap):
    source, target = tmp_path / "released.pt", tmp_path / "new" / "ours.pth"
    torch.save(wrap(released_state_dict("lightbsr_student_x4")), source)
    sentence = convert_file(str(source), str(target))
    assert "LightBSR, x4, 3,259,947" in sentence
    written = torch.load(target, weights_only=True)
    assert list(written) == ["params"]
    expected = student.state_dict()
    assert written["params"].keys() == expected.keys()
    assert all(torch.equal(written["params"][name], value) for name, value in expected.items())


def test_a_teachers_file_with_its_basis(tmp_path, released_state_dict):
    source, target, basis = tmp_path / "released.pt", tmp_path / "ours.pth", tmp_path / "basis.npy"
    torch.save(released_state_dict("lightbsr_teacher_x4_eval"), source)
    values = np.random.RandomState(0).rand(15, 441).astype(np.float32)
    np.save(basis, values)
    assert "setting iso" in convert_file(str(source), str(target), kernel_basis_path=str(basis))
    network = build_from_state_dict(torch.load(target, weights_only=True)["params"])
    assert torch.equal(network.kernel_basis, torch.from_numpy(values.T))


@pytest.mark.parametrize("suffix", [".npy", ".pth"])
@pytest.mark.parametrize("shape, fits", [((441, 15), True), ((15, 441), True), ((441, 14), False), ((6615,), False)])
def test_kernel_bases(tmp_path, suffix, shape, fits):
    path, values = tmp_path / f"basis{suffix}", torch.rand(shape, dtype=torch.float64)
    if suffix == ".npy":
        np.save(path, values.numpy())
    else:
        torch.save(values, path)
    if fits:
        basis = load_kernel_basis(str(path))
        assert basis.shape == (441, 15) and basis.dtype == torch.float32
        assert torch.equal(basis, (values if shape[0] == 441 else values.T).float())
    else:
        with pytest.raises(InputError, match="must be 441x15"):
            load_kernel_basis(str(path))


def test_broken_files_are_refused_and_nothing_is_written(tmp_path, released_state_dict):
    target = tmp_path / "ours.pth"
    released = released_state_dict("lightbsr_student_x4")
    released["G.head.0.weight"] = torch.zeros(64, 4, 3, 3)  # four colours
    for name, content in {"numbers.pt": {"params": 3}, "strange.pt": {"a": torch.zeros(1)}, "bad.pt": released}.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            convert_file(str(tmp_path / name), str(target))
    with pytest.raises(InputError, match=r"gone\.npy"):
        load_kernel_basis(str(tmp_path / "gone.npy"))
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(InputError, match=r"text\.npy"):
        load_kernel_basis(str(tmp_path / "text.npy"))
    assert not target.exists()


def test_weights_of_ours_change_their_file_alone(tmp_path):
    target = str(tmp_path / "ours.pth")
    sentence = convert_file("lightbsr_x4_iso", target)
    assert sentence == f"LightBSR, x4, 321,795 trainable parameters: written to {target}"
    written, packaged = torch.load(target)["params"], load_weights_file(find_weights("lightbsr_x4_iso"))
    assert written.keys() == packaged.keys()
    for key, value in packaged.items():
        assert torch.equal(written[key], value.to(written[key].dtype)), key
    assert all(value.dtype != torch.float16 for value in written.values())
    assert "no student" not in convert_file(write_teacher(tmp_path), str(tmp_path / "teacher.safetensors"))


def write_teacher(folder):
    """Our own teacher, with its basis."""
    sizes = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6, queue_size=8)
    teacher = LightBSRTeacher(kernel_basis=kernel_basis(), setting="iso", **sizes)
    torch.save({"params": teacher.state_dict()}, folder / "teacher.pth")
    return str(folder / "teacher.pth")
