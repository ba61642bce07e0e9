"""Gaussian kernels against golden numbers, a slow loop and invariants; the ranges that degradations are drawn from."""

import math

import numpy as np
import pytest
import torch

from lightbsr_data import DegradationSetting, gaussian_kernels, get_setting, sample_degradation

GOLDEN_SETTINGS = [
    "iso_0.2",
    "iso_1.2",
    "iso_2.4",
    "iso_3.6",
    "iso_4.0",
    "aniso_0_2.0_0.5",
    "aniso_10_2.0_1.0",
    "aniso_30_3.5_1.5",
    "aniso_45_3.5_2.0",
    "aniso_90_3.5_2.0",
    "aniso_120_4.0_1.5",
    "aniso_135_4.0_2.0",
    "aniso_165_4.0_3.0",
    "aniso_180_4.0_4.0",
]


def kernel(sigma_x: float, sigma_y: float, theta: float, **options) -> torch.Tensor:
    values = (torch.tensor([v], dtype=torch.float64) for v in (sigma_x, sigma_y, theta))
    return gaussian_kernels(*values, **options)[0]


@pytest.mark.parametrize("name", GOLDEN_SETTINGS)
def test_golden_kernels(golden, name):
    kind, *numbers = name.split("_")
    theta, sigma_x, sigma_y = (0, *numbers * 2) if kind == "iso" else numbers
    ours = kernel(float(sigma_x), float(sigma_y), math.radians(float(theta)))
    expected = golden("degradation")[f"{name}_kernel"].double()
    assert (ours - expected).abs().max() <= 1e-6 * expected.max()


def test_every_golden_kernel_is_tested(golden):
    kernels = {key.removesuffix("_kernel") for key in golden("degradation") if key.endswith("_kernel")}
    assert kernels == set(GOLDEN_SETTINGS)


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


def test_a_batch_is_its_kernels_one_by_one():
    sigma_x, sigma_y, theta = torch.rand(5) * 3 + 0.2, torch.rand(5) * 3 + 0.2, torch.rand(5) * math.pi
    batch = gaussian_kernels(sigma_x, sigma_y, theta)
    assert batch.shape == (5, 21, 21) and batch.dtype == torch.float32
    torch.testing.assert_close(batch.sum((1, 2)), torch.ones(5))
    for i in range(5):
        one = gaussian_kernels(sigma_x[i : i + 1], sigma_y[i : i + 1], theta[i : i + 1])[0]
        torch.testing.assert_close(batch[i], one)


@pytest.mark.parametrize("theta", [0.0, 0.3, 1.2, math.pi / 2, 3.0])
@pytest.mark.parametrize("sigma", [0.2, 1.7, 4.0])
def test_equal_widths_have_no_direction(sigma, theta):
    torch.testing.assert_close(kernel(sigma, sigma, theta), kernel(sigma, sigma, 0.0))


@pytest.mark.parametrize("theta", [0.0, 0.4, 1.0, 2.2])
def test_a_quarter_turn_swaps_the_widths(theta):
    turned = kernel(2.0, 0.7, theta + math.pi / 2)
    torch.testing.assert_close(turned, kernel(0.7, 2.0, theta))
    # Rows count downwards: a growing angle turns clockwise on the screen.
    torch.testing.assert_close(turned, kernel(2.0, 0.7, theta).rot90(-1))
    assert not torch.allclose(turned, kernel(2.0, 0.7, theta))


def test_transposing_swaps_the_widths_of_an_upright_kernel():
    torch.testing.assert_close(kernel(2.0, 0.7, 0.0).T, kernel(0.7, 2.0, 0.0))


def test_first_width_lies_along_the_columns():
    upright = kernel(2.0, 0.5, 0.0)
    assert upright[10, 12] > 100 * upright[12, 10]


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
