"""The student's model: which teachers it takes, what it takes of them, and its losses."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from basicsr.models import build_model

from lightbsr_arch import LightBSR, LightBSRTeacher
from lightbsr_compat import InputError
from lightbsr_data import degradation_prior, get_setting, kernel_basis
from lightbsr_models import LightBSRStudentModel

SIZES = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6)


def make_teacher(**options) -> LightBSRTeacher:
    """A teacher of the students' sizes, with statistics that no constructor gives."""
    defaults = dict(SIZES, num_prior=18, queue_size=8, kernel_basis=kernel_basis(), setting="aniso_noise")
    teacher = LightBSRTeacher(**{**defaults, **options})
    for module in teacher.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            module.num_batches_tracked.fill_(7)
    return teacher


@pytest.fixture
def student_options(parsed_options, tmp_path):
    """Options of a student whose teacher is ``make_teacher(**options)``."""

    def options(**teacher_options):
        path = tmp_path / "teacher.pth"
        torch.save({"params": make_teacher(**teacher_options).state_dict()}, path)
        opt = parsed_options("student")
        opt["path"]["pretrain_network_teacher"] = str(path)
        return opt

    return options


# --- what it takes of the teacher ---


@pytest.mark.parametrize("start", [None, "all", "all_but_estimator", "sr_network"])
def test_a_new_run_starts_from_the_teacher(student_options, start):
    """From all but the estimator's first convolution, or less; ``all_but_estimator`` gives its filters zero mean."""
    options = student_options()
    options["path"]["start_from_teacher"] = start
    torch.manual_seed(1)
    model = build_model(options)
    torch.manual_seed(1)
    own = LightBSR(**SIZES).state_dict()
    if start == "all_but_estimator":
        own["estimator.0.weight"] -= own["estimator.0.weight"].mean((2, 3), keepdim=True)
    teacher = torch.load(options["path"]["pretrain_network_teacher"], weights_only=True)["params"]
    for network in (model.net_g, model.net_g_ema):
        for name, value in network.state_dict().items():
            own_part = {"sr_network": ("estimator.", "converter."), "all_but_estimator": "estimator."}
            taken = not name.startswith(own_part.get(start, "estimator.0."))
            expected = teacher[name.replace("estimator.", "query_estimator.", 1)] if taken else own[name]
            rounding = 1e-7 if name == "estimator.0.weight" else 0  # of the mean, whose order the layout decides
            torch.testing.assert_close(value, expected, rtol=0, atol=rounding)


def test_the_teachers_checkpoint_is_read_once(student_options, monkeypatch):
    from lightbsr_models import distillation_model

    paths, stock = [], distillation_model.load_weights_file
    monkeypatch.setattr(distillation_model, "load_weights_file", lambda path: [paths.append(path), stock(path)][1])
    options = student_options()
    for check in LightBSRStudentModel.checks(options):
        check()
    build_model(options)
    assert paths == [options["path"]["pretrain_network_teacher"]]


def test_a_run_with_weights_of_its_own_keeps_them(student_options, tmp_path):
    student = LightBSR(**SIZES)
    state = {name: value.clone() for name, value in student.state_dict().items()}
    torch.save({"params": state}, tmp_path / "student.pth")
    options = student_options()
    options["path"]["pretrain_network_g"] = str(tmp_path / "student.pth")
    model = build_model(options)
    assert all(torch.equal(value, state[name]) for name, value in model.net_g.state_dict().items())


def test_the_averaged_teacher_can_be_taken(student_options, tmp_path):
    options = student_options()
    teacher = make_teacher()
    torch.save({"params": make_teacher().state_dict(), "params_ema": teacher.state_dict()}, tmp_path / "teacher.pth")
    options["path"]["param_key_teacher"] = "params_ema"
    model = build_model(options)
    torch.testing.assert_close(model.teacher.state_dict(), teacher.state_dict())


# --- which teachers it takes ---


@pytest.mark.parametrize(
    "teacher_options, message",
    [
        (dict(setting="iso", num_prior=15), "has degradation 'iso', but the option file says 'aniso_noise'"),
        (dict(setting=""), "has degradation ''"),
        (dict(upscale=2), "has upscale 2, but the option file says 4"),
        (dict(num_feat=12), "give network_g the teacher's sizes"),
        (dict(num_group=2), "give network_g the teacher's sizes"),
        (dict(num_block=2), "give network_g the teacher's sizes"),
        (dict(num_channel_idr=8), "give network_g the teacher's sizes"),
        (dict(num_idr=32), "give network_g the teacher's sizes"),
        (dict(kernel_basis=None), "has no kernel basis"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(student_options, teacher_options, message):
    with pytest.raises(InputError, match=message):
        build_model(student_options(**teacher_options))


def test_a_larger_student_is_refused(student_options):
    options = student_options()
    options["network_g"]["num_group"] = 2
    with pytest.raises(InputError, match=r"sr_network\.groups\.1.*give network_g the teacher's sizes"):
        build_model(options)


def test_a_student_without_a_teacher_is_refused(parsed_options):
    with pytest.raises(InputError, match="pretrain_network_teacher is missing"):
        build_model(parsed_options("student"))


def test_a_teacher_that_is_not_there_is_refused(parsed_options):
    options = parsed_options("student")
    options["path"]["pretrain_network_teacher"] = "nowhere.pth"
    with pytest.raises(InputError, match=r"no such checkpoint file: 'nowhere\.pth'"):
        build_model(options)


@pytest.mark.parametrize("content", ["student", "strange", "wrong key", "half a teacher"])
def test_what_is_no_teacher_is_refused(student_options, tmp_path, content):
    state = make_teacher().state_dict()
    checkpoint, message = {
        "student": ({"params": LightBSR(**SIZES).state_dict()}, "holds a LightBSR, not a LightBSRTeacher"),
        "strange": ({"params": {"conv.weight": torch.zeros(1)}}, "conv.weight"),
        "wrong key": ({"params_emma": state}, "holds no weights under 'params'"),
        "half a teacher": (
            {"params": {k: v for k, v in state.items() if not k.startswith("key_")}},
            "key_estimator.0.weight.*is missing",
        ),
    }[content]
    options = student_options()
    torch.save(checkpoint, tmp_path / "teacher.pth")
    with pytest.raises(InputError, match=message) as error:
        build_model(options)
    assert "teacher.pth" in str(error.value)


# --- training ---


def test_teacher_is_frozen_in_eval_mode(student_options, training_batch):
    model = build_model(student_options())
    before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    for iteration in (1, 4):
        model.feed_data(training_batch("student"))
        model.optimize_parameters(iteration)
    assert not any(module.training for module in model.teacher.modules())
    assert not any(p.requires_grad for p in model.teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.teacher.state_dict().items())


def test_what_is_not_needed_is_not_run(student_options, training_batch):
    model, run = build_model(student_options()), []
    for name, module in (
        ("teacher's sr_network", model.teacher.sr_network),
        ("teacher's key_estimator", model.teacher.key_estimator),
        ("student's sr_network", model.net_g.sr_network),
    ):
        module.register_forward_hook(lambda m, x, y, name=name: run.append(name))
    model.feed_data(training_batch("student"))
    model.optimize_parameters(1)
    assert run == []
    model.optimize_parameters(4)
    assert run == ["student's sr_network"]


@pytest.mark.parametrize("iteration", [1, 4])
def test_losses(student_options, training_batch, iteration):
    """L2 of the spatial IDRs, KL (temperature 0.15) and a tenth of L1 of the channel IDRs; stage 2: 255 * L1 too."""
    model, batch = build_model(student_options()), training_batch("student")
    model.feed_data(batch)
    setting, basis = get_setting("aniso_noise"), model.teacher.kernel_basis
    prior = degradation_prior(batch["kernel"], batch["noise_sigma"], basis=basis, setting=setting)
    with torch.no_grad():
        lq = model.batch.lq[:, 0]
        teacher = model.teacher.estimate_idr(lq, prior)
        sr, student = model.net_g.forward_with_idr(lq)  # in training mode, as the step runs it
    p, q = (F.softmax(v / 0.15, dim=1) for v in (teacher.channel, student.channel))
    expected = dict(
        l_spatial=(student.spatial - teacher.spatial).square().mean(),
        l_channel_kl=(p * (p / q).log()).sum(1).mean(),
        l_channel_l1=0.1 * (student.channel - teacher.channel).abs().mean(),
    )
    if iteration > 3:
        expected["l_pix"] = 255 * (sr - batch["gt"][:, 0].float() / 255).abs().mean()
    model.optimize_parameters(iteration)
    assert list(model.log_dict) == list(expected)
    for name, value in expected.items():
        assert model.log_dict[name] == pytest.approx(float(value), rel=1e-3, abs=1e-7), name


def test_the_readout_of_the_prior_is_trained_with_both_stages_and_saved(student_options, training_batch):
    options = student_options()
    options["train"]["prior_opt"] = {"type": "L1Loss", "loss_weight": 2.0}
    model = build_model(options)

    def losses():
        return {name: value.clone() for name, value in model.shared_state()["losses"].items()}

    seen = [losses()]
    for iteration in (1, 4):
        model.feed_data(training_batch("student"))
        model.optimize_parameters(iteration)
        seen.append(losses())
        value = model.stage(model.batch)["l_prior"]
        with torch.no_grad():
            channel = model.net_g.estimate_idr(model.batch.lq[:, 0]).channel
            read = model.losses["prior_opt"].readout(channel)
        torch.testing.assert_close(value.detach(), 2 * (read - model.batch.prior).abs().mean())
        model.optimizer_g.zero_grad()
        value.backward()
        assert model.net_g.converter.to_channel[0].weight.grad.abs().max() > 0
    for before, after in itertools.pairwise(seen):
        assert not any(torch.equal(before[name], after[name]) for name in before)
    assert seen[0]["prior_opt.readout.weight"].shape == (18, 6)
    other = build_model(options)
    other.load_shared_state(model.shared_state())
    assert all(torch.equal(value, seen[-1][name]) for name, value in other.losses.state_dict().items())
    state = dict(iter=0, optimizers=[model.optimizer_g.state_dict()], schedulers=[], shared=model.shared_state())
    with pytest.raises(InputError, match="resume_state does not fit"):
        build_model(student_options()).resume_training(state)  # its option file has no prior_opt
    other.resume_training(state)
