"""The real-world setting: teacher, student and GAN of KDSR and LightBSR, from the packaged option files."""

import pytest
import torch

from lightbsr.packaged import packaged_options
from lightbsr_arch import LightBSRTeacher, build_from_state_dict
from lightbsr_compat import load_options
from lightbsr_data import build_degrader
from lightbsr_data.second_order import FIRST_ORDER, SECOND_ORDER, parse_orders

KDSR_SIZES = dict(num_feat=8, num_block=1, num_resblock=1)
LIGHTBSR_SIZES = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=4)


@pytest.fixture
def small(image_folder, tmp_path):
    """Changes that make an option file of the real-world setting small."""
    meta_info = tmp_path / "meta_info.txt"
    meta_info.write_text("".join(f"{path.name}\n" for path in sorted(image_folder.iterdir())))
    data = dict(dataroot_gt=str(image_folder), io_backend=dict(type="disk"), meta_info=str(meta_info))
    return {"datasets": {"train": data | dict(gt_size=32, batch_size_per_gpu=2, pool_size=2)}}


@pytest.fixture
def run(small, short_options, train, checkpoint):
    """``run(METHOD, ROLE, SIZES, *CHANGES)``: train one job, which finds the jobs before it; its checkpoint."""

    def run(method, role, sizes, *changes):
        name = f"{method}_{{}}_x4_real_world".format
        changes = [small, {"network_g": sizes}, *changes]
        if role != "teacher":
            changes.append({"path": {"pretrain_network_teacher": str(checkpoint(name("teacher")))}})
        if role == "gan":
            changes.append({"path": {"pretrain_network_g": str(checkpoint(name("student")))}})
            changes.append({"network_d": {"num_feat": 4}, "train": {"perceptual_opt": None}})
        return train(short_options(name(role), *changes))

    return run


def assert_finite(*networks):
    assert all(value.isfinite().all() for network in networks for value in network.values())


def test_kdsr_teacher_student_gan(run, checkpoint):
    assert build_from_state_dict(run("kdsr", "teacher", KDSR_SIZES)["params_ema"]).setting == "real_world"
    student = run("kdsr", "student", KDSR_SIZES)["params_ema"]
    assert build_from_state_dict(student)(torch.rand(1, 3, 5, 4)).shape == (1, 3, 20, 16)
    options = {"train": {"usm_targets": ["pixel_opt", "gan_opt"]}, "logger": {"save_checkpoint_freq": 2}}
    gan = run("kdsr", "gan", KDSR_SIZES, options)["params"]
    assert sum(torch.equal(value, gan[key]) for key, value in student.items()) <= 1  # one that nothing depends on
    discriminator = torch.load(checkpoint("kdsr_gan_x4_real_world", "net_d"), weights_only=True)["params"]
    assert_finite(student, gan, discriminator)

    state = checkpoint("kdsr_gan_x4_real_world").parents[1] / "training_states" / "2.state"
    assert_finite(run("kdsr", "gan", KDSR_SIZES, options, {"path": {"resume_state": str(state)}})["params"])


def test_lightbsr_teacher_student_gan(small, run):
    val = {"name": "val", "type": "BlindBenchmarkDataset", "degradation": {"sigma": 1.2, "noise_sigma": 5}}
    val |= {"dataroot_gt": small["datasets"]["train"]["dataroot_gt"], "io_backend": {"type": "disk"}}
    validated = {"datasets": {"val": val}, "val": {"val_freq": 3, "save_img": False}}
    two_stages = {"train": {"idr_pretrain_iter": 1}}
    sizes = LIGHTBSR_SIZES | {"queue_size": 16}
    teacher = build_from_state_dict(run("lightbsr", "teacher", sizes, two_stages, validated)["params_ema"])
    assert isinstance(teacher, LightBSRTeacher)
    assert teacher.setting == "real_world"
    assert teacher.query_estimator[0].weight.shape[1] == 3 + 56
    assert int(teacher.queue_ptr) == 6
    student = run("lightbsr", "student", LIGHTBSR_SIZES, two_stages)["params_ema"]
    assert build_from_state_dict(student)(torch.rand(1, 3, 5, 4)).shape == (1, 3, 20, 16)
    gan = run("lightbsr", "gan", LIGHTBSR_SIZES)["params"]
    changed = {key.split(".")[0] for key, value in gan.items() if not torch.equal(value, student[key])}
    assert {"sr_network", "estimator"} <= changed
    assert_finite(student, gan)


@pytest.mark.parametrize("name", sorted(name for name in packaged_options() if name.endswith("_real_world")))
def test_option_files_have_the_published_degradation(name):
    options = load_options(packaged_options()[name])
    data = options["datasets"]["train"]
    assert options["name"] == name
    assert parse_orders(data["second_order"]) == parse_orders({}) == (FIRST_ORDER, SECOND_ORDER)
    degrader = build_degrader(options)
    assert degrader.name == "real_world"
    assert degrader.pool.size % data["batch_size_per_gpu"] == 0
