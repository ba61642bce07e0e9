"""The degradation of photographs: against slow loops, its statistics, and JPEG against Pillow."""

import io
import math

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from lightbsr_compat import InputError
from lightbsr_data import PhotoParameters, degradation_prior, degrade_photo, get_setting, kernel_basis, sample_photo
from lightbsr_data.datasets import degrade_fixed
from lightbsr_data.degradations import blur, downsample
from lightbsr_data.photo import NO_BLUR, _blur, jpeg, photo_noise

PHOTO = get_setting("photo")
CLEAN = PhotoParameters(NO_BLUR, NO_BLUR, 0.0, "area", 0.0, False, False, None)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slow_downsample(image: np.ndarray, scale: int, how: str) -> np.ndarray:
    """(H, W) -> (H / scale, W / scale), pixel by pixel: a box, or a triangle that is cut off at the border."""
    height, width = image.shape
    out = np.zeros((height // scale, width // scale))
    reach = scale / 2 if how == "area" else scale
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            weights = np.zeros((height, width))
            for y in range(height):
                for x in range(width):
                    dy, dx = abs(y + 0.5 - (i + 0.5) * scale), abs(x + 0.5 - (j + 0.5) * scale)
                    if how == "area":
                        weights[y, x] = dy < reach and dx < reach
                    else:
                        weights[y, x] = max(0, 1 - dy / reach) * max(0, 1 - dx / reach)
            out[i, j] = (weights * image).sum() / weights.sum()
    return out


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("how", ["area", "bilinear"])
def test_downsampling_against_a_slow_loop(how, scale):
    image = torch.rand(1, 2, 4 * scale, 5 * scale, dtype=torch.float64)
    out = downsample(image, scale, how)
    for channel in range(2):
        expected = torch.from_numpy(slow_downsample(image[0, channel].numpy(), scale, how))
        torch.testing.assert_close(out[0, channel], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("quality", [30, 75, 97])
def test_jpeg_is_pillows(quality):
    """Two programs around libjpeg decode the same file; 4:2:0 is Pillow's default too."""
    image = np.asarray(Image.effect_noise((40, 24), 60).resize((40, 24)).convert("RGB"))
    image = np.stack([image[..., 0], np.roll(image[..., 1], 3, 0), np.roll(image[..., 2], 5, 1)], axis=2)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    expected = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1).float()
    ours = jpeg(torch.from_numpy(image).permute(2, 0, 1)[None].float(), quality)[0]
    assert (ours - expected).abs().max() <= 1


def test_the_offset_moves_jpegs_blocks():
    """A step is blurred out over the block that it lies in, and no further: blocks begin at multiples of 8."""
    image = torch.zeros(1, 3, 32, 32)
    image[..., 16:] = 255
    assert torch.equal(jpeg(image, 30), image)  # the step lies between two blocks
    assert not torch.equal(jpeg(image, 30, offset=(0, 4)), image)
    assert jpeg(image, 30, offset=(3, 5)).shape == image.shape


def test_the_whole_chain_in_its_order():
    images = torch.rand(1, 3, 64, 64)
    parameters = PhotoParameters(1.5, 1.5, 0.0, "area", 8.0, False, True, 60)
    lq = degrade_photo(images, parameters, scale=4, generator=generator(3))
    again = generator(3)
    kernel = parameters.kernel()[0]
    padded = torch.nn.functional.pad(images * 255, [10] * 4, mode="reflect")
    blurred = torch.nn.functional.conv2d(padded, kernel.expand(3, 1, 21, 21), groups=3)
    small = torch.nn.functional.avg_pool2d(blurred, 4)
    noisy = (small + 8.0 * torch.randn(1, 1, 16, 16, generator=again)).round().clamp(0, 255)
    offset = tuple(torch.randint(8, (2,), generator=again).tolist())
    assert (lq.float() - jpeg(noisy, 60, offset=offset)).abs().max() <= 2  # one level of rounding before JPEG


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("sigma_x", "sigma_y", "theta", "passes"),
    [(0.4, 2.5, 0.0, 2), (2.5, 0.4, 0.0, 2), (0.3, 0.3, 0.0, 2), (0.8, 2.5, 0.6, 1)],
)
def test_blur_in_one_pass_or_two_is_that_of_the_other_settings(monkeypatch, sigma_x, sigma_y, theta, passes, channels):
    images = 255 * torch.rand(2, channels, 30, 40)
    kernel = 2.5 * CLEAN._replace(sigma_x=sigma_x, sigma_y=sigma_y, theta=theta).kernel()
    expected = blur(images, kernel.expand(2, -1, -1))
    monkeypatch.delattr(cv2, "filter2D" if passes == 2 else "sepFilter2D")
    torch.testing.assert_close(_blur(images, kernel[0]), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("poisson", [False, True])
@pytest.mark.parametrize("gray", [False, True])
def test_noise_has_its_level_at_mid_grey_and_its_colour(poisson, gray):
    images = torch.full((1, 3, 200, 200), 127.5)
    parameters = CLEAN._replace(noise_sigma=10.0, poisson=poisson, gray=gray)
    noise = photo_noise(images, parameters, generator()).expand_as(images)
    # The standard deviation of 40,000 draws is known to 1 / sqrt(2 * 40,000) = 0.35 %; five times that.
    assert noise[0, 0].std().item() == pytest.approx(10, rel=0.018)
    correlation = torch.corrcoef(noise[0].flatten(1))[0, 1].item()
    assert correlation == pytest.approx(1.0 if gray else 0.0, abs=0.025)
    bright = photo_noise(torch.full((1, 3, 200, 200), 255.0), parameters, generator())
    assert bright[0, 0].std().item() == pytest.approx(10 * math.sqrt(2) if poisson else 10, rel=0.018)


@pytest.mark.parametrize("poisson", [False, True])
@pytest.mark.parametrize("gray", [False, True])
def test_grain_is_smoothed_noise_of_the_same_level(poisson, gray):
    """Against a slow loop over the Gaussian's coefficients, at a pixel far from the border."""
    width, radius = 0.7, 10
    parameters = CLEAN._replace(noise_sigma=10.0, poisson=poisson, gray=gray)
    images = torch.full((2, 3, 200, 200), 127.5)
    white = photo_noise(images, parameters, generator())
    grain = photo_noise(images, parameters._replace(grain_width=width), generator())
    assert grain.shape == white.shape
    assert grain.std().item() == pytest.approx(10, rel=0.03)
    reach = range(-radius, radius + 1)
    weights = {(i, j): math.exp(-(i * i + j * j) / (2 * width**2)) for i in reach for j in reach}
    norm = math.sqrt(sum(weight**2 for weight in weights.values()))
    expected = sum(weight / norm * white[1, 0, 50 + i, 60 + j].item() for (i, j), weight in weights.items())
    assert grain[1, 0, 50, 60].item() == pytest.approx(expected, abs=1e-3)


def test_distributions_of_the_drawn_parameters():
    random = generator()
    drawn = [sample_photo(PHOTO, random) for _ in range(4000)]
    clean = [d for d in drawn if (d.sigma_x, d.noise_sigma, d.quality) == (NO_BLUR, 0.0, None)]
    # Clean by themselves 1 in 4, and of the others those that had all three steps left out: 3/4 * 1/64.
    assert len(clean) / 4000 == pytest.approx(0.25 + 0.75 / 64, abs=0.035)  # five standard deviations
    blurred = [d for d in drawn if d.sigma_x != NO_BLUR]
    assert min(d.sigma_x for d in blurred) >= 0.2 and max(d.sigma_x for d in blurred) > 2.8
    assert sum(d.sigma_x == d.sigma_y for d in blurred) / len(blurred) == pytest.approx(0.5, abs=0.06)
    # Mild: the third next to clean, 2 in 3 of those that are not clean.
    assert sum(d.sigma_x <= 0.2 + 2.8 / 3 for d in blurred) / len(blurred) == pytest.approx(2 / 3 + 1 / 9, abs=0.05)
    qualities = [d.quality for d in drawn if d.quality is not None]
    assert min(qualities) < 35 and max(qualities) == 97
    assert sum(quality >= 97 - 67 / 3 for quality in qualities) / len(qualities) == pytest.approx(7 / 9, abs=0.05)
    assert {d.how for d in drawn} == {"bicubic", "area", "bilinear"}
    noisy = [d for d in drawn if d.noise_sigma]
    assert max(d.noise_sigma for d in noisy) > 19
    widths = [d.grain_width for d in noisy if d.grain_width]
    assert len(widths) / len(noisy) == pytest.approx(0.4, abs=0.05)
    assert 0.4 <= min(widths) < 0.45 and 0.95 < max(widths) <= 1.0
    assert not any(d.grain_width for d in drawn if not d.noise_sigma)


def test_the_prior_has_blur_noise_and_quality():
    basis = kernel_basis()
    parameters = PhotoParameters(2.0, 2.0, 0.0, "bilinear", 7.5, True, False, 65)
    kernel = parameters.kernel()
    prior = degradation_prior(kernel, torch.tensor([7.5]), basis=basis, setting=PHOTO, photo=parameters.scalars()[None])
    assert prior.shape == (1, PHOTO.num_prior_channels)
    torch.testing.assert_close(prior[0, :15], kernel.flatten() @ basis)
    torch.testing.assert_close(prior[0, 15:], torch.tensor([0, 0.5, 0, 0.5, 0, 0, 1]))
    plain = degradation_prior(kernel, torch.tensor([0.0]), basis=basis, setting=PHOTO)
    torch.testing.assert_close(plain[0, 15:], torch.tensor([0.0, 0, 0, 0, 1, 0, 0]))


def test_a_setting_of_an_option_file_is_restored_from_its_name():
    ours = get_setting({"isotropic": True, "sigma": [0.5, 2.0], "noise_sigma": [0, 10], "jpeg": [40, 95]})
    assert (ours.sigma, ours.noise_sigma, ours.jpeg, ours.is_classic) == ((0.5, 2.0), (0.0, 10.0), (40.0, 95.0), False)
    assert get_setting(ours.name) == ours
    classic = get_setting({"isotropic": True, "sigma": [0.5, 2.0]})
    assert classic.is_classic and classic.num_prior_channels == 15


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"isotropic": True, "sigmas": [1, 2]}, "unknown entry 'sigmas'.*did you mean 'sigma'"),
        ({"sigma": [1, 2]}, "isotropic is missing"),
        ({"isotropic": True, "sigma": [2, 1]}, r"sigma is \[2, 1\], but must be \[low, high\]"),
        ({"isotropic": True, "grain_prob": 2}, "grain_prob is 2, but must be within"),
        ({"isotropic": True, "grain_width": [0, 1]}, r"grain_width is \[0, 1\], but must be"),
        ({"isotropic": True, "jpeg": [0, 95]}, r"jpeg is \[0, 95\]"),
        ({"isotropic": True, "jpeg": 95}, "jpeg is 95"),
        ({"isotropic": 2}, "isotropic is 2, but must be within"),
        ({"isotropic": True, "downsample": ["nearest"]}, "downsample is"),
        ({"isotropic": True, "clean_prob": 0.6, "mild_prob": 0.6}, "more than 1 together"),
        ("aniso_noises", "'aniso_noises'.*did you mean 'aniso_noise'"),
        ("zzz", "known: aniso_noise, iso, photo"),
        ("{broken", "must be the name of a setting or a mapping"),
    ],
)
def test_wrong_settings_are_refused(setting, message):
    with pytest.raises(InputError, match=message):
        get_setting(setting)


def test_a_fixed_degradation_compresses_after_the_noise():
    images, noise = torch.rand(2, 3, 64, 48), 5 * torch.randn(2, 3, 16, 12, generator=generator())
    setting = CLEAN._replace(sigma_x=1.5, sigma_y=1.5, noise_sigma=5.0)
    plain = degrade_fixed(images, setting, noise, scale=4)
    compressed = degrade_fixed(images, setting._replace(quality=40), noise, scale=4)
    assert torch.equal((255 * compressed).round(), jpeg((255 * plain).round(), 40))
    assert not torch.equal(compressed, plain)
