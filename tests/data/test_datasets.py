"""The datasets, mostly through BasicSR's own loader: sources, draws, flips and crops, fixed degradations, refusals."""

import itertools
import math
from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler

from lightbsr_compat import InputError
from lightbsr_data import BlindBenchmarkDataset, DegradationPriorDataset, degrade, gaussian_kernels
from lightbsr_data.datasets import benchmark_noise, parse_fixed_degradation


def train_options(dataroot, **options):
    return {
        "name": "train",
        "type": "DegradationPriorDataset",
        "phase": "train",
        "scale": 4,
        "dataroot_gt": str(dataroot),
        "io_backend": {"type": "disk"},
        "degradation": "aniso_noise",
        "num_views": 3,
        "gt_size": 24,
        "use_hflip": True,
        "use_rot": True,
        "batch_size_per_gpu": 3,
        "num_worker_per_gpu": 1,
        **options,
    }


def epochs(options, number, seed=0):
    """The batches of some epochs, as BasicSR's training loop gets them; every epoch in the same order of images."""
    torch.manual_seed(seed)
    dataset = build_dataset(options)
    sampler = EnlargedSampler(dataset, 1, 0, options.get("dataset_enlarge_ratio", 1))
    loader = build_dataloader(dataset, options, num_gpu=0, dist=False, sampler=sampler, seed=seed)
    return [list(loader) for _ in range(number)]


# --- training ---


def test_items(image_folder):
    item = DegradationPriorDataset(train_options(image_folder))[0]
    assert item["gt"].shape == (3, 3, 24, 24) and item["gt"].dtype == torch.uint8
    assert item["kernel"].shape == (21, 21) and item["kernel"].dtype == torch.float32
    assert item["kernel"].sum() == pytest.approx(1, abs=1e-5)
    assert item["noise_sigma"].shape == () and 0 <= item["noise_sigma"] <= 25


def test_folder_meta_info_and_lmdb_give_the_same_batches(tmp_path, image_folder, image_lmdb):
    sizes = [(48, 48), (52, 64), (70, 50), (49, 81), (64, 64), (57, 53)]
    lines = [f"photo_{i}.png ({h},{w},3)" for i, (h, w) in enumerate(sizes)]
    (tmp_path / "meta.txt").write_text("\n".join(lines))
    sources = [
        train_options(image_folder),
        train_options(image_folder, meta_info_file=str(tmp_path / "meta.txt")),
        train_options(image_lmdb, io_backend={"type": "lmdb"}),
    ]
    first, *others = (epochs(options, 2) for options in sources)
    assert len(first[0]) == 2
    for other in others:
        for ours, theirs in zip(itertools.chain(*first), itertools.chain(*other), strict=True):
            assert ours.keys() == theirs.keys() == {"gt", "kernel", "noise_sigma"}
            for key, value in ours.items():
                assert torch.equal(value, theirs[key])


@pytest.mark.parametrize("workers", [0, 2])
def test_every_epoch_draws_other_degradations_and_crops(image_folder, workers):
    options = train_options(image_folder, num_worker_per_gpu=workers, dataset_enlarge_ratio=2)
    batches = list(itertools.chain(*epochs(options, 3)))
    kernels = torch.cat([batch["kernel"] for batch in batches]).flatten(1)
    noise = torch.cat([batch["noise_sigma"] for batch in batches])
    assert len(kernels) == 3 * 12
    assert len(torch.unique(kernels, dim=0)) == len(torch.unique(noise)) == 36
    # The same images in the same order, and yet other crops.
    first, later = batches[:4], batches[4:8]
    assert not any(torch.equal(a["gt"], b["gt"]) for a, b in zip(first, later, strict=True))


FLIPS = {
    (h, v, t): lambda image, h=h, v=v, t=t: _flip(image, h, v, t)
    for h, v, t in itertools.product((False, True), repeat=3)
}


def _flip(image, horizontal, vertical, transpose):
    image = image[:, ::-1] if horizontal else image
    image = image[::-1] if vertical else image
    return image.transpose(1, 0, 2) if transpose else image


def crop_positions(image, view):
    """All (top, left) at which ``view`` (3, s, s) lies in ``image`` (H, W, 3)."""
    size = view.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(image, (size, size), axis=(0, 1))  # (., ., 3, s, s)
    return [tuple(p) for p in np.argwhere((windows == view.numpy()).all((2, 3, 4)))]


@pytest.fixture
def one_image(tmp_path):
    """A folder with one picture of pure noise, 14 high and 15 wide: every crop and flip of it is unlike all others."""
    image = np.random.RandomState(0).randint(0, 256, (14, 15, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "noise.png"), image[..., ::-1])
    return tmp_path, image


def drawn_flips_and_crops(one_image, draws, **options):
    """For some draws of an item: the flips of which its views are crops, and where the views lie."""
    folder, image = one_image
    dataset = DegradationPriorDataset(train_options(folder, gt_size=12, num_views=2, **options))
    for _ in range(draws):
        views = dataset[0]["gt"]
        found = {}
        for name, flip in FLIPS.items():
            positions = [crop_positions(flip(image), view) for view in views]
            if all(positions):
                found[name] = [p for (p,) in positions]
        assert len(found) == 1  # all views of one item are crops of one and the same flipped image
        yield next(iter(found.items()))


@pytest.mark.parametrize(
    "options, expected",
    [
        (dict(use_hflip=True, use_rot=True), set(FLIPS)),
        (dict(use_hflip=True, use_rot=False), {(False, False, False), (True, False, False)}),
        (dict(use_hflip=False, use_rot=True), {flip for flip in FLIPS if not flip[0]}),
        (dict(use_hflip=False, use_rot=False), {(False, False, False)}),
    ],
)
def test_views_are_crops_of_one_flipped_image(one_image, options, expected):
    drawn = Counter(flip for flip, _ in drawn_flips_and_crops(one_image, 20 * len(expected), **options))
    assert drawn.keys() == expected
    assert all(6 <= number <= 34 for number in drawn.values())  # 20 each by chance


def test_views_are_independent_crops_over_the_whole_image(one_image):
    crops = [crop for _, crop in drawn_flips_and_crops(one_image, 150, use_hflip=False, use_rot=False)]
    everywhere = set(itertools.product(range(14 - 12 + 1), range(15 - 12 + 1)))
    assert {first for first, _ in crops} == {second for _, second in crops} == everywhere
    same = sum(first == second for first, second in crops)
    assert 2 <= same <= 30  # one in twelve by chance: 12.5


def test_an_image_smaller_than_the_patch_is_named(tmp_path, photo):
    cv2.imwrite(str(tmp_path / "fine.png"), photo(0, 24, 24))
    cv2.imwrite(str(tmp_path / "small.png"), photo(0, 60, 20))
    dataset = DegradationPriorDataset(train_options(tmp_path))
    with pytest.raises(InputError, match=r"small\.png.*20x60.*gt_size, 24"):
        dataset[1]
    (tmp_path / "meta.txt").write_text("small.png (60,20,3)\n")
    with pytest.raises(InputError, match=r"small\.png.*20x60"):  # before training, where sizes are listed
        DegradationPriorDataset(train_options(tmp_path, meta_info_file=str(tmp_path / "meta.txt")))


def test_an_error_in_a_worker_reaches_the_training_loop(tmp_path, photo):
    cv2.imwrite(str(tmp_path / "small.png"), photo(0, 60, 20))
    with pytest.raises(InputError, match=r"small\.png"):
        epochs(train_options(tmp_path, batch_size_per_gpu=1), 1)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(gt_size=26), "gt_size is 26.*multiple of the scale, 4"),
        (dict(gt_size=0), "gt_size is 0"),
        (dict(num_views=0), "num_views is 0"),
        (dict(degradation="isoo"), "did you mean 'iso'"),
        (dict(io_backend={"type": "lmdb"}), "is no LMDB"),
        (dict(dataroot_gt="nowhere"), "'nowhere' is no folder"),
    ],
)
def test_wrong_options_are_refused(image_folder, options, message):
    with pytest.raises(InputError, match=message):
        DegradationPriorDataset(train_options(image_folder, **options))


# --- benchmarks ---


def benchmark(dataroot, degradation, **options):
    opt = {
        "name": "test",
        "type": "BlindBenchmarkDataset",
        "phase": "test",
        "scale": 4,
        "dataroot_gt": str(dataroot),
        "io_backend": {"type": "disk"},
        "degradation": degradation,
        **options,
    }
    return BlindBenchmarkDataset(opt)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_benchmark_items(image_folder, scale):
    dataset = benchmark(image_folder, {"sigma": 1.2}, scale=scale)
    item = dataset[3]  # 49 high, 81 wide
    image = cv2.imread(str(image_folder / "photo_3.png"))[..., ::-1]
    height, width = 49 // scale, 81 // scale
    assert item["lq"].shape == (3, height, width)
    expected = torch.from_numpy(image[: height * scale, : width * scale].transpose(2, 0, 1).copy()).float() / 255
    assert torch.equal(item["gt"], expected)
    sigma = torch.tensor([1.2])
    kernel = gaussian_kernels(sigma, sigma, 0 * sigma)
    torch.testing.assert_close(item["kernel"], kernel[0])
    lq = degrade(expected[None], kernel, None, scale=scale)[0]
    levels = (item["lq"] - lq).abs() * 255
    assert levels.max() <= 1.001 and (levels > 0.5).float().mean() < 0.01
    assert item["noise_sigma"] == 0
    assert item["lq_path"] == item["gt_path"] == str(image_folder / "photo_3.png")


def test_benchmark_noise_is_a_function_of_image_and_setting(image_folder, image_lmdb):
    setting = {"sigma": 2.0, "noise_sigma": 10}
    dataset = benchmark(image_folder, setting)
    forwards = [dataset[i]["lq"] for i in range(6)]
    torch.manual_seed(99)
    np.random.seed(99)
    other = benchmark(image_lmdb, setting, io_backend={"type": "lmdb"})
    backwards = [other[i]["lq"] for i in reversed(range(6))]
    assert all(torch.equal(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))


def test_benchmark_noise_is_pinned():
    """Pinned: a score must not change with versions, machines or our own refactorings."""
    degradation = parse_fixed_degradation({"sigma_x": 2, "sigma_y": 0.5, "theta": 30, "noise_sigma": 5})
    noise = benchmark_noise("baboon", degradation, (3, 4, 5))
    assert noise.shape == (3, 4, 5) and noise.dtype == torch.float32
    expected = torch.tensor([-3.310796, 8.858567, 1.858326, 0.175898])
    torch.testing.assert_close(noise.flatten()[:4], expected, rtol=0, atol=1e-4)


def test_benchmark_noise_differs_by_image_and_by_every_part_of_the_setting():
    base = {"sigma_x": 2.0, "sigma_y": 0.5, "theta": 30.0, "noise_sigma": 5.0}
    first = benchmark_noise("a", parse_fixed_degradation(base), (3, 32, 32)) / 5.0
    assert first.std() == pytest.approx(1, abs=0.05) and first.mean() == pytest.approx(0, abs=0.07)
    others = [benchmark_noise("b", parse_fixed_degradation(base), (3, 32, 32)) / 5.0]
    for key, value in {"sigma_x": 2.5, "sigma_y": 0.6, "theta": 31.0, "noise_sigma": 10.0}.items():
        changed = parse_fixed_degradation(base | {key: value})
        others.append(benchmark_noise("a", changed, (3, 32, 32)) / changed.noise_sigma)
    rows = torch.stack([first, *others]).flatten(1)
    assert (torch.corrcoef(rows) - torch.eye(6)).abs().max() < 0.1


def test_benchmark_lq_has_that_noise(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((48, 64, 3), 128, np.uint8))
    setting = {"sigma": 1.2, "noise_sigma": 10}
    lq = benchmark(tmp_path, setting)[0]["lq"] * 255
    noise = benchmark_noise("grey", parse_fixed_degradation(setting), (3, 12, 16))
    torch.testing.assert_close(lq, (128 + noise).round(), rtol=0, atol=1.001)
    assert benchmark_noise("grey", parse_fixed_degradation({"sigma": 1.2}), (3, 12, 16)) is None


def test_an_image_too_small_to_be_blurred_is_named(tmp_path, photo):
    cv2.imwrite(str(tmp_path / "tiny.png"), photo(0, 11, 30))  # cropped to 8 rows
    with pytest.raises(InputError, match=r"tiny\.png.*30x11"):
        benchmark(tmp_path, {"sigma": 1.2})[0]


@pytest.mark.parametrize(
    "degradation, expected",
    [
        ({"sigma": 1.2}, (1.2, 1.2, 0.0, 0.0)),
        ({"sigma": 2, "noise_sigma": 5}, (2.0, 2.0, 0.0, 5.0)),
        ({"theta": 45, "sigma_x": 3.5, "sigma_y": 2}, (3.5, 2.0, 45.0, 0.0)),
        ({"sigma": None, "theta": 45, "sigma_x": 3.5, "sigma_y": 2, "noise_sigma": None}, (3.5, 2.0, 45.0, 0.0)),
    ],
)
def test_degradations_of_option_files(degradation, expected):
    parsed = parse_fixed_degradation(degradation)
    assert (parsed.sigma_x, parsed.sigma_y, math.degrees(parsed.theta), parsed.noise_sigma) == expected
    assert (parsed.how, parsed.quality) == ("bicubic", None)


def test_degradations_of_photographs_in_option_files():
    assert parse_fixed_degradation({"downsample": "area"}) == (0.01, 0.01, 0.0, "area", 0.0, False, False, None, 0.0)
    parsed = parse_fixed_degradation({"sigma": 1, "noise_sigma": 5, "downsample": "area", "jpeg": 85})
    assert parsed == (1.0, 1.0, 0.0, "area", 5.0, False, False, 85, 0.0)


@pytest.mark.parametrize(
    "degradation, message",
    [
        ("iso", "'iso'.*needs a mapping"),
        (None, "None.*needs a mapping"),
        ({"sigma": 1.2, "noise": 5}, "unknown entry 'noise'.*did you mean 'noise_sigma'"),
        ({"sigma": "1.2"}, "sigma is '1.2'"),
        ({"sigma": True}, "sigma is True"),
        ({"sigma": math.nan}, "sigma is nan"),
        ({"sigma": 1.2, "noise_sigma": math.inf}, "noise_sigma is inf"),
        ({}, "needs either sigma, or"),
        ({"noise_sigma": 5}, "needs either sigma, or"),
        ({"sigma": 1.2, "theta": 0}, "needs either sigma, or"),
        ({"sigma_x": 1.2, "sigma_y": 2.0}, "needs either sigma, or"),
        ({"sigma": 0}, "must be positive"),
        ({"sigma_x": 1, "sigma_y": -1, "theta": 0}, "must be positive"),
        ({"sigma": 1.2, "noise_sigma": -1}, "noise not negative"),
        ({"downsample": "nearest"}, "downsample is 'nearest', but must be one of bicubic, area, bilinear"),
        ({"downsample": "area", "jpeg": 101}, "jpeg is 101"),
        ({"downsample": "area", "jpeg": 84.5}, "jpeg is 84.5"),
    ],
)
def test_wrong_degradations_are_refused(image_folder, degradation, message):
    with pytest.raises(InputError, match=message):
        benchmark(image_folder, degradation)
