"""KDSR's training: teacher to student from the packaged option files, what is refused, what a step changes."""

import math

import pytest
import torch
from basicsr.models import build_model

from lightbsr.packaged import packaged_options
from lightbsr_arch import KDSR, KDSRTeacher, build_from_state_dict
from lightbsr_compat import InputError, load_options

SIZES = dict(num_feat=8, num_block=2, num_resblock=1)
CLASSIC_OPTIONS = sorted(name for name in packaged_options() if name.startswith(("kdsr_teacher_", "kdsr_student_")))
CLASSIC_OPTIONS = [name for name in CLASSIC_OPTIONS if not name.endswith("real_world")]


def small(image_folder, batch=2):
    """Changes that make an option file of the classic settings small."""
    data = {
        "dataroot_gt": str(image_folder),
        "io_backend": {"type": "disk"},
        "gt_size": 24,
        "batch_size_per_gpu": batch,
    }
    return {"datasets": {"train": data}, "network_g": SIZES}


@pytest.mark.parametrize("setting", ["iso", "aniso_noise"])
def test_teacher_to_student(setting, image_folder, short_options, train, checkpoint):
    changes = small(image_folder)
    val = {"name": "val", "type": "BlindBenchmarkDataset", "dataroot_gt": str(image_folder)}
    val |= {"io_backend": {"type": "disk"}, "degradation": {"sigma": 1.2}}
    options = short_options(
        f"kdsr_teacher_M_x4_{setting}", changes, {"datasets": {"val": val}, "val": {"val_freq": 3, "save_img": False}}
    )
    teacher = build_from_state_dict(train(options)["params"])
    assert isinstance(teacher, KDSRTeacher)
    assert teacher.setting == setting

    options = short_options(
        f"kdsr_student_M_x4_{setting}",
        changes,
        {"path": {"pretrain_network_teacher": str(checkpoint(options["name"]))}, "train": {"total_iter": 1}},
        {"train": {"optim_g": {"lr": 0.0}}},
    )
    student = train(options)["params"]
    # At learning rate 0 the student still is what it started from.
    theirs = teacher.state_dict()
    own = {"estimator.features.0.weight", "estimator.features.0.bias"}
    assert student.keys() == theirs.keys() - {"setting_code"}
    assert all(torch.equal(value, theirs[key]) for key, value in student.items() if key not in own)

    options["train"]["optim_g"]["lr"] = 1e-4
    trained = train(options)["params"]
    assert not any(torch.equal(value, trained[key]) for key, value in student.items())
    assert all(value.isfinite().all() for value in trained.values())


def test_a_student_refuses_a_teacher_that_does_not_fit(image_folder, tmp_path, short_options, train):
    path = tmp_path / "teacher.pth"

    def attempt(teacher, name="kdsr_student_M_x4_iso"):
        torch.save({"params": teacher.state_dict()}, path)
        options = short_options(name, small(image_folder), {"path": {"pretrain_network_teacher": str(path)}})
        if name.startswith("lightbsr"):
            options["network_g"] = dict(type="LightBSR", num_feat=8, num_group=1, num_block=1, num_idr=16)
        options["name"] = f"refused_{len(list(tmp_path.glob('*.yml')))}"
        train(options)

    with pytest.raises(InputError, match="has degradation 'aniso_noise', but the option file says 'iso'"):
        attempt(KDSRTeacher(**SIZES, setting="aniso_noise"))
    with pytest.raises(InputError, match="has upscale 2, but the option file says 4"):
        attempt(KDSRTeacher(**SIZES, setting="iso", upscale=2))
    with pytest.raises(InputError, match="give network_g the teacher's sizes"):
        attempt(KDSRTeacher(**{**SIZES, "num_block": 3}, setting="iso"))
    with pytest.raises(InputError, match="holds a KDSRTeacher, not a LightBSRTeacher"):
        attempt(KDSRTeacher(**SIZES, setting="iso"), "lightbsr_student_x4_iso")


def test_a_teacher_without_stage_1_says_so(image_folder, short_options, train):
    options = short_options("kdsr_teacher_M_x4_iso", small(image_folder), {"train": {"idr_pretrain_iter": 5}})
    with pytest.raises(InputError, match="idr_pretrain_iter is 5"):
        train(options)


def test_a_teacher_is_tested_with_the_setting_of_its_checkpoint(tmp_path):
    teacher, path = KDSRTeacher(**SIZES, setting="aniso_noise").eval(), str(tmp_path / "teacher.pth")
    torch.save({"params": teacher.state_dict()}, path)
    options = dict(model_type="KDSRTeacherModel", is_train=False, num_gpu=0, dist=False, scale=4)
    options |= dict(network_g=dict(type="KDSRTeacher", **SIZES), path=dict(pretrain_network_g=path))
    model, lq, gt = build_model(options), torch.rand(1, 3, 5, 4), torch.rand(1, 3, 20, 16)
    model.feed_data({"lq": lq, "gt": gt})
    model.test()
    assert model.net_g.setting == "aniso_noise"
    with torch.no_grad():
        assert torch.equal(model.output, teacher(lq, gt))

    torch.save({"params": KDSR(**SIZES).state_dict()}, path)
    with pytest.raises(InputError, match="has type 'KDSR', but the option file says 'KDSRTeacher'"):
        build_model(options)


@pytest.mark.parametrize("name", CLASSIC_OPTIONS)
def test_schedules_of_the_option_files(name):
    options = load_options(packaged_options()[name])
    role, epochs, halved = ("Teacher", 500, 125) if "teacher" in name else ("Student", 600, 150)
    scheduler = options["train"]["scheduler"]
    assert options["name"] == name
    assert options["model_type"] == f"KDSR{role}Model"
    assert options["train"]["total_iter"] == epochs * 970
    assert scheduler["milestones"] == [halved * 970 * i for i in range(1, 4)]
    assert options["datasets"]["train"]["gt_size"] == 64 * options["scale"] == 64 * options["network_g"]["upscale"]
    assert math.ceil(3450 * options["datasets"]["train"]["dataset_enlarge_ratio"] / 64) in (970, 971)
    if role == "Student":
        assert options["path"]["pretrain_network_teacher"].split("/")[1] == name.replace("student", "teacher")
