"""The real-world setting: teacher, student and GAN of KDSR and LightBSR, from the packaged option files."""

import pytest
import torch

from lightbsr.packaged import packaged_options
from lightbsr_arch import KDSRTeacher, LightBSRTeacher, build_from_state_dict
from lightbsr_compat import InputError, load_options
from lightbsr_data import build_degrader
from lightbsr_data.second_order import FIRST_ORDER, SECOND_ORDER, parse_orders

KDSR_SIZES = dict(num_feat=8, num_block=1, num_resblock=1)
LIGHTBSR_SIZES = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=4)
DISCRIMINATOR = {"network_d": {"num_feat": 4}}
TWO_STAGES = {"train": {"idr_pretrain_iter": 1}}


@pytest.fixture
def small(image_folder, tmp_path):
    """Changes that make an option file of the real-world setting small."""
    names = sorted(path.name for path in image_folder.iterdir())
    meta_info = tmp_path / "meta_info.txt"
    meta_info.write_text("".join(f"{name}\n" for name in names))
    data = {
        "dataroot_gt": str(image_folder),
        "io_backend": {"type": "disk"},
        "meta_info": str(meta_info),
        "gt_size": 32,
        "batch_size_per_gpu": 2,
        "pool_size": 2,
    }
    return {"datasets": {"train": data}}


@pytest.fixture
def run_all(small, short_options, train, checkpoint):
    """Teacher, student and GAN after one another; their checkpoints."""

    def run(method, sizes, *, teacher=(), student=(), gan=()):
        name = f"{method}_{{}}_x4_real_world".format
        paths = {role: str(checkpoint(name(role))) for role in ("teacher", "student")}
        changes = [small, {"network_g": sizes}]
        first = train(short_options(name("teacher"), *changes, *teacher))
        changes.append({"path": {"pretrain_network_teacher": paths["teacher"]}})
        second = train(short_options(name("student"), *changes, *student))
        changes += [DISCRIMINATOR, {"path": {"pretrain_network_g": paths["student"]}}]
        third = train(short_options(name("gan"), *changes, {"train": {"perceptual_opt": None}}, *gan))
        return first, second, third

    return run


def assert_trained(before, after):
    """All weights moved (but those that nothing depends on), and none of them to nowhere."""
    assert before.keys() == after.keys()
    assert all(value.isfinite().all() for value in after.values())
    assert sum(torch.equal(value, after[key]) for key, value in before.items()) <= 1


def test_kdsr_teacher_student_gan(run_all, checkpoint):
    usm = {"train": {"usm_targets": ["pixel_opt", "gan_opt"]}}
    first, second, third = run_all("kdsr", KDSR_SIZES, gan=(usm,))
    teacher = build_from_state_dict(first["params_ema"])
    assert teacher.setting == "real_world"
    assert build_from_state_dict(second["params_ema"])(torch.rand(1, 3, 5, 4)).shape == (1, 3, 20, 16)
    assert_trained(second["params_ema"], third["params"])
    discriminator = torch.load(checkpoint("kdsr_gan_x4_real_world", "net_d"), weights_only=True)
    assert all(value.isfinite().all() for value in discriminator["params"].values())


def test_lightbsr_teacher_student_gan(small, run_all):
    val = {"name": "val", "type": "BlindBenchmarkDataset", "degradation": {"sigma": 1.2, "noise_sigma": 5}}
    val |= {"dataroot_gt": small["datasets"]["train"]["dataroot_gt"], "io_backend": {"type": "disk"}}
    checked = {"datasets": {"val": val}, "val": {"val_freq": 3, "save_img": False}}
    first, second, third = run_all(
        "lightbsr",
        LIGHTBSR_SIZES,
        teacher=(TWO_STAGES, checked, {"network_g": {"queue_size": 16}}),
        student=(TWO_STAGES,),
    )
    teacher = build_from_state_dict(first["params_ema"])
    assert isinstance(teacher, LightBSRTeacher)
    assert teacher.setting == "real_world"
    assert teacher.query_estimator[0].weight.shape[1] == 3 + 56
    assert int(teacher.queue_ptr) == 6
    assert build_from_state_dict(second["params_ema"])(torch.rand(1, 3, 5, 4)).shape == (1, 3, 20, 16)
    changed = [key for key, value in third["params"].items() if not torch.equal(value, second["params_ema"][key])]
    assert any(key.startswith("sr_network.") for key in changed)
    assert any(key.startswith("estimator.") for key in changed)


def test_an_interrupted_gan_resumes(small, tmp_path, short_options, train):
    path = tmp_path / "teacher.pth"
    torch.save({"params": KDSRTeacher(**KDSR_SIZES, setting="real_world").state_dict()}, path)
    changes = (
        small,
        {"network_g": KDSR_SIZES, "train": {"perceptual_opt": None}, "logger": {"save_checkpoint_freq": 2}},
        DISCRIMINATOR,
        {"path": {"pretrain_network_teacher": str(path), "param_key_teacher": "params", "pretrain_network_g": None}},
    )
    options = short_options("kdsr_gan_x4_real_world", *changes)
    train(options)
    options["path"]["resume_state"] = str(
        tmp_path / "experiments" / "kdsr_gan_x4_real_world" / "training_states" / "2.state"
    )
    assert all(value.isfinite().all() for value in train(options)["params"].values())


def test_an_unknown_usm_target_is_named(small, short_options, train):
    options = short_options(
        "kdsr_teacher_x4_real_world", small, {"network_g": KDSR_SIZES, "train": {"usm_targets": ["pixel_op"]}}
    )
    with pytest.raises(InputError, match="usm_targets names 'pixel_op'; did you mean 'pixel_opt'"):
        train(options)


@pytest.mark.parametrize("name", sorted(name for name in packaged_options() if name.endswith("_real_world")))
def test_option_files(name):
    options = load_options(packaged_options()[name])
    data = options["datasets"]["train"]
    assert options["name"] == name
    assert parse_orders(data["second_order"]) == parse_orders({}) == (FIRST_ORDER, SECOND_ORDER)
    degrader = build_degrader(options)
    assert degrader.name == "real_world"
    assert degrader.pool.size % data["batch_size_per_gpu"] == 0
