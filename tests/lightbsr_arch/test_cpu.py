"""The CPU's forms against the plain ones: whole networks, inference and gradients."""

import copy

import pytest
import torch

from lightbsr_arch import LightBSR, LightBSRTeacher, cpu, use_cpu_kernels
from lightbsr_arch.layers import ConvNeXtBranch, PixelShuffleTail
from lightbsr_arch.lightbsr_arch import IDRAdaptationBlock, IDRModulation

SIZES = dict(num_feat=8, num_group=2, num_block=1, num_idr=16, num_channel_idr=6, layer_scale_init=1.0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(1, 1), (20, 17)])
@pytest.mark.parametrize("without", [None, "spatial_modulation", "channel_modulation"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_inference(layout, size, without, dtype, tolerance):
    plain = LightBSR(**SIZES, **({without: False} if without else {})).eval().to(dtype)
    fast = use_cpu_kernels(copy.deepcopy(plain)).to(memory_format=layout)
    block, plain_block = (network.sr_network.groups[0].blocks[0] for network in (fast, plain))
    for part, plain_part in zip(block.modules(), plain_block.modules(), strict=True):
        own = isinstance(plain_part, ConvNeXtBranch | IDRModulation | IDRAdaptationBlock)
        assert (type(part) is not type(plain_part)) == own
    assert list(fast.state_dict()) == list(plain.state_dict())
    lq = torch.rand(2, 3, *size, dtype=dtype)
    with torch.inference_mode():
        actual, expected = fast(lq.contiguous(memory_format=layout)), plain(lq)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance / 10)


def test_a_cpu_without_avx_takes_pytorchs_linear_layers(monkeypatch):
    plain, lq = LightBSR(**SIZES).eval(), torch.rand(1, 3, 9, 7)
    monkeypatch.setattr(cpu, "_fused", cpu._fused.__wrapped__)  # without its cache
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "DEFAULT")
    assert not cpu._fused(torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(use_cpu_kernels(copy.deepcopy(plain))(lq), plain(lq), rtol=1e-4, atol=1e-5)


def test_bfloat16():
    plain = LightBSR(**SIZES).eval()
    fast, lq = use_cpu_kernels(copy.deepcopy(plain)), torch.rand(2, 3, 20, 17)
    with torch.inference_mode():
        expected = plain(lq)
        with torch.autocast("cpu", torch.bfloat16):
            actual, as_plain = fast(lq).float() - expected, plain(lq).float() - expected
    assert 0 < actual.square().mean() < 2 * as_plain.square().mean()


def test_a_float32_shortcut_in_bfloat16():
    plain, x = ConvNeXtBranch(num_feat=8, layer_scale_init=1.0), torch.rand(1, 8, 9, 7)
    fast = use_cpu_kernels(copy.deepcopy(plain))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fast(x, 100 + x), plain(x, 100 + x), rtol=0, atol=0.02)


@pytest.mark.parametrize("size", [(9, 8), (2, 1)])
def test_gradients(size):
    plain = LightBSRTeacher(**SIZES, queue_size=4).double()
    fast = use_cpu_kernels(copy.deepcopy(plain))
    views, prior = torch.rand(2, 2, 3, *size).double(), torch.randn(2, 15).double()
    for network in (plain, fast):
        output = network.contrast(views, prior, super_resolve=True)
        (output.queries[..., 0].sum() + output.sr.square().mean()).backward()
    for (name, expected), actual in zip(plain.named_parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 3), (4, 3), (9, 12)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_tail(upscale, size, layout):
    """The output, also next to the borders, and all gradients."""
    plain = torch.nn.Sequential(PixelShuffleTail(num_feat=5, upscale=upscale)).double()
    fast = use_cpu_kernels(copy.deepcopy(plain)).to(memory_format=layout)
    assert type(fast[0]) is not type(plain[0])
    results = []
    for tail in (plain, fast):
        x = torch.linspace(-1, 1, 2 * 5 * size[0] * size[1]).double().view(2, 5, *size).sin().requires_grad_()
        y = tail(x.contiguous(memory_format=layout))
        (y * torch.linspace(-1, 1, y.numel()).double().view(y.shape)).sum().backward()
        results.append([y, x.grad, *(parameter.grad for parameter in tail.parameters())])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_the_tails_kernel_is_computed_in_float32():
    plain = PixelShuffleTail(num_feat=16, upscale=4)
    fast, x = use_cpu_kernels(copy.deepcopy(plain)), torch.rand(1, 16, 20, 17)
    with torch.inference_mode():
        expected = plain(x)
        with torch.autocast("cpu", torch.bfloat16):
            actual, as_plain = fast(x).float() - expected, plain(x).float() - expected
    assert 0 < actual.square().mean() < as_plain.square().mean()


def test_training_in_mixed_precision_and_graphs_take_the_plain_form():
    plain = ConvNeXtBranch(num_feat=8, layer_scale_init=1.0)
    fast, x = use_cpu_kernels(copy.deepcopy(plain)), torch.rand(1, 8, 20, 17)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(x, x), plain(x, x))
    sizes = {2: torch.export.Dim("height", min=2, max=512), 3: torch.export.Dim("width", min=2, max=512)}
    with torch.no_grad():
        program = torch.export.export(fast, (x, x.clone()), dynamic_shapes=(sizes, sizes))
        for y in (x[..., :5, :7], x):
            torch.testing.assert_close(program.module()(y, y), plain(y, y), rtol=1e-4, atol=1e-5)
