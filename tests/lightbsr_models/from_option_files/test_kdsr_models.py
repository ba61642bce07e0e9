"""KDSR's training: teacher to student from the packaged option files, what is refused, what a step changes."""

import math

import pytest
import torch
from basicsr.models import build_model
from basicsr.models.lr_scheduler import MultiStepRestartLR

from lightbsr.packaged import packaged_options
from lightbsr_arch import KDSR, KDSRTeacher, build_from_state_dict
from lightbsr_compat import InputError, load_options

SIZES = dict(num_feat=8, num_block=2, num_resblock=1)
CLASSIC_OPTIONS = sorted(name for name in packaged_options() if name.startswith(("kdsr_teacher_", "kdsr_student_")))
CLASSIC_OPTIONS = [name for name in CLASSIC_OPTIONS if not name.endswith("real_world")]


def small(image_folder):
    """Changes that make an option file of the classic settings small."""
    data = dict(dataroot_gt=str(image_folder), io_backend=dict(type="disk"), gt_size=24, batch_size_per_gpu=2)
    return {"datasets": {"train": data}, "network_g": SIZES}


@pytest.mark.parametrize("setting", ["iso", "aniso_noise"])
def test_teacher_to_student(setting, image_folder, short_options, train, checkpoint):
    changes = small(image_folder)
    val = dict(name="val", type="BlindBenchmarkDataset", dataroot_gt=str(image_folder), io_backend=dict(type="disk"))
    val = {"datasets": {"val": val | {"degradation": {"sigma": 1.2}}}, "val": {"val_freq": 3, "save_img": False}}
    options = short_options(f"kdsr_teacher_M_x4_{setting}", changes, val)
    teacher = build_from_state_dict(train(options)["params"])
    assert isinstance(teacher, KDSRTeacher)
    assert teacher.setting == setting

    options = short_options(
        f"kdsr_student_M_x4_{setting}",
        changes,
        {"path": {"pretrain_network_teacher": str(checkpoint(options["name"]))}},
        {"train": {"total_iter": 2, "optim_g": {"lr": 0.0}}},
        {"train": {"idr_pretrain_iter": 1}} if setting == "aniso_noise" else {},
    )
    student = train(options)["params"]
    # At learning rate 0 the student still is what it started from.
    theirs = teacher.state_dict()
    assert student.keys() == theirs.keys() - {"setting_code"}
    assert all(torch.equal(value, theirs[key]) for key, value in student.items() if key.startswith("sr_network."))

    options["train"]["optim_g"]["lr"] = 1e-4
    trained = train(options)["params"]
    assert all(value.isfinite().all() for value in trained.values())
    started = (key for key in student if key.startswith("sr_network."))
    assert not any(torch.equal(student[key], trained[key]) for key in started)


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
        torch.testing.assert_close(model.output, teacher(lq, gt))

    torch.save({"params": KDSR(**SIZES).state_dict()}, path)
    with pytest.raises(InputError, match="has type 'KDSR', but the option file says 'KDSRTeacher'"):
        build_model(options)


def halved(lr, every, epochs):
    return [lr * 0.5 ** (epoch // every) for epoch in range(epochs)]


@pytest.mark.parametrize("name", CLASSIC_OPTIONS)
def test_learning_rates_of_the_option_files(name):
    """The released code's learning rate of every epoch (971 iterations), by BasicSR's scheduler, step = epoch."""
    options = load_options(packaged_options()[name])
    schedule, epochs = dict(options["train"]["scheduler"]), options["train"]["total_iter"] / 971
    assert schedule.pop("type") in ("MultiStepLR", "MultiStepRestartLR")
    for key in {"milestones", "restarts"} & schedule.keys():
        schedule[key] = [iteration / 971 for iteration in schedule[key]]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=options["train"]["optim_g"]["lr"])
    scheduler, rates = MultiStepRestartLR(optimizer, **schedule), []
    for _ in range(int(epochs)):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    if "teacher" in name:
        expected = halved(1e-4, 125, 500)
    elif name.endswith("aniso_noise"):
        expected = [2e-4] * 60 + [2e-5] * 40 + halved(1e-4, 125, 400)
    else:
        expected = halved(1e-4, 150, 600)
    assert epochs == len(expected) and rates == pytest.approx(expected)
    assert options["train"].get("idr_pretrain_iter", 0) == (97100 if rates[0] == 2e-4 else 0)
    train_set, role = options["datasets"]["train"], "Teacher" if "teacher" in name else "Student"
    assert math.ceil(3450 * train_set["dataset_enlarge_ratio"] / train_set["batch_size_per_gpu"]) == 971
    assert train_set["gt_size"] == 64 * options["scale"] == 64 * options["network_g"]["upscale"]
    assert (options["name"], options["model_type"]) == (name, f"KDSR{role}Model")
    if role == "Student":
        assert options["path"]["pretrain_network_teacher"].split("/")[1] == name.replace("student", "teacher")
