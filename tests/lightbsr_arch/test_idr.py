"""The IDR: estimator, converter, correction, and the prior that is stretched beside the image."""

import pytest
import torch
import torch.nn.functional as F

from lightbsr_arch import IDR
from lightbsr_arch.idr import (
    IDRConverter,
    IDRCorrectionBlock,
    IDREstimator,
    join_prior,
    stretch_prior,
)


@pytest.mark.parametrize("height, width, out", [(1, 1, (1, 1)), (4, 5, (1, 2)), (13, 8, (4, 2)), (17, 16, (5, 4))])
def test_estimator_quarters_the_size_and_rounds_up(height, width, out):
    estimator = IDREstimator(num_in_ch=3, num_idr=16).eval()
    assert estimator(torch.rand(2, 3, height, width)).shape == (2, 16, *out)


def test_estimator_stretches_the_prior_beside_the_image():
    estimator, lq, prior = IDREstimator(num_in_ch=7, num_idr=16).eval(), torch.rand(3, 3, 9, 6), torch.randn(3, 4)
    assert torch.equal(estimator(lq, prior), estimator(join_prior(lq, prior)))


def test_converter_channel_idr_is_gelu_of_a_product_with_the_mean():
    converter = IDRConverter(num_idr=32, num_channel_idr=5)
    features = torch.randn(3, 32, 2, 3)
    expected = F.gelu(features.mean((2, 3)) @ converter.to_channel[0].weight.T)
    torch.testing.assert_close(converter(features, (8, 12)).channel, expected)


def test_converter_spatial_idr_is_cropped_at_the_top_left():
    """Pixel (y, x) of the shuffled plane c is features[16 c + 4 (y mod 4) + x mod 4, y // 4, x // 4]."""
    converter = IDRConverter(num_idr=32, num_channel_idr=5)
    features = torch.randn(2, 32, 2, 3)
    h, w = 5, 10
    plane = torch.empty(2, 2, h, w)
    for c in range(2):
        for y in range(h):
            for x in range(w):
                plane[:, c, y, x] = features[:, 16 * c + 4 * (y % 4) + x % 4, y // 4, x // 4]
    conv = converter.to_spatial[0]
    expected = F.gelu(F.conv2d(plane, conv.weight, conv.bias, padding=1))
    torch.testing.assert_close(converter(features, (h, w)).spatial, expected)


def test_correction_with_zero_weights_changes_nothing():
    correction = IDRCorrectionBlock(num_channel_idr=6, num_spatial_idr=2)
    for parameter in correction.parameters():
        torch.nn.init.zeros_(parameter)
    idr = IDR(torch.randn(2, 6), torch.randn(2, 2, 5, 4))
    corrected = correction(idr)
    assert torch.equal(corrected.channel, idr.channel) and torch.equal(corrected.spatial, idr.spatial)


def test_correction_is_a_residual_of_two_activated_layers():
    correction = IDRCorrectionBlock(num_channel_idr=6, num_spatial_idr=2)
    idr = IDR(torch.randn(2, 6), torch.randn(2, 2, 5, 4))
    first, second = correction.channel_branch[0], correction.channel_branch[2]
    assert first.out_features == 12
    hidden = F.gelu(idr.channel @ first.weight.T + first.bias)
    expected = idr.channel + F.gelu(hidden @ second.weight.T + second.bias)
    torch.testing.assert_close(correction(idr).channel, expected)
    first, second = correction.spatial_branch[0], correction.spatial_branch[2]
    assert first.out_channels == 4
    hidden = F.gelu(F.conv2d(idr.spatial, first.weight, first.bias, padding=1))
    expected = idr.spatial + F.gelu(F.conv2d(hidden, second.weight, second.bias, padding=1))
    torch.testing.assert_close(correction(idr).spatial, expected)


def test_prior_is_the_same_at_every_pixel_and_stands_behind_the_image():
    lq, prior = torch.rand(2, 3, 4, 5), torch.randn(2, 7)
    joined = join_prior(lq, prior)
    assert joined.shape == (2, 10, 4, 5)
    assert torch.equal(joined[:, :3], lq)
    for y in range(4):
        for x in range(5):
            assert torch.equal(joined[:, 3:, y, x], prior)
    assert torch.equal(joined[:, 3:], stretch_prior(prior, (4, 5)))
