"""Mean shift, tail and ConvNeXt branch: the layers that all networks share."""

import pytest
import torch
import torch.nn.functional as F

from lightbsr_arch import use_cpu_kernels
from lightbsr_arch.layers import ConvNeXtBranch, MeanShift, build_tail


def test_mean_shift_subtracts_and_adds_the_div2k_mean():
    image = torch.rand(2, 3, 4, 5)
    mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
    torch.testing.assert_close(MeanShift(sign=-1)(image), image - mean)
    torch.testing.assert_close(MeanShift(sign=1)(image), image + mean)


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_direct_tail_is_one_convolution_whose_channels_become_pixels(upscale):
    tail = build_tail("pixelshuffledirect", num_feat=8, upscale=upscale)
    x = torch.rand(2, 8, 5, 6)
    channels = tail[0](x)  # (2, 3 * upscale^2, 5, 6)
    out = tail(x)
    assert out.shape == (2, 3, 5 * upscale, 6 * upscale)
    for colour in range(3):
        for i in range(upscale):
            for j in range(upscale):
                plane = channels[:, colour * upscale**2 + i * upscale + j]
                assert torch.equal(out[:, colour, i::upscale, j::upscale], plane)


def test_an_unknown_upsampler_is_refused():
    with pytest.raises(ValueError, match="upsampler is 'nearest\\+conv', but must be 'pixelshuffle' or"):
        build_tail("nearest+conv", num_feat=8, upscale=4)


@pytest.mark.parametrize("cpu", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_convnext_branch_against_its_formula(cpu, grad):
    branch = ConvNeXtBranch(num_feat=6, layer_scale_init=1e-6)
    branch = use_cpu_kernels(branch) if cpu else branch
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.normal_()
        branch.depthwise.bias.zero_()
    shortcut = torch.randn(2, 6, 9, 8)
    x = 1e-4 * torch.randn(2, 6, 9, 8)  # so small that the LayerNorm's eps of 1e-6 counts
    y = F.conv2d(x, branch.depthwise.weight, branch.depthwise.bias, padding=3, groups=6)
    centred = y - y.mean(1, keepdim=True)
    y = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    y = y * branch.norm.weight.view(1, -1, 1, 1) + branch.norm.bias.view(1, -1, 1, 1)
    # A linear layer over channels is a 1x1 convolution.
    y = F.gelu(F.conv2d(y, branch.expand.weight[:, :, None, None], branch.expand.bias))
    y = F.conv2d(y, branch.reduce.weight[:, :, None, None], branch.reduce.bias)
    with torch.set_grad_enabled(grad):
        actual = branch(x, shortcut)
    torch.testing.assert_close(actual, shortcut + y * branch.layer_scale.view(1, -1, 1, 1), rtol=1e-4, atol=1e-4)
