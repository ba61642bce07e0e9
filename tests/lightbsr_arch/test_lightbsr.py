"""LightBSR, the student: sizes, counts, structure, gradients, precisions. Parity is in ``lightbsr/test_convert.py``."""

import ast
import inspect
import itertools
import sys
from pathlib import Path

import pytest
import torch

import lightbsr_arch
from lightbsr_arch import IDR, LightBSR

TINY = dict(num_feat=8, num_group=2, num_block=1, num_idr=16, num_channel_idr=6)


def lively(**options) -> LightBSR:
    """A tiny network in which every block counts: the layer scales start at 1."""
    return LightBSR(**{**TINY, "layer_scale_init": 1.0, **options})


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, 3_259_947),
        # Table 2's M1: no modulation, so no IDR-CB either.
        (dict(spatial_modulation=False, channel_modulation=False, idr_correction=False), 2_773_227),
    ],
)
def test_parameter_count_is_the_papers(options, expected):
    with torch.device("meta"):
        network = LightBSR(**options)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == expected


def test_mac_count_is_the_papers():
    """Multiply-accumulates of all convolutions and linear layers at a 256x256 LR image, counted without computing."""
    macs = 0

    def count(module, inputs, output):
        nonlocal macs
        per_output = module.weight[0].numel()  # weights that make one output number
        macs += output.numel() * per_output

    with torch.device("meta"):
        network = LightBSR().eval()
        for module in network.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                module.register_forward_hook(count)
        output = network(torch.empty(1, 3, 256, 256))
    assert output.shape == (1, 3, 1024, 1024)
    assert round(macs / 1e9, 2) == 205.93


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("height, width", [(1, 1), (1, 7), (5, 1), (13, 10), (8, 4)])
def test_any_size_comes_out_exactly_upscaled(upscale, height, width):
    network = lively(upscale=upscale).eval()
    with torch.no_grad():
        output = network.forward_with_idr(torch.rand(2, 3, height, width))
    assert output.sr.shape == (2, 3, height * upscale, width * upscale)
    assert output.sr.isfinite().all()
    assert output.idr.channel.shape == (2, 6)
    assert output.idr.spatial.shape == (2, 1, height, width)


def test_images_of_a_batch_do_not_influence_each_other():
    network, lq = lively().eval(), torch.rand(3, 3, 7, 6)
    with torch.no_grad():
        together = network(lq)
        alone = torch.cat([network(image[None]) for image in lq])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_output_is_not_clamped(training):
    network, lq = lively().train(training), torch.rand(2, 3, 5, 5)
    with torch.no_grad():
        before = network(lq)
        network.sr_network.tail.conv.bias += 3.0
        above = network(lq)
        network.sr_network.tail.conv.bias -= 6.0
        below = network(lq)
    torch.testing.assert_close(above, before + 3.0)
    torch.testing.assert_close(below, before - 3.0)
    assert above.min() > 1 and below.max() < 0


def test_estimator_sees_the_raw_image_and_the_head_the_shifted_one():
    network, seen = lively().eval(), {}
    network.estimator.register_forward_pre_hook(lambda m, x: seen.update(estimator=x[0]))
    network.sr_network.head.register_forward_pre_hook(lambda m, x: seen.update(head=x[0]))
    lq = torch.rand(1, 3, 4, 4)
    network(lq)
    assert torch.equal(seen["estimator"], lq)
    torch.testing.assert_close(seen["head"], lq - torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1))


def test_each_group_corrects_what_the_group_before_it_corrected():
    network, seen = lively(num_group=3).eval(), []
    for group in network.sr_network.groups:
        group.correction.register_forward_hook(lambda m, x, y: seen.append((x[0], y)))
    lq = torch.rand(1, 3, 4, 6)
    with torch.no_grad():
        estimated = network.estimate_idr(lq)
        network(lq)
        assert torch.equal(seen[0][0].channel, estimated.channel)
        assert torch.equal(seen[0][0].spatial, estimated.spatial)
        for (_, corrected), (received, _) in itertools.pairwise(seen):
            assert torch.equal(received.channel, corrected.channel)
            assert torch.equal(received.spatial, corrected.spatial)
        before = [received for received, _ in seen]
        seen.clear()
        for parameter in network.sr_network.groups[0].correction.parameters():
            parameter += 0.5
        network(lq)
    after = [received for received, _ in seen]
    assert torch.equal(after[0].channel, before[0].channel)
    for earlier, later in zip(before[1:], after[1:], strict=True):
        assert not torch.allclose(earlier.channel, later.channel)
        assert not torch.allclose(earlier.spatial, later.spatial)


def test_modulation_gates_a_quarter_by_the_spatial_idr_and_the_rest_by_the_channel_idr():
    network = LightBSR(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6)
    modulation = network.sr_network.groups[0].blocks[0].modulation
    x, idr = torch.randn(2, 8, 5, 5), IDR(torch.randn(2, 6), torch.randn(2, 1, 5, 5))
    with torch.no_grad():
        y = modulation(x, idr)
        by_channel = modulation(x, idr._replace(channel=idr.channel + 1))
        by_spatial = modulation(x, idr._replace(spatial=idr.spatial + 1))
    assert torch.equal(y[:, :2], by_channel[:, :2]) and not torch.allclose(y[:, 2:], by_channel[:, 2:])
    assert torch.equal(y[:, 2:], by_spatial[:, 2:]) and not torch.allclose(y[:, :2], by_spatial[:, :2])
    # One gate a channel: the gated rest is proportional to what came in, and the gate is a sigmoid.
    ratio = (y / x)[:, 2:]
    torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio), rtol=1e-3, atol=1e-4)
    assert ((ratio > 0) & (ratio < 1)).all()


def test_stage_2_gives_every_parameter_a_gradient():
    network = lively().train()
    sr, idr = network.forward_with_idr(torch.rand(2, 3, 9, 8))
    (sr.square().sum() + idr.channel.sum() + idr.spatial.sum()).backward()
    # A convolution's bias before a BatchNorm has the gradient zero: the norm takes the mean off again.
    dead = {f"estimator.{i}.bias" for i in range(0, 18, 3)}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert name in dead or parameter.grad.any(), name


def test_stage_1_gives_gradients_to_estimator_and_converter_alone():
    network = lively().train()
    idr = network.estimate_idr(torch.rand(2, 3, 9, 8))
    (idr.channel.sum() + idr.spatial.sum()).backward()
    with_gradient = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert with_gradient == {"estimator", "converter"}
    assert all(p.grad is not None for p in network.estimator.parameters())
    assert all(p.grad is not None for p in network.converter.parameters())


def test_bfloat16_runs_and_agrees_loosely(relative_error):
    network, lq = lively().eval(), torch.rand(1, 3, 11, 10)
    with torch.no_grad():
        expected = network(lq)
        actual = network.bfloat16()(lq.bfloat16())
    assert actual.dtype == torch.bfloat16
    assert relative_error(actual.float(), expected) < 0.05


@pytest.mark.parametrize(
    "option, value",
    [
        ("num_feat", 0),
        ("num_feat", 6),
        ("num_group", 0),
        ("num_block", -1),
        ("num_idr", 8),
        ("num_idr", 24),
        ("num_channel_idr", 0),
        ("upscale", 5),
    ],
)
def test_wrong_sizes_are_refused_by_name_and_value(option, value):
    with pytest.raises(ValueError, match=rf"{option} is {value}"):
        LightBSR(**{**TINY, option: value})


def test_unknown_options_and_positional_sizes_are_refused():
    with pytest.raises(TypeError, match="num_feats"):
        LightBSR(**TINY, num_feats=64)
    with pytest.raises(TypeError):
        LightBSR(64)


def test_the_package_can_be_lifted_out():
    """At their top its files import torch, the standard library and one another, nothing else."""
    for path in Path(inspect.getfile(lightbsr_arch)).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                assert top == "torch" or top in sys.stdlib_module_names, f"{path.name} imports {name}"
