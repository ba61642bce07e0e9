"""Options for speed and memory: what they must not change, and that resume and EMA hold under each.

Steps are taken in this process on models of the tiny option files (``conftest.py``).
"""

import copy

import pytest
import torch
from basicsr.models import build_model

from lightbsr_arch import LightBSR
from lightbsr_models.precision import Autocast
from lightbsr_models.speed import sr_parts

DECAY = 0.8
OPTIONS = {
    "bf16": dict(amp="bf16"),
    "fp16": dict(amp="fp16"),
    "channels_last": dict(channels_last=True),
    "contiguous": dict(channels_last=False),
    "checkpointing": dict(checkpointing=True),
    "compile": dict(compile=True),
    "not fused": dict(fused=False),
    "together": dict(amp="fp16", checkpointing=True),
}


@pytest.fixture
def eager_compiler(monkeypatch):
    """``torch.compile`` traces graphs, but runs them step by step: no C++ compiler is started."""
    stock = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: stock(*args, **{**kwargs, "backend": "eager"}))


@pytest.fixture
def make_model(parsed_options, teacher_run):
    """A model ready to train, of the teacher or the student, always with the same weights."""

    def make(kind, *, fused=None, **train_options):
        options = parsed_options(kind)
        options["network_g"]["layer_scale_init"] = 0.1  # every block counts
        options["train"] |= train_options
        options["train"]["optim_g"]["fused"] = fused
        if kind == "student":
            options["path"]["pretrain_network_teacher"] = teacher_run.checkpoint("latest")
        torch.manual_seed(0)
        return build_model(options)

    return make


def train(model, batch, iterations):
    """The model's losses in some iterations on one batch."""
    losses = []
    for iteration in iterations:
        model.update_learning_rate(iteration)
        model.feed_data(batch)
        model.optimize_parameters(iteration)
        losses.append(dict(model.log_dict))
    return losses


def weights(model):
    return {name: value.clone() for name, value in model.net_g.state_dict().items()}


def assert_same_gradients(one, other, *, error, least=1e-6):
    """Relative to each tensor's norm; those of biases before a norm are zero but for rounding."""
    for (name, p), q in zip(one.net_g.named_parameters(), other.net_g.parameters(), strict=True):
        if p.grad is None:
            assert q.grad is None, name
        else:
            assert (q.grad - p.grad).norm() <= error * p.grad.norm() + least, name


# --- the same numbers ---


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_checkpointing_changes_no_bit(make_model, training_batch, kind):
    batch, plain, frugal = training_batch(kind), make_model(kind), make_model(kind, checkpointing=True)
    calls = []
    sr_parts(frugal.net_g)[0].blocks[0].register_forward_hook(lambda *_: calls.append(1))
    assert train(plain, batch, (3, 4, 5)) == train(frugal, batch, (3, 4, 5))
    assert len(calls) == 4  # stage 2 twice, and again in either backward pass
    expected = weights(plain)
    assert all(torch.equal(value, expected[name]) for name, value in weights(frugal).items())


@pytest.mark.parametrize("kind", ["teacher", "student"])
@pytest.mark.parametrize("name", ["channels_last", "contiguous", "compile"])
def test_order_of_sums_is_all_that_changes(make_model, training_batch, eager_compiler, kind, name):
    batch, plain, fast = training_batch(kind), make_model(kind), make_model(kind, **OPTIONS[name])
    before, after = train(plain, batch, (4,))[0], train(fast, batch, (4,))[0]
    assert after == pytest.approx(before, rel=1e-4)
    assert_same_gradients(plain, fast, error=1e-3, least=1e-4)
    assert list(weights(plain)) == list(weights(fast))


def test_channels_last_is_the_layout_on_the_cpu_unless_the_option_says_no(make_model):
    for said, expected in ((None, True), (True, True), (False, False)):
        model = make_model("student", channels_last=said)
        for network in (model.net_g, model.net_g_ema):
            weight = network.sr_network.body_conv.weight
            assert weight.is_contiguous(memory_format=torch.channels_last) == expected
        assert model.teacher.sr_network.body_conv.weight.is_contiguous() != expected


def test_fused_adam_makes_the_same_step(make_model, training_batch):
    batch, models = training_batch("student"), [make_model("student", fused=fused) for fused in (False, True)]
    for model in models:
        train(model, batch, (4,))
    assert [model.optimizer_g.param_groups[0]["fused"] for model in models] == [False, True]
    assert make_model("student").optimizer_g.param_groups[0]["fused"]  # unless the option says no
    for name, value in weights(models[0]).items():
        torch.testing.assert_close(weights(models[1])[name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["teacher", "student"])
@pytest.mark.parametrize("amp, error", [("bf16", 0.05), ("fp16", 0.01)])
def test_mixed_precision_computes_in_it_and_keeps_float32(make_model, training_batch, kind, amp, error):
    batch, plain, mixed = training_batch(kind), make_model(kind), make_model(kind, amp=amp)
    seen = {}
    mixed.net_g.sr_network.head.register_forward_hook(lambda m, x, y: seen.update(head=y.dtype))
    before, after = train(plain, batch, (4,))[0], train(mixed, batch, (4,))[0]
    assert seen["head"] == {"bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    assert after["l_pix"] == pytest.approx(before["l_pix"], rel=error) and after["l_pix"] != before["l_pix"]
    assert all(v.dtype == torch.float32 for v in weights(mixed).values() if v.is_floating_point())


def test_autocast_reaches_into_named_tuples():
    network = LightBSR(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6).eval()
    lq = torch.rand(1, 3, 4, 4)
    output = Autocast("bf16", torch.device("cpu"))(network.forward_with_idr, lq)
    assert type(output) is type(network.forward_with_idr(lq))
    assert {output.sr.dtype, output.idr.channel.dtype, output.idr.spatial.dtype} == {torch.float32}


# --- fp16: the scale of the loss ---


def test_a_step_that_overflows_is_left_out_and_the_scale_halved(make_model, training_batch):
    model, batch = make_model("student", amp="fp16"), training_batch("student")
    model.scaler.load_state_dict({**model.scaler.state_dict(), "scale": 2.0**8})
    train(model, batch, (4,))
    before, scale = weights(model), model.scaler.get_scale()
    hook = model.net_g.sr_network.head.weight.register_hook(lambda gradient: gradient * float("inf"))
    train(model, batch, (5,))
    hook.remove()
    parameters = dict(model.net_g.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items() if name in parameters)
    assert model.scaler.get_scale() == scale / 2
    train(model, batch, (6,))
    after = weights(model)
    assert not any(torch.equal(after[name], before[name]) for name in parameters if not name.startswith("estimator"))


def test_gradients_are_scaled_back(make_model, training_batch):
    """They do not depend on the scale, as long as nothing overflows or vanishes."""
    batch, models = training_batch("student"), []
    for scale in (2.0**4, 2.0**10):
        models.append(make_model("student", amp="fp16"))
        models[-1].scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        train(models[-1], batch, (4,))
    assert_same_gradients(*models, error=0.02, least=1e-3)


# --- resume and EMA ---


@pytest.mark.parametrize("kind", ["teacher", "student"])
@pytest.mark.parametrize("name", OPTIONS)
def test_resume_changes_no_bit_and_ema_holds(make_model, training_batch, eager_compiler, kind, name):
    """Saved in stage 1 after iteration 3 and gone on with through the change of stage: weights, average and state."""
    batch, options = training_batch(kind), OPTIONS[name]
    whole = make_model(kind, **options)
    if name == "fp16":
        # Otherwise nothing of the scale would be seen in so few steps.
        whole.scaler.load_state_dict({**whole.scaler.state_dict(), "growth_interval": 2})
    train(whole, batch, (1, 2, 3))
    whole.save(0, 3)
    states = whole.opt["path"]["training_states"]
    before = {n: v.clone() for n, v in whole.net_g_ema.state_dict().items()}
    train(whole, batch, (4,))
    for n, value in whole.net_g_ema.named_parameters():
        torch.testing.assert_close(value, DECAY * before[n] + (1 - DECAY) * whole.net_g.state_dict()[n])
    train(whole, batch, (5,))

    resumed = make_model(kind, **options)
    for network, key in ((resumed.net_g, "params"), (resumed.net_g_ema, "params_ema")):
        resumed.load_network(network, f"{resumed.opt['path']['models']}/net_g_3.pth", True, key)
    resumed.opt["path"]["resume_state"] = f"{states}/3.state"
    resumed.resume_training(torch.load(f"{states}/3.state", weights_only=True))
    assert resumed.scaler.state_dict() == (
        {} if options.get("amp") != "fp16" else torch.load(f"{states}/3.state")["shared"]["scaler"]
    )
    train(resumed, batch, (4, 5))
    for one, other in ((whole.net_g, resumed.net_g), (whole.net_g_ema, resumed.net_g_ema)):
        expected = one.state_dict()
        assert [n for n, value in other.state_dict().items() if not torch.equal(value, expected[n])] == []
    assert whole.scaler.state_dict() == resumed.scaler.state_dict()
    moments = [copy.deepcopy(m.optimizer_g.state_dict()["state"]) for m in (whole, resumed)]
    assert all(torch.equal(moments[0][i]["exp_avg"], moments[1][i]["exp_avg"]) for i in moments[0])


@pytest.mark.parametrize("before", [True, False])
def test_resume_in_another_layout_makes_the_same_step(make_model, training_batch, before):
    """Fused Adam reads weights, gradients and moments as they lie in memory."""
    batch, saved = training_batch("student"), make_model("student", channels_last=before)
    train(saved, batch, (4, 5))
    state = saved.optimizer_g.state_dict()["state"]
    resumed = []
    for fused in (False, True):
        model = make_model("student", channels_last=not before, fused=fused)
        model.net_g.load_state_dict(saved.net_g.state_dict())
        groups = model.optimizer_g.state_dict()["param_groups"]
        model.optimizer_g.load_state_dict({"state": copy.deepcopy(state), "param_groups": groups})
        for i, parameter in enumerate(model.optimizer_g.param_groups[0]["params"]):
            moments = model.optimizer_g.state[parameter]
            assert moments["exp_avg"].stride() == parameter.stride()
            assert torch.equal(moments["exp_avg"], state[i]["exp_avg"])
        train(model, batch, (6,))
        resumed.append(weights(model))
    for name, value in resumed[0].items():
        torch.testing.assert_close(resumed[1][name], value, rtol=1e-5, atol=1e-7)
