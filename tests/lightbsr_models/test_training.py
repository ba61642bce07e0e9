"""Teacher and student through BasicSR's own train and test loops: stages, EMA, and the images that come out.

The runs are of six iterations, three in either stage, with a checkpoint of each (``conftest.py``).
"""

import math

import cv2
import pytest
import tiny
import torch

from lightbsr_arch import LightBSR, LightBSRTeacher, build_from_state_dict
from lightbsr_data import BlindBenchmarkDataset, degradation_prior, get_setting, kernel_basis

ITERATIONS, SWITCH, BATCH, DECAY = tiny.TOTAL_ITER, tiny.PRETRAIN_ITER, tiny.BATCH, tiny.EMA_DECAY


def changed(before, after, prefix):
    """The tensors under ``prefix`` that differ; fails where there are none at all."""
    names = [name for name in before if name.startswith(prefix)]
    assert names, prefix
    return [name for name in names if not torch.equal(before[name], after[name])]


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_every_checkpoint_is_written(request, kind):
    run = request.getfixturevalue(f"{kind}_run")
    for iteration in (*range(1, ITERATIONS + 1), "latest"):
        assert all(value.isfinite().all() for value in run.weights(iteration).values())
    final, latest = run.weights(ITERATIONS), run.weights("latest")
    assert all(torch.equal(final[name], latest[name]) for name in final)


# --- stages ---


def test_teachers_stage_1_trains_estimator_and_projector_alone(teacher_run):
    first, last = teacher_run.weights(1), teacher_run.weights(SWITCH)
    assert not changed(first, last, "converter.") and not changed(first, last, "sr_network.")
    parameters = [name for name in changed(first, last, "query_") if name.endswith((".weight", ".bias"))]
    assert len(parameters) == 6 * 4 + 2 * 2  # six convolutions and norms, two linear layers


def test_teachers_stage_2_trains_everything(teacher_run):
    before, after = teacher_run.weights(SWITCH), teacher_run.weights(ITERATIONS)
    for part in ("query_estimator.", "query_projector.", "converter.", "sr_network."):
        names = [name for name in before if name.startswith(part)]
        assert changed(before, after, part) == names, part


def test_students_stage_1_leaves_the_teachers_super_resolution_alone(student_run, teacher_run):
    teacher = teacher_run.weights("latest")
    for iteration in range(1, SWITCH + 1):
        student = student_run.weights(iteration)
        assert not changed({k: v for k, v in teacher.items() if k in student}, student, "sr_network.")
    first, last = student_run.weights(1), student_run.weights(SWITCH)
    assert len(changed(first, last, "converter.")) == 3
    assert {f"estimator.{i}.weight" for i in range(0, 18, 3)} <= set(changed(first, last, "estimator."))


def test_students_stage_2_trains_everything(student_run):
    before, after = student_run.weights(SWITCH), student_run.weights(ITERATIONS)
    for part in ("estimator.", "converter.", "sr_network."):
        assert changed(before, after, part) == [name for name in before if name.startswith(part)], part


def test_adam_has_stepped_only_what_each_stage_trains(teacher_run):
    """One optimizer through both stages: six steps for the estimator, three for what stage 2 adds."""
    network = build_from_state_dict(teacher_run.weights("latest"))
    names = [name for name, p in network.named_parameters() if not name.startswith("key_")]
    state = teacher_run.state(ITERATIONS)["optimizers"][0]["state"]
    steps = {name: int(state[i]["step"]) for i, name in enumerate(names)}
    assert {steps[name] for name in names if name.startswith("query_")} == {ITERATIONS}
    assert {steps[name] for name in names if not name.startswith("query_")} == {ITERATIONS - SWITCH}


def test_learning_rates(teacher_run):
    """1e-3 in stage 1; in stage 2 one iteration of warm-up, then a cosine over two to 1e-5."""
    rates = [teacher_run.state(i)["optimizers"][0]["param_groups"][0]["lr"] for i in range(1, ITERATIONS + 1)]
    half = 1e-5 + (1e-3 - 1e-5) * 0.5 * (1 + math.cos(math.pi / 2))
    assert rates == pytest.approx([1e-3] * 3 + [1e-3, half, 1e-5])


# --- contrast ---


def test_queue_takes_view_0_of_every_batch(teacher_run):
    before, after = teacher_run.weights(1), teacher_run.weights(ITERATIONS)
    assert before["queue_ptr"].tolist() == [BATCH]
    assert after["queue_ptr"].tolist() == [ITERATIONS * BATCH]
    same = (before["queue"] == after["queue"]).all(0)
    assert same[:BATCH].all() and same[ITERATIONS * BATCH :].all() and not same[BATCH : ITERATIONS * BATCH].any()
    torch.testing.assert_close(after["queue"].norm(dim=0), torch.ones(tiny.QUEUE_SIZE))


def test_key_branch_follows_with_momentum_and_keeps_its_statistics(teacher_run):
    for iteration in range(2, ITERATIONS + 1):
        before, after = teacher_run.weights(iteration - 1), teacher_run.weights(iteration)
        for name, value in after.items():
            if name.startswith("key_") and name.endswith((".weight", ".bias")):
                query = before[name.replace("key_", "query_")]
                torch.testing.assert_close(value, tiny.MOMENTUM * before[name] + (1 - tiny.MOMENTUM) * query)
    assert after["key_estimator.1.num_batches_tracked"] == 2 * ITERATIONS  # two views
    assert after["query_estimator.1.num_batches_tracked"] == 2 * ITERATIONS
    key, query = after["key_estimator.1.running_mean"], after["query_estimator.1.running_mean"]
    assert not torch.equal(key, query)


def test_teacher_carries_setting_basis_and_prior_channels(teacher_run):
    network = build_from_state_dict(teacher_run.weights("latest"))
    assert isinstance(network, LightBSRTeacher)
    assert network.setting == "aniso_noise"
    assert network.query_estimator[0].in_channels == 3 + 18
    torch.testing.assert_close(network.kernel_basis, kernel_basis())


# --- EMA ---


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_ema_averages_parameters_and_batch_norm_statistics(request, kind):
    run = request.getfixturevalue(f"{kind}_run")
    parameters = dict(build_from_state_dict(run.weights("latest")).named_parameters())
    for iteration in range(2, ITERATIONS + 1):
        raw, before = run.weights(iteration), run.weights(iteration - 1, "params_ema")
        for name, value in run.weights(iteration, "params_ema").items():
            if name in parameters or name.endswith(("running_mean", "running_var")):
                expected = DECAY * before[name] + (1 - DECAY) * raw[name]
            else:  # counters, queue, basis, setting
                expected = raw[name]
            torch.testing.assert_close(value, expected, msg=lambda m, name=name: f"{name}: {m}")


# --- test loop ---


def saved_images(root, name):
    paths = sorted((root / "results" / name / "visualization" / "val").glob("*.png"))
    assert [path.name for path in paths] == [f"val_{i}_{name}.png" for i in range(2)]
    return [torch.from_numpy(cv2.imread(str(path))[..., ::-1].copy()).permute(2, 0, 1) for path in paths]


def run_test(root, run, run_pipeline, **options):
    opt = {key: run.options[key] for key in ("scale", "num_gpu", "manual_seed", "network_g")}
    opt |= dict(name="shown", datasets=dict(test=run.options["datasets"]["val"]))
    opt["val"] = dict(run.options["val"], save_img=True, suffix=None)
    run_pipeline(root, {**opt, **options}, train=False)
    return saved_images(root, "shown")


def benchmark(run):
    return BlindBenchmarkDataset(run.options["datasets"]["val"] | {"scale": 4})


@pytest.mark.parametrize("key", ["params", "params_ema"])
def test_students_images_are_its_networks(tmp_path, run_pipeline, student_run, key):
    path = dict(pretrain_network_g=student_run.checkpoint("latest"), param_key_g=key)
    images = run_test(tmp_path, student_run, run_pipeline, model_type="SRModel", path=path)
    network = build_from_state_dict(student_run.weights("latest", key))
    assert isinstance(network, LightBSR)
    dataset = benchmark(student_run)
    for i, image in enumerate(images):
        with torch.no_grad():
            sr = network(dataset[i]["lq"][None])[0]
        assert image.shape == dataset[i]["gt"].shape
        assert (image - (sr.clamp(0, 1) * 255).round()).abs().max() <= 1


def test_teachers_images_are_its_networks_told_the_degradation(tmp_path, run_pipeline, teacher_run):
    """The number of prior channels, setting and basis come from the checkpoint: the option file names none."""
    path = dict(pretrain_network_g=teacher_run.checkpoint("latest"), param_key_g="params_ema")
    images = run_test(tmp_path, teacher_run, run_pipeline, model_type="LightBSRTeacherModel", path=path)
    network = build_from_state_dict(teacher_run.weights("latest", "params_ema"))
    dataset = benchmark(teacher_run)
    for i, image in enumerate(images):
        item = dataset[i]
        assert item["noise_sigma"] == 5
        prior = degradation_prior(
            item["kernel"][None],
            item["noise_sigma"][None],
            basis=network.kernel_basis,
            setting=get_setting("aniso_noise"),
        )
        with torch.no_grad():
            sr = network(item["lq"][None], prior)[0]
        assert (image - (sr.clamp(0, 1) * 255).round()).abs().max() <= 1
