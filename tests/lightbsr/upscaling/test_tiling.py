"""Tiles give what the whole image gives: exactly where nothing is estimated, without seams where it is."""

import threading
import warnings

import numpy as np
import pytest
import torch

from lightbsr.upscaling import shared, tiling, upscaler
from lightbsr.upscaling.memory import is_out_of_memory
from lightbsr.upscaling.regions import cut, whole
from lightbsr.upscaling.shared import Guidance, LRImage
from lightbsr.upscaling.upscaler import Upscaler
from lightbsr_arch import LightBSR
from lightbsr_compat import InputError

NAMES = ["lightbsr", "kdsr", "plain"]
EVERYTHING = 10**9


@pytest.fixture
def exact(monkeypatch):
    """Averages over the whole image."""
    monkeypatch.setattr(tiling, "SAMPLE", EVERYTHING)
    monkeypatch.setattr(tiling, "LEAST_SAMPLE", EVERYTHING)


@pytest.fixture
def make(weights):
    """``make(name, **options)``: an upscaler on the CPU."""
    return lambda name, **options: Upscaler(weights[name], device="cpu", **options)


def floats(seed, height, width, photo):
    return photo(seed, height, width).astype(np.float32) / 255


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(150, 131), (97, 140), (1, 300), (203, 2)])
def test_tiles_are_exact_where_the_sample_is_the_image(name, size, make, photo, exact, monkeypatch):
    # The overlap is wider than what these small networks see.
    image = floats(1, *size, photo)
    whole_image = make(name, tile=0)(image)
    monkeypatch.setattr(upscaler, "_LEAST_AT_ONCE", 1)
    monkeypatch.setattr(tiling, "LEAST_TILE", 24)
    tiled = make(name)
    tiled._at_once = 1
    assert tiled(image).shape == (2 * size[0], 2 * size[1], 3)
    assert np.abs(tiled(image) - whole_image).max() < 2e-6


def naive(upscale, image, tile, overlap):
    """Tiles that know nothing of each other."""
    scale, size = upscale.scale, image.shape[:2]
    out = np.empty((size[0] * scale, size[1] * scale, 3), image.dtype)
    for region in cut(whole(size), tile):
        seen = region.grown(overlap, size)
        part = upscale(image[seen.inside(whole(size))])
        out[region.inside(whole(size), scale)] = part[region.inside(seen, scale)]
    return out


def within_one_level(a, b):
    return (np.abs(a.astype(int) - b.astype(int)).max(2) <= 1).mean()


@pytest.mark.parametrize("name", NAMES)
def test_tiles_show_no_seams_where_naive_ones_do(name, make, photo):
    image = photo(2, 260, 330)
    image[:, 150:] //= 4  # parts with averages of their own
    whole_image = make(name, tile=0)(image)
    assert within_one_level(make(name, tile=64)(image), whole_image) >= 0.999
    if name != "plain":
        assert within_one_level(naive(make(name, tile=0), image, 64, tiling.OVERLAP), whole_image) < 0.9


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (5, 70), (66, 63), (81, 30)])
@pytest.mark.parametrize("side", [20, 90])
def test_the_idr_found_in_regions_is_the_networks(name, size, side, networks, photo):
    network, image = networks[name], LRImage(floats(3, *size, photo), torch.device("cpu"))
    with torch.inference_mode():
        expected = network.estimate_idr(image.read(whole(size)))
        found = Guidance(network, image, side=side, sample=None)
        if name == "kdsr":
            torch.testing.assert_close(found.of(whole(size))[0], network.converter(expected))
            return
        for region in cut(whole(size), 17):
            rows, columns = region.inside(whole(size))
            idr = found.of(region)[0]
            torch.testing.assert_close(idr.channel, expected.channel)
            torch.testing.assert_close(idr.spatial, expected.spatial[..., rows, columns])


def test_the_averages_of_the_whole_image_are_those_that_its_blocks_take(networks, photo):
    network, image = networks["lightbsr"], LRImage(floats(4, 40, 50, photo), torch.device("cpu"))
    taken = []
    hooks = [
        block.modulation.register_forward_hook(lambda _, inputs, __: taken.append(inputs[0][:, 2:].mean((2, 3))))
        for block in network.sr_network.groups[0].blocks
    ]
    with torch.inference_mode():
        network(image.read(whole(image.size)))
        for hook in hooks:
            hook.remove()
        averages = shared.Guidance(network, image, side=64, sample=EVERYTHING).averages
    torch.testing.assert_close(averages, torch.cat(taken))
    assert averages.shape == (2, 6)


# --- self-ensemble ---


@pytest.mark.parametrize("name", ["plain", "kdsr"])
def test_self_ensemble_is_the_mean_over_flips_and_transposes(name, make, networks, photo):
    image = floats(5, 21, 34, photo)
    expected = np.zeros((42, 68, 3))
    for quarter in range(4):
        for mirrored in (False, True):
            turned = np.rot90(image[:, ::-1] if mirrored else image, quarter)
            with torch.inference_mode():
                lq = torch.from_numpy(turned.copy()).permute(2, 0, 1)[None]
                sr = networks[name](lq)[0].permute(1, 2, 0).numpy()
            sr = np.rot90(sr, -quarter)
            expected += (sr[:, ::-1] if mirrored else sr) / 8
    ensembled = make(name, self_ensemble=True)(image)
    assert np.abs(ensembled - expected.clip(0, 1)).max() < 1e-5
    assert np.abs(make(name)(image) - ensembled).max() > 1e-3


@pytest.mark.parametrize("name", ["lightbsr", "kdsr"])
def test_tiles_of_a_self_ensemble_are_exact_too(name, make, photo, exact):
    image = floats(6, 101, 138, photo)  # no multiples of 4
    whole_image = make(name, tile=0, self_ensemble=True)(image)
    assert np.abs(make(name, tile=40, self_ensemble=True)(image) - whole_image).max() < 2e-6


def test_a_self_ensemble_keeps_the_type_and_grey(make, photo):
    for image in (photo(6, 20, 30), photo(6, 20, 30).astype(np.uint16) * 257, photo(6, 20, 30)[..., 0]):
        white = np.iinfo(image.dtype).max
        ensembled = make("plain", self_ensemble=True)(image)
        expected = make("plain", self_ensemble=True)(image.astype(np.float32) / white) * white
        assert ensembled.dtype == image.dtype
        assert np.abs(ensembled - expected).max() <= 0.51


# --- memory and precision ---


def small_memory(upscale, most, error):
    """Have the network fail above ``most`` pixels; returns the numbers of pixels it was given."""
    attempts, sr_function = [], upscale._sr_function

    def limited(lq, *guidance):
        attempts.append(lq.shape[2] * lq.shape[3])
        if attempts[-1] > most:
            raise error
        return sr_function(lq, *guidance)

    upscale._sr_function = limited
    return attempts


@pytest.mark.parametrize(
    "error, is_one",
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError(), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (KeyError("out of memory"), False),
    ],
)
def test_running_out_of_memory_is_recognised(error, is_one):
    assert is_out_of_memory(error) == is_one


@pytest.mark.parametrize("options", [{}, {"self_ensemble": True}])
def test_tiles_are_halved_until_they_fit(options, make, photo, exact):
    image = floats(8, 170, 180, photo)
    upscale = make("lightbsr", **options)
    attempts = small_memory(upscale, 10_000, torch.OutOfMemoryError("CUDA out of memory"))
    expected = make("lightbsr", tile=0, **options)(image)
    assert np.abs(upscale(image) - expected).max() < 2e-6
    failures = [attempt for attempt in attempts if attempt > 10_000]
    assert 1 < len(failures) < 5
    upscale(image)
    assert [attempt for attempt in attempts if attempt > 10_000] == failures  # it is remembered


def test_too_little_memory_is_an_input_error(make, photo):
    image = photo(8, 190, 200)
    for tile, message in (("auto", "memory for tiles of 16 pixels"), (0, "38,000 pixels do not fit into memory")):
        upscale = make("lightbsr", tile=tile)
        small_memory(upscale, 10, torch.OutOfMemoryError("no"))
        with pytest.raises(InputError, match=message):
            upscale(image)


def test_other_errors_are_not_taken_for_memory(make, photo):
    upscale = make("lightbsr")
    small_memory(upscale, 10, RuntimeError("cuDNN is ill"))
    with pytest.raises(RuntimeError, match="cuDNN is ill"):
        upscale(photo(8, 20, 20))


def overflowing(upscale, times):
    """Have the network's output hold one infinity whenever a lower precision is in use, or always."""
    sr_function, lower = upscale._sr_function, []

    def overflow(lq, *guidance):
        sr = sr_function(lq, *guidance).clone()
        lower.append(torch.is_autocast_enabled("cpu"))
        if lower[-1] or times == "always":
            sr[0, 0, 0, 0] = torch.inf
        return sr

    upscale._sr_function = overflow
    return lower


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_precision_that_overflows_gives_way_to_float32(precision, make, photo):
    image = photo(9, 100, 90)
    upscale = make("lightbsr", precision=precision, tile=32, self_ensemble=True)
    lower = overflowing(upscale, "in a lower precision")
    with pytest.warns(UserWarning, match=f"values overflow in {precision}: going on in fp32"):
        result = upscale(image)
    assert np.array_equal(result, make("lightbsr", tile=32, self_ensemble=True)(image))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        upscale(image)
    assert lower.count(True) == 1


def test_an_output_that_is_not_finite_is_refused(make, photo):
    upscale = make("kdsr")
    overflowing(upscale, "always")
    with pytest.raises(InputError, match="output is not finite"):
        upscale(photo(9, 20, 20))


# --- threads ---


def test_threads_get_what_they_would_get_alone(make, photo):
    upscale = make("lightbsr", tile=32)
    images = [photo(i, 100 + 7 * i, 110 - 5 * i) for i in range(4)]
    expected = [upscale(image) for image in images]
    results: list = [None] * 8
    barrier = threading.Barrier(8)

    def work(i):
        barrier.wait()
        results[i] = upscale(images[i % 4])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, result in enumerate(results):
        assert np.array_equal(result, expected[i % 4])


def test_tiles_on_the_cpu_are_what_fits_into_two_gigabytes():
    small = LightBSR(num_feat=32, num_group=1, num_block=1)
    assert 1000**2 < upscaler._at_once_on_cpu(small) < 1100**2
    assert 740**2 < upscaler._at_once_on_cpu(LightBSR(num_group=1, num_block=1)) < 750**2
