"""Behaviour that all models share: refusals, degradation on the device, and what one step does to which parameters."""

import pytest
import torch
from basicsr.models import build_model

from lightbsr_compat import InputError
from lightbsr_models.checkpoints import pick_state_dict
from lightbsr_models.checks import check_same


@pytest.fixture
def make_model(parsed_options, teacher_run):
    """A model ready to train, of the teacher or the student."""

    def make(kind, **train_options):
        options = parsed_options(kind)
        options["train"] |= train_options
        if kind == "student":
            options["path"]["pretrain_network_teacher"] = teacher_run.checkpoint("latest")
        return build_model(options)

    return make


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_several_gpus_need_a_launcher(parsed_options, kind):
    options = parsed_options(kind) | {"num_gpu": 2}
    with pytest.raises(InputError, match="num_gpu is 2"):
        build_model(options)


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_an_unknown_network_option_is_refused(parsed_options, kind):
    options = parsed_options(kind)
    options["network_g"]["num_feats"] = 64
    with pytest.raises(TypeError, match="num_feats"):
        build_model(options)


@pytest.mark.parametrize("kind, views", [("teacher", 2), ("student", 1)])
def test_a_batch_becomes_lr_views_and_one_hr_image(make_model, training_batch, kind, views):
    model, batch = make_model(kind), training_batch(kind)
    model.feed_data(batch)
    lq, gt = model.batch.lq, batch["gt"].float() / 255
    torch.testing.assert_close(model.batch.gt, gt[:, 0])
    assert lq.shape == (4, views, 3, 8, 8)
    torch.testing.assert_close(lq * 255, (lq * 255).round(), rtol=0, atol=1e-3)
    # The same pictures, smaller: their means agree but for border, rounding and noise (sigma <= 25, 192 draws each).
    torch.testing.assert_close(lq.mean((2, 3, 4)), gt.mean((2, 3, 4)), rtol=0, atol=0.06)


STAGE_1 = {"teacher": {"query_estimator", "query_projector"}, "student": {"estimator", "converter"}}


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_stage_1_gives_gradients_to_its_own_parts_alone(make_model, training_batch, kind):
    model = make_model(kind, idr_pretrain_iter=2)
    before = {name: p.detach().clone() for name, p in model.net_g.named_parameters()}
    model.feed_data(training_batch(kind))
    model.optimize_parameters(2)
    with_gradient = {name for name, p in model.net_g.named_parameters() if p.grad is not None}
    assert {name.split(".")[0] for name in with_gradient} == STAGE_1[kind]
    assert with_gradient == {name for name in before if name.split(".")[0] in STAGE_1[kind]}
    # DistributedDataParallel waits for all that require one.
    assert with_gradient == {name for name, p in model.net_g.named_parameters() if p.requires_grad}
    moved = {name for name, p in model.net_g.named_parameters() if not torch.equal(p, before[name])}
    assert {name for name in moved if not name.startswith("key_")} == with_gradient
    assert "l_pix" not in model.log_dict


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_stage_2_moves_every_trainable_parameter(make_model, training_batch, kind):
    model = make_model(kind, idr_pretrain_iter=2)
    before = {name: p.detach().clone() for name, p in model.net_g.named_parameters()}
    model.feed_data(training_batch(kind))
    model.optimize_parameters(2)
    model.optimize_parameters(3)
    unmoved = {name for name, p in model.net_g.named_parameters() if torch.equal(p, before[name])}
    assert not unmoved
    assert all(p.grad is None for name, p in model.net_g.named_parameters() if name.startswith("key_"))
    assert model.log_dict["l_pix"] > 0


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_without_a_first_stage_training_starts_in_the_second(make_model, training_batch, kind):
    model = make_model(kind, idr_pretrain_iter=0)
    model.feed_data(training_batch(kind))
    model.optimize_parameters(1)
    assert "l_pix" in model.log_dict


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_pixel_loss_is_255_times_l1_of_the_super_resolved_view_0(make_model, training_batch, kind):
    model = make_model(kind, idr_pretrain_iter=0)
    model.feed_data(training_batch(kind))
    seen = []
    model.net_g.sr_network.register_forward_hook(lambda m, x, y: seen.append((x[0], y)))
    model.optimize_parameters(1)
    ((lq, sr),) = seen  # super-resolved once
    assert torch.equal(lq, model.batch.lq[:, 0])
    assert model.log_dict["l_pix"] == pytest.approx(float(255 * (sr - model.batch.gt).abs().mean().detach()), rel=1e-5)


def test_other_schedules_are_basicsrs(make_model):
    model = make_model("teacher", scheduler={"type": "MultiStepLR", "milestones": [2], "gamma": 0.5})
    assert type(model.schedulers[0]).__name__ == "MultiStepRestartLR"


def test_check_same_names_what_differs():
    check_same("the teacher", {"upscale": 4}, {"upscale": 4, "more": 1}, "t.pth")
    check_same("the teacher", {"upscale": 4}, {}, "t.pth")
    with pytest.raises(InputError, match=r"the teacher in 't\.pth' has upscale 2, but the option file says 4"):
        check_same("the teacher", {"upscale": 4}, {"upscale": 2}, "t.pth")


def test_state_dicts_are_found_in_checkpoints():
    bare = {"conv.weight": torch.zeros(1)}
    assert pick_state_dict(bare, "x.pth") is bare
    assert pick_state_dict({"params": bare}, "x.pth") is bare
    assert pick_state_dict({"params": {}, "params_ema": bare}, "x.pth", "params_ema") is bare


@pytest.mark.parametrize("checkpoint", [None, [], {}, 3, {"params": 3}, {"epoch": 1, "iter": 2}])
def test_what_holds_no_weights_is_refused(checkpoint):
    with pytest.raises(InputError, match=r"'x\.pth' holds no weights under 'params'"):
        pick_state_dict(checkpoint, "x.pth")


def test_a_missing_key_names_the_nearest():
    with pytest.raises(InputError, match=r"'params_em'.*did you mean 'params_ema'"):
        pick_state_dict({"params": {}, "params_ema": {}}, "x.pth", "params_em")


# --- what is not finite ---


def test_under_a_gradient_scaler_some_steps_may_be_skipped(make_model, training_batch):
    model = make_model("student", idr_pretrain_iter=0, amp="fp16")
    model.feed_data(training_batch("student"))
    model.batch = model.batch._replace(gt=model.batch.gt * float("nan"))
    with pytest.raises(InputError, match=r"iteration 21: l_pix is nan"):
        for iteration in range(1, 30):
            model.optimize_parameters(iteration)


def test_weights_that_are_not_finite_are_not_saved(make_model):
    model = make_model("student")
    with torch.no_grad():
        model.net_g.sr_network.head.bias[0] = float("inf")
    with pytest.raises(InputError, match=r"sr_network.head.bias are not finite"):
        model.save(0, 1)
