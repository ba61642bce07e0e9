"""Real-ESRGAN's second-order degradation: BasicSR's building blocks as oracles, invariants, and the pair pool."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lightbsr_compat import InputError
from lightbsr_data import PairPool, SecondOrderDegradation, build_degrader, kernel_basis, second_order_prior
from lightbsr_data.degraders import paired_crops
from lightbsr_data.priors import SECOND_ORDER_PRIOR_CHANNELS, classic_as_second_order
from lightbsr_data.second_order import (
    FIRST_ORDER,
    SECOND_ORDER,
    OrderRanges,
    draw_order,
    gaussian_noise,
    identity_kernels,
    parse_orders,
    poisson_noise,
)

# No degradation except JPEG at quality 99.
NOTHING = dict(
    blur_prob=0.0,
    resize_prob=[0, 0, 1],
    gaussian_noise_prob=1.0,
    noise_range=[0, 0],
    gray_noise_prob=0.0,
    jpeg_range=[99, 99],
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images(photo):
    pixels = np.stack([photo(seed, 96, 120) for seed in range(3)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().contiguous() / 255


@pytest.fixture
def kernels():
    raw = torch.rand(3, 3, 21, 21)
    return list(raw / raw.sum((2, 3), keepdim=True))


def test_the_same_seed_gives_the_same_images(images, kernels):
    degrade = SecondOrderDegradation(scale=4)
    first, drawn = degrade(images, *kernels, generator(3))
    torch.rand(17)  # torch's global generator is not used
    again, drawn_again = degrade(images, *kernels, generator(3))
    other, _ = degrade(images, *kernels, generator(4))
    assert torch.equal(first, again)
    assert all(torch.equal(a, b) for a, b in zip(drawn.first, drawn_again.first, strict=True))
    assert not torch.equal(first, other)


@pytest.mark.parametrize("ranges", [FIRST_ORDER, SECOND_ORDER])
def test_distributions_of_the_drawn_parameters(ranges, kernels):
    drawn = [draw_order(ranges, kernels[0], generator(seed)) for seed in range(400)]
    for name, (low, high), of_all in (
        ("resize", ranges.resize_range, True),
        ("jpeg_quality", ranges.jpeg_range, True),
        ("noise_sigma", ranges.noise_range, False),
        ("poisson_scale", ranges.poisson_scale_range, False),
    ):
        values = torch.cat([getattr(d, name) for d in drawn])
        values = values if of_all else values[values > 0]
        assert low <= values.min() < low + 0.1 * (high - low)
        assert high >= values.max() > high - 0.1 * (high - low)
    sigma, poisson = (torch.cat([getattr(d, n) for d in drawn]) for n in ("noise_sigma", "poisson_scale"))
    assert ((sigma > 0) != (poisson > 0)).all()
    factors = torch.stack([d.resize[0] for d in drawn])
    up, down, keep = ((factors > 1).float().mean(), (factors < 1).float().mean(), (factors == 1).float().mean())
    shares = {
        "resize_prob": (torch.stack([up, down, keep]), torch.tensor(ranges.resize_prob)),
        "gaussian_noise_prob": ((sigma > 0).float().mean(), torch.tensor(ranges.gaussian_noise_prob)),
        "gray_noise_prob": (torch.cat([d.gray_noise for d in drawn]).mean(), torch.tensor(ranges.gray_noise_prob)),
        "blur_prob": (
            torch.tensor([float(torch.equal(d.kernel, kernels[0])) for d in drawn]).mean(),
            torch.tensor(ranges.blur_prob),
        ),
    }
    for actual, expected in shares.values():
        torch.testing.assert_close(actual, expected, rtol=0, atol=0.07)


def test_without_any_degradation_it_is_jpeg_alone(images):
    from basicsr.utils import DiffJPEG

    nothing = OrderRanges(**{**vars(FIRST_ORDER), **NOTHING})
    degrade = SecondOrderDegradation(scale=1, first=nothing, second=nothing)
    lq, _ = degrade(images, *[identity_kernels(3)] * 3, generator())
    jpeg = DiffJPEG(differentiable=False)
    with torch.no_grad():
        expected = jpeg(jpeg(images, quality=99).clamp(0, 1), quality=99)
    assert (lq - expected).abs().max() <= 0.5 / 255 + 1e-6  # rounding alone
    assert (lq - images).abs().mean() < 8 / 255  # chroma has half the size


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_without_noise_it_is_basicsrs_building_blocks_one_after_another(seed, images, kernels):
    """Which interpolations were drawn is not returned: one choice of three must give the very image."""
    from basicsr.utils import DiffJPEG
    from basicsr.utils.img_process_util import filter2D

    silent = dict(gaussian_noise_prob=1.0, noise_range=[0, 0])
    first, second = (OrderRanges(**{**vars(ranges), **silent}) for ranges in (FIRST_ORDER, SECOND_ORDER))
    lq, drawn = SecondOrderDegradation(scale=4, first=first, second=second)(images, *kernels, generator(seed))
    jpeg = DiffJPEG(differentiable=False)

    @torch.no_grad()
    def expected(mode1, mode2, mode3):
        x = filter2D(images, drawn.first.kernel)
        x = F.interpolate(x, scale_factor=float(drawn.first.resize[0]), mode=mode1)
        x = jpeg(x.clamp(0, 1), quality=drawn.first.jpeg_quality.clone())
        factor = float(drawn.second.resize[0])
        x = filter2D(x.contiguous(), drawn.second.kernel)
        x = F.interpolate(x, size=(int(24 * factor), int(30 * factor)), mode=mode2).clamp(0, 1)
        for step in "sj" if drawn.jpeg_last[0] else "js":
            if step == "j":
                x = jpeg(x.clamp(0, 1), quality=drawn.second.jpeg_quality.clone())
            else:
                x = filter2D(F.interpolate(x, size=(24, 30), mode=mode3).contiguous(), kernels[2])
        return (x * 255).round().clamp(0, 255) / 255

    modes = itertools.product(("area", "bilinear", "bicubic"), repeat=3)
    errors = [float((expected(*choice) - lq).abs().mean()) for choice in modes]
    # A DCT coefficient may be rounded the other way: a different summation order in the blur.
    assert min(errors) < 1e-4
    assert max(errors) > 5e-4


def test_gaussian_noise_has_the_level_that_is_asked_for():
    images, sigma, gray = torch.full((2, 3, 200, 200), 0.5), torch.tensor([5.0, 25.0]), torch.tensor([0.0, 1.0])
    noise = gaussian_noise(images, sigma, gray, generator()) * 255
    torch.testing.assert_close(noise.std((1, 2, 3)), sigma, rtol=0.02, atol=0)
    assert not torch.allclose(noise[0, 0], noise[0, 1])
    assert torch.equal(noise[1, 0], noise[1, 1])


def test_poisson_noise_has_the_variance_of_counted_photons(images):
    flat = torch.full((2, 3, 200, 200), 0.4) + torch.tensor([0, 0.2])[:, None, None, None]
    flat[..., 0] = 0.0  # two levels: two photons at full brightness
    noise = poisson_noise(flat, torch.tensor([1.0, 0.5]), torch.tensor([0.0, 1.0]), generator())[..., 1:]
    expected = torch.tensor([0.4 / 2, 0.25 * 0.6 / 2])
    torch.testing.assert_close(noise.var((1, 2, 3)), expected, rtol=0.05, atol=0)
    assert torch.equal(noise[1, 0], noise[1, 1])
    # BasicSR's has no generator, but the same law.
    from basicsr.data.degradations import generate_poisson_noise_pt

    theirs = torch.stack([generate_poisson_noise_pt(images, 1.0) for _ in range(20)])
    ours = torch.stack([poisson_noise(images, torch.ones(3), torch.zeros(3), generator(i)) for i in range(20)])
    torch.testing.assert_close(ours.std((0, 2, 3, 4)), theirs.std((0, 2, 3, 4)), rtol=0.03, atol=0)


def test_crops_of_a_pair_are_of_the_same_place():
    lq = torch.arange(2 * 3 * 20 * 30.0).view(2, 3, 20, 30)
    gt = lq.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    gt_views, lq_views = paired_crops(gt, lq, gt_size=32, num_views=3, generator=generator())
    assert gt_views.shape == (2, 3, 3, 32, 32)
    assert lq_views.shape == (2, 3, 3, 8, 8)
    assert torch.equal(gt_views[..., ::4, ::4], lq_views)
    assert not torch.equal(lq_views[:, 0], lq_views[:, 1])


def test_the_pool_keeps_pairs_together_and_gives_every_image_once():
    pool, seen = PairPool(size=12, batch=3), []
    for step in range(40):
        ids = torch.arange(3 * step, 3 * step + 3)
        lq, gt, prior = pool(
            ids.float().view(3, 1, 1, 1).expand(3, 3, 2, 2),
            ids.view(3, 1),
            ids[:, None] * 2.0,
            generator=generator(step),
        )
        assert torch.equal(lq[:, 0, 0, 0].long(), gt[:, 0])
        assert torch.equal(prior[:, 0], gt[:, 0] * 2.0)
        if step < 4:
            assert torch.equal(gt[:, 0], ids)  # it is being filled
        else:
            seen += gt[:, 0].tolist()
    assert len(seen) == len(set(seen))
    assert any(abs(a - b) > 3 for a, b in itertools.pairwise(seen))


def test_a_pool_that_batches_do_not_fill_is_refused():
    with pytest.raises(InputError, match="pool_size is 10, but must be a multiple of batch_size_per_gpu, 4"):
        PairPool(size=10, batch=4)


def test_prior_has_the_drawn_parameters(images, kernels):
    basis = kernel_basis()
    _, drawn = SecondOrderDegradation(scale=4)(images, *kernels, generator(1))
    prior = second_order_prior(drawn, basis=basis)
    assert prior.shape == (3, SECOND_ORDER_PRIOR_CHANNELS) == (3, 56)
    torch.testing.assert_close(prior[:, :15], drawn.first.kernel.flatten(1) @ basis)
    torch.testing.assert_close(prior[:, 30:45], drawn.sinc_kernel.flatten(1) @ basis)
    torch.testing.assert_close(prior[:, 48], drawn.first.resize.log2())
    torch.testing.assert_close(prior[:, 54], drawn.second.jpeg_quality / 100)
    assert torch.equal(prior[:, 55], drawn.jpeg_last)
    for seed in range(6):
        _, drawn = SecondOrderDegradation(scale=4)(images, *kernels, generator(seed))
        prior = second_order_prior(drawn, basis=basis)
        assert prior.min() >= -3
        assert prior.max() <= 1


def test_a_classic_degradation_has_a_prior_too(kernels):
    prior = second_order_prior(
        classic_as_second_order(kernels[0], torch.tensor([0.0, 15.0, 30.0])), basis=kernel_basis()
    )
    assert prior.shape == (3, 56)
    assert prior[:, 50].tolist() == [0.0, 0.5, 1.0]
    assert prior[:, [45, 46, 48, 53, 55]].abs().max() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frist": {}}, "second_order: frist"),
        ({"first": {"blur_prop": 1}}, "second_order: first: blur_prop"),
        ({"second": {"noise_range": [5, 1]}}, "second: noise_range"),
        ({"second": {"gray_noise_prob": 1.5}}, "second: gray_noise_prob"),
        ({"second": {"jpeg_range": [0, 95]}}, r"jpeg_range is \[0.0, 95.0\]"),
        ({"second": {"jpeg_range": [30, 100]}}, r"jpeg_range is \[30.0, 100.0\], but a JPEG quality lies in \[1, 99\]"),
        ({"first": {"resize_range": [1.1, 1.5]}}, r"resize_range is \[1.1, 1.5\]"),
        ({"first": {"resize_prob": [1, 1]}}, "first: resize_prob"),
        ({"first": {"noise_range": 3}}, "first: noise_range"),
        ([1], "second_order: "),
    ],
)
def test_wrong_ranges_are_named(options, message):
    with pytest.raises(InputError, match=message):
        parse_orders(options)


@pytest.mark.parametrize(
    ("dataset", "train", "message"),
    [
        ({"degradation": "real_word"}, {}, "did you mean 'real_world'"),
        ({"gt_size": None}, {}, "gt_size is ~, but must be a multiple of the scale"),
        ({"type": "DegradationPriorDataset"}, {}, "degradation 'real_world' needs 'RealESRGANDataset'"),
        ({"gt_size": 402}, {}, "gt_size is 402"),
        ({"num_views": 0}, {}, "num_views is 0"),
        ({"pool_size": 7}, {}, "pool_size is 7"),
        (
            {"degradation": "iso", "type": "DegradationPriorDataset"},
            {"usm_targets": ["gan_opt"]},
            "usm_targets is given, but belongs to degradation 'real_world'",
        ),
    ],
)
def test_wrong_options_are_named(dataset, train, message):
    good = dict(type="RealESRGANDataset", degradation="real_world", gt_size=32, batch_size_per_gpu=2)
    with pytest.raises(InputError, match=message):
        build_degrader({"scale": 4, "datasets": {"train": {**good, **dataset}}, "train": train})


@pytest.mark.parametrize("num_views", [1, 4])
def test_a_batch_for_training(num_views, photo):
    opt = dict(type="RealESRGANDataset", degradation="real_world", gt_size=32, batch_size_per_gpu=2, pool_size=4)
    opt["num_views"] = num_views
    degrader = build_degrader({"scale": 4, "datasets": {"train": opt}, "train": {}})
    gt = torch.from_numpy(np.stack([photo(i, 100, 100) for i in range(2)])).permute(0, 3, 1, 2).float() / 255
    data = {"gt": gt, **{name: identity_kernels(2) for name in ("kernel1", "kernel2", "sinc_kernel")}}
    for _ in range(4):
        batch = degrader(data, torch.device("cpu"), kernel_basis())
        assert batch.lq.shape == (2, num_views, 3, 8, 8)
        assert batch.gt.shape == (2, 3, 32, 32)
        assert batch.prior.shape == (2, degrader.num_prior_channels)
        # The LR image is still one of its HR image: their means are about the same.
        assert (batch.lq[:, 0].mean((1, 2, 3)) - batch.gt.mean((1, 2, 3))).abs().max() < 0.15
    assert build_degrader({"scale": 4, "datasets": {"train": opt}, "train": {}})(data, "cpu", None).prior is None
