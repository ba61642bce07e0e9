"""The classic degradation against golden images, slow loops, BasicSR's resampling and invariants."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lightbsr_compat import has_basicsr
from lightbsr_data import ClassicDegradation, bicubic_downsample, blur, degrade, gaussian_kernels, to_8_bit

SETTINGS = sorted(
    key.removesuffix("_lq")
    for key in np.load(Path(__file__).parents[1] / "golden" / "degradation.npz").files
    if key.endswith("_lq")
)


def kernels(*widths: tuple[float, float, float], size: int = 21) -> torch.Tensor:
    """A batch of kernels of (sigma_x, sigma_y, theta in radians)."""
    return gaussian_kernels(*torch.tensor(widths, dtype=torch.float64).T, size=size).float()


@pytest.mark.parametrize("name", SETTINGS)
def test_golden_images(golden, name):
    numbers = golden("degradation")
    scale, setting = (int(name[1]), name[3:]) if name.startswith("x") else (4, name)
    kind, *values = setting.split("_")
    theta, sigma_x, sigma_y = map(float, (0, *values * 2) if kind == "iso" else values)
    hr = numbers["hr_0_255"][None] / 255.0
    height, width = (side // scale * scale for side in hr.shape[-2:])
    lq = degrade(hr[..., :height, :width], kernels((sigma_x, sigma_y, math.radians(theta))), None, scale=scale)[0]
    expected = numbers[f"{name}_lq"]
    assert lq.shape == expected.shape
    levels = (lq - expected).abs() * 255
    assert levels.max() <= 1 + 1e-3
    assert (levels > 0.5).float().mean() <= 0.001


def mirrored(i: int, n: int) -> int:
    """Index i of an image side n that is mirrored without repeating its edge pixel."""
    return -i if i < 0 else 2 * (n - 1) - i if i >= n else i


def test_blur_against_a_slow_loop():
    ks = kernels((1.5, 0.6, 0.5), (0.7, 2.0, 1.0), size=5)
    images = torch.rand(2, 3, 5, 7)
    expected = torch.zeros_like(images)
    for b in range(2):
        for y in range(5):
            for x in range(7):
                for dy in range(-2, 3):
                    for dx in range(-2, 3):
                        source = images[b, :, mirrored(y + dy, 5), mirrored(x + dx, 7)]
                        expected[b, :, y, x] += ks[b, dy + 2, dx + 2] * source
    torch.testing.assert_close(blur(images, ks), expected)


def cubic(x: float) -> float:
    """Keys (1981) with a = -0.5, in the usual form."""
    a, x = -0.5, abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def slow_downsample_row(row: np.ndarray, scale: int) -> np.ndarray:
    """One line, output pixel by output pixel, over every input position that the stretched cubic can reach."""
    out = np.zeros(len(row) // scale)
    for i in range(len(out)):
        centre = (i + 0.5) * scale - 0.5
        total = 0.0
        for j in range(math.floor(centre) - 3 * scale, math.ceil(centre) + 3 * scale + 1):
            weight = cubic((j - centre) / scale)
            out[i] += weight * row[min(max(j, 0), len(row) - 1)]  # the border pixel is repeated
            total += weight
        out[i] /= total
    return out


@pytest.mark.parametrize("scale, height, width", [(2, 6, 10), (2, 2, 4), (3, 9, 3), (3, 3, 15), (4, 4, 12), (4, 20, 4)])
def test_bicubic_against_a_slow_loop(scale, height, width):
    images = torch.rand(2, 3, height, width, dtype=torch.float64)
    expected = np.apply_along_axis(slow_downsample_row, 2, images.numpy(), scale)
    expected = np.apply_along_axis(slow_downsample_row, 3, expected, scale)
    np.testing.assert_allclose(bicubic_downsample(images, scale).numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.skipif(not has_basicsr(), reason="BasicSR is not installed")
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_is_basicsrs_imresize_away_from_the_border(scale):
    from basicsr.utils.matlab_functions import imresize

    image = torch.rand(3, 12 * scale, 11 * scale)
    ours, theirs = bicubic_downsample(image[None], scale)[0], imresize(image, 1 / scale)
    torch.testing.assert_close(ours[:, 2:-2, 2:-2], theirs[:, 2:-2, 2:-2], rtol=0, atol=1e-5)
    assert not torch.allclose(ours, theirs, atol=1e-3)  # it mirrors at the border, where we replicate


def test_8_bit_rounds_and_clamps():
    values = torch.tensor([-3.0, -0.4, 0.5, 1.5, 1.49, 254.6, 255.4, 300.0])
    assert to_8_bit(values).tolist() == [0, 0, 0, 2, 1, 255, 255, 255]


def test_noise_is_added_after_the_downsampling_on_the_0_255_scale():
    images = torch.full((1, 3, 24, 24), 100 / 255)
    noise = torch.arange(-54.0, 54.0).reshape(1, 3, 6, 6)
    lq = degrade(images, kernels((1.0, 1.0, 0.0)), noise, scale=4)
    torch.testing.assert_close(lq * 255, 100 + noise)


@pytest.mark.parametrize("height, width", [(24, 22), (23, 24)])
def test_sides_that_are_no_multiple_are_refused(height, width):
    with pytest.raises(ValueError, match=rf"{width}x{height}.*scale, 4"):
        degrade(torch.rand(1, 3, height, width), kernels((1.0, 1.0, 0.0)), None, scale=4)
    with pytest.raises(ValueError, match="multiples of the scale"):
        ClassicDegradation(scale=4)(torch.rand(1, 2, 3, height, width), kernels((1.0, 1.0, 0.0)), torch.zeros(1))


# --- ClassicDegradation: views, noise, generators ---


def test_views_share_kernel_and_are_degraded_like_single_images():
    gt, ks = torch.rand(2, 3, 3, 24, 20), kernels((0.5, 3.0, 0.4), (2.0, 2.0, 0.0))
    lq = ClassicDegradation(scale=2)(gt, ks, torch.zeros(2))
    assert lq.shape == (2, 3, 3, 12, 10)
    for d in range(3):
        alone = degrade(gt[:, d], ks, None, scale=2)
        levels = (lq[:, d] - alone).abs() * 255
        assert levels.max() <= 1.001 and (levels > 0.5).float().mean() < 0.01


def noisy_grey(noise_sigma: list[float], seed: int = 3, views: int = 4) -> torch.Tensor:
    """Noise of every view on a grey image, on the 0-255 scale."""
    gt = torch.full((len(noise_sigma), views, 3, 128, 128), 128 / 255)
    ks = kernels(*[(1.0, 1.0, 0.0)] * len(noise_sigma))
    generator = torch.Generator().manual_seed(seed)
    return ClassicDegradation(scale=2)(gt, ks, torch.tensor(noise_sigma), generator) * 255 - 128


def test_noise_has_the_level_of_its_image():
    noise = noisy_grey([0.0, 5.0, 20.0])
    assert noise[0].abs().max() < 1e-3
    for b, sigma in ((1, 5.0), (2, 20.0)):
        # Rounding to whole levels adds a variance of 1/12. 49152 draws: the spread is known to 0.3 %, 3 sigma 1 %.
        assert noise[b].std() == pytest.approx(math.sqrt(sigma**2 + 1 / 12), rel=0.015)
        assert noise[b].mean() == pytest.approx(0, abs=4 * sigma / math.sqrt(noise[b].numel()))
        # A Gaussian's mean deviation is sqrt(2 / pi) = 0.798 of its standard deviation, a uniform one's 0.866.
        assert noise[b].abs().mean() / noise[b].std() == pytest.approx(math.sqrt(2 / math.pi), abs=0.01)


def test_noise_is_independent_between_views_channels_and_images():
    noise = noisy_grey([10.0, 10.0]).reshape(2 * 4 * 3, -1)
    correlations = torch.corrcoef(noise) - torch.eye(24)
    assert correlations.abs().max() < 0.07  # 4096 pixels each: 0.016 in the mean square


def test_noise_follows_the_generator_alone():
    first = noisy_grey([10.0], seed=3)
    torch.manual_seed(5)
    assert torch.equal(noisy_grey([10.0], seed=3), first)
    assert not torch.equal(noisy_grey([10.0], seed=4), first)
