"""The teacher's model: what it derives from the setting, what it refuses, and its step."""

import pytest
import torch
import torch.nn.functional as F
from basicsr.models import build_model

from lightbsr_compat import InputError
from lightbsr_data import degradation_prior, get_setting, kernel_basis


@pytest.mark.parametrize("setting, channels", [("iso", 15), ("aniso_noise", 18)])
def test_prior_channels_basis_and_setting_follow_from_the_degradation(parsed_options, setting, channels):
    options = parsed_options("teacher")
    options["datasets"]["train"]["degradation"] = setting
    network = build_model(options).net_g
    assert network.query_estimator[0].in_channels == 3 + channels
    assert network.setting == setting
    assert torch.equal(network.kernel_basis, kernel_basis())


def test_an_unknown_degradation_is_refused(parsed_options):
    options = parsed_options("teacher")
    options["datasets"]["train"]["degradation"] = "aniso_nois"
    with pytest.raises(InputError, match=r"'aniso_nois'.*did you mean 'aniso_noise'"):
        build_model(options)


@pytest.mark.parametrize("batch, world_size", [(3, 1), (4, 3), (80, 1)])
def test_a_batch_that_does_not_divide_the_queue_is_refused_at_the_start(parsed_options, batch, world_size):
    options = parsed_options("teacher") | {"world_size": world_size}
    options["datasets"]["train"]["batch_size_per_gpu"] = batch
    with pytest.raises(
        InputError, match=f"queue_size is 40, .*multiple of the batch of all ranks, {batch * world_size}"
    ):
        build_model(options)


def test_one_view_is_refused(parsed_options):
    options = parsed_options("teacher")
    options["datasets"]["train"]["num_views"] = 1
    with pytest.raises(InputError, match="num_views is 1, but contrast needs at least 2"):
        build_model(options)


def test_one_step(parsed_options, training_batch):
    """The released order: momentum update, keys, queries, loss against the old queue, enqueue."""
    model = build_model(parsed_options("teacher"))
    network = model.net_g
    with torch.no_grad():
        for key in network.key_estimator.parameters():
            key.add_(0.05 * torch.randn_like(key))
    batch = training_batch("teacher")
    model.feed_data(batch)
    prior = degradation_prior(
        batch["kernel"], batch["noise_sigma"], basis=kernel_basis(), setting=get_setting("aniso_noise")
    )
    torch.testing.assert_close(model.batch.prior, prior)
    queue, events, keys = network.queue.clone(), [], []

    def note(event):
        return lambda module, inputs, output: events.append(event)

    def note_before(event, method):
        return lambda *arguments: [events.append(event), method(*arguments)][1]

    network.update_key_estimator = note_before("momentum", network.update_key_estimator)
    network.enqueue = note_before("enqueue", network.enqueue)
    network.key_projector.register_forward_hook(note("key"))
    network.key_projector.register_forward_hook(lambda module, inputs, output: keys.append(output))
    network.query_projector.register_forward_hook(note("query"))
    model.losses["contrast_opt"].register_forward_hook(
        lambda module, inputs, output: events.append("loss" if torch.equal(inputs[2], queue) else "loss too late")
    )
    model.optimize_parameters(1)
    assert events == ["momentum", "key", "key", "query", "query", "loss", "enqueue"]
    torch.testing.assert_close(network.queue[:, :4].T, F.normalize(keys[0], dim=1))
    assert torch.equal(network.queue[:, 4:], queue[:, 4:])
    assert list(model.log_dict) == ["l_contrast"]


def test_validation_keeps_training_mode_and_uses_the_average(parsed_options):
    model = build_model(parsed_options("teacher"))
    assert model.net_g.training
    data = dict(
        lq=torch.rand(1, 3, 8, 8), gt=torch.rand(1, 3, 32, 32), kernel=torch.rand(1, 21, 21), noise_sigma=torch.ones(1)
    )
    with torch.no_grad():
        for parameter in model.net_g_ema.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.feed_data(data)
    model.test()
    assert model.net_g.training and not model.net_g_ema.training
    with torch.no_grad():
        assert torch.equal(model.output, model.net_g_ema(model.lq, model.prior))


# --- testing ---


def options_of_a_test(parsed_options, **path):
    options = parsed_options("teacher", is_train=False)
    options["path"] |= path
    return options


def test_testing_needs_a_checkpoint(parsed_options):
    with pytest.raises(InputError, match="pretrain_network_g is missing"):
        build_model(options_of_a_test(parsed_options))


def test_testing_reads_setting_basis_and_sizes_from_the_checkpoint(parsed_options, teacher_run):
    options = options_of_a_test(parsed_options, pretrain_network_g=teacher_run.checkpoint("latest"))
    del options["network_g"]["queue_size"], options["datasets"]["train"]
    model = build_model(options)
    assert model.net_g.setting == "aniso_noise"
    weights = teacher_run.weights("latest")
    assert all(torch.equal(value, weights[name]) for name, value in model.net_g.state_dict().items())
    model.feed_data(dict(lq=torch.rand(1, 3, 8, 8), kernel=torch.rand(1, 21, 21), noise_sigma=torch.ones(1)))
    model.test()
    assert not model.net_g.training


def test_testing_with_a_students_checkpoint_is_refused(parsed_options, student_run):
    options = options_of_a_test(parsed_options, pretrain_network_g=student_run.checkpoint("latest"))
    with pytest.raises(InputError, match="net_g_latest"):
        build_model(options)


def test_testing_with_a_strange_checkpoint_is_refused(parsed_options, tmp_path):
    torch.save({"params": {"conv.weight": torch.zeros(1)}}, tmp_path / "strange.pth")
    options = options_of_a_test(parsed_options, pretrain_network_g=str(tmp_path / "strange.pth"))
    with pytest.raises(InputError, match=r"strange\.pth"):
        build_model(options)
