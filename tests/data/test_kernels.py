"""Gaussian kernels against golden numbers, a slow loop and invariants; the ranges that degradations are drawn from."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lightbsr_data import DegradationSetting, gaussian_kernels, get_setting, sample_degradation

SETTINGS = sorted(
    key.removesuffix("_kernel")
    for key in np.load(Path(__file__).parents[1] / "golden" / "degradation.npz").files
    if key.endswith("_kernel")
)


def kernel(sigma_x: float, sigma_y: float, theta: float, **options) -> torch.Tensor:
    values = (torch.tensor([v], dtype=torch.float64) for v in (sigma_x, sigma_y, theta))
    return gaussian_kernels(*values, **options)[0]


@pytest.mark.parametrize("name", SETTINGS)
def test_golden_kernels(golden, name):
    kind, *numbers = name.split("_")
    theta, sigma_x, sigma_y = (0, *numbers * 2) if kind == "iso" else numbers
    ours = kernel(float(sigma_x), float(sigma_y), math.radians(float(theta)))
    expected = golden("degradation")[f"{name}_kernel"].double()
    assert (ours - expected).abs().max() <= 1e-6 * expected.max()


@pytest.mark.parametrize("sigma_x, sigma_y, theta", [(1.3, 0.6, 0.4), (0.8, 2.0, 2.5), (1.0, 1.0, 1.0)])
def test_against_a_slow_loop(sigma_x, sigma_y, theta):
    """exp(-v' C^-1 v / 2) with v = (columns to the right, rows downwards), pixel by pixel."""
    rotation = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    precision = np.linalg.inv(rotation @ np.diag([sigma_x**2, sigma_y**2]) @ rotation.T)
    expected = np.empty((7, 7))
    for row in range(7):
        for column in range(7):
            v = np.array([column - 3, row - 3])
            expected[row, column] = math.exp(-0.5 * v @ precision @ v)
    expected /= expected.sum()
    np.testing.assert_allclose(kernel(sigma_x, sigma_y, theta, size=7).numpy(), expected, rtol=1e-9)


def test_second_moments_are_the_covariance():
    theta, offset = 0.5, torch.arange(21, dtype=torch.float64) - 10
    k = kernel(1.8, 0.9, theta)
    cos, sin = math.cos(theta), math.sin(theta)
    assert (k.sum(0) * offset**2).sum() == pytest.approx(1.8**2 * cos**2 + 0.9**2 * sin**2, rel=1e-3)
    assert (k.sum(1) * offset**2).sum() == pytest.approx(1.8**2 * sin**2 + 0.9**2 * cos**2, rel=1e-3)
    assert (k * offset[:, None] * offset).sum() == pytest.approx((1.8**2 - 0.9**2) * cos * sin, rel=1e-3)


@pytest.mark.parametrize("size", [0, 20])
def test_even_sides_are_refused(size):
    with pytest.raises(ValueError, match=f"size is {size}"):
        kernel(1.0, 1.0, 0.0, size=size)


def assert_uniform(values: torch.Tensor, low: float, high: float) -> None:
    assert low <= values.min() and values.max() <= high
    share = (values - low) / (high - low)
    # Of 4000 uniform draws the extremes, the mean and the spread lie this close, but for one in many thousands.
    assert share.min() < 0.01 and share.max() > 0.99
    assert share.mean() == pytest.approx(0.5, abs=0.025)
    assert share.std() == pytest.approx(12**-0.5, abs=0.015)


def test_iso_draws():
    drawn = sample_degradation(get_setting("iso"), 4000, torch.Generator().manual_seed(1))
    assert_uniform(drawn.sigma_x, 0.2, 4.0)
    assert torch.equal(drawn.sigma_x, drawn.sigma_y)
    assert not drawn.theta.any() and not drawn.noise_sigma.any()


def test_aniso_noise_draws():
    drawn = sample_degradation(get_setting("aniso_noise"), 4000, torch.Generator().manual_seed(1))
    for values, low, high in (
        (drawn.sigma_x, 0.2, 4.0),
        (drawn.sigma_y, 0.2, 4.0),
        (drawn.theta, 0.0, math.pi),
        (drawn.noise_sigma, 0.0, 25.0),
    ):
        assert_uniform(values, low, high)
    correlations = torch.corrcoef(torch.stack(drawn)) - torch.eye(4)
    assert correlations.abs().max() < 0.08


def test_draws_follow_the_setting_and_the_generator_alone():
    setting = DegradationSetting("x", isotropic=False, sigma=(1.0, 1.5), theta=(0.1, 0.2), noise_sigma=(3.0, 4.0))
    first = sample_degradation(setting, 50, torch.Generator().manual_seed(7))
    torch.manual_seed(123)
    again = sample_degradation(setting, 50, torch.Generator().manual_seed(7))
    other = sample_degradation(setting, 50, torch.Generator().manual_seed(8))
    for a, b, c, (low, high) in zip(first, again, other, [(1, 1.5), (1, 1.5), (0.1, 0.2), (3, 4)], strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)
        assert low <= a.min() and a.max() <= high
