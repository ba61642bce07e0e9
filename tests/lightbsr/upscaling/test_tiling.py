"""Tiles give what the whole image gives: exactly where nothing is estimated, without seams where it is."""

import threading

import numpy as np
import pytest
import torch

from lightbsr.upscaling import shared, tiling
from lightbsr.upscaling.engines import TorchEngine
from lightbsr.upscaling.memory import is_out_of_memory
from lightbsr.upscaling.pixels import ArrayPixels, View, views
from lightbsr.upscaling.regions import Region, cut, whole
from lightbsr.upscaling.tiling import Tiler
from lightbsr.upscaling.upscaler import Upscaler
from lightbsr_compat import InputError

NAMES = ["lightbsr", "kdsr", "plain"]
EVERYTHING = 10**9


def upscaled(network, image, *, at_once, self_ensemble=False):
    """The enlargement with so many LR pixels at once (None: all)."""
    pixels = ArrayPixels(image, network.upscale)
    with torch.inference_mode():
        Tiler(network, TorchEngine(network), at_once)(pixels, views(pixels, self_ensemble=self_ensemble))
    return pixels.canvas


def side(tile: int) -> int:
    return (tile + 2 * tiling.OVERLAP) ** 2


def floats(seed, height, width, photo):
    return photo(seed, height, width).astype(np.float32) / 255


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(150, 131), (97, 140), (1, 300), (203, 2)])
def test_tiles_are_exact_where_the_sample_is_the_image(name, size, networks, photo, monkeypatch):
    # The overlap is wider than what these small networks see.
    monkeypatch.setattr(tiling, "SAMPLE", EVERYTHING)
    monkeypatch.setattr(tiling, "LEAST_SAMPLE", EVERYTHING)
    image = floats(1, *size, photo)
    whole_image = upscaled(networks[name], image, at_once=None)
    monkeypatch.setattr(tiling, "LEAST_TILE", 1)
    monkeypatch.setattr(Tiler, "_side", 24)
    tiled = upscaled(networks[name], image, at_once=1)
    assert tiled.shape == (2 * size[0], 2 * size[1], 3)
    assert np.abs(tiled - whole_image).max() < 2e-6


def naive(network, image, tile, overlap):
    """Tiles that know nothing of each other."""
    scale, size = network.upscale, image.shape[:2]
    out = np.empty((size[0] * scale, size[1] * scale, 3), image.dtype)
    for region in cut(whole(size), tile):
        seen = region.grown(overlap, size)
        part = upscaled(network, np.ascontiguousarray(image[seen.inside(whole(size))]), at_once=None)
        out[region.inside(whole(size), scale)] = part[region.inside(seen, scale)]
    return out


def within_one_level(a, b):
    return (np.abs(a.astype(int) - b.astype(int)).max(2) <= 1).mean()


@pytest.mark.parametrize("name", NAMES)
def test_tiles_show_no_seams_where_naive_ones_do(name, networks, photo):
    image = photo(2, 260, 330)
    image[:, 150:] //= 4  # parts with averages of their own
    network = networks[name]
    whole_image = upscaled(network, image, at_once=None)
    assert within_one_level(upscaled(network, image, at_once=side(64)), whole_image) >= 0.999
    if name != "plain":
        assert within_one_level(naive(network, image, 64, tiling.OVERLAP), whole_image) < 0.9


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (5, 70), (66, 63), (81, 30)])
def test_the_idr_found_in_regions_is_the_networks(name, size, networks, photo):
    network, view = networks[name], View(ArrayPixels(floats(3, *size, photo), 1))
    with torch.inference_mode():
        expected = network.estimate_idr(view.read(whole(size)))
        found = shared.SharedByTiles(network, view, side=20, sample=EVERYTHING)
        if name == "kdsr":
            torch.testing.assert_close(found.idr(whole(size)), network.converter(expected))
            return
        for region in cut(whole(size), 17):
            rows, columns = region.inside(whole(size))
            idr = found.idr(region)
            torch.testing.assert_close(idr.channel, expected.channel)
            torch.testing.assert_close(idr.spatial, expected.spatial[..., rows, columns])


def test_the_averages_of_the_whole_image_are_those_that_its_blocks_take(networks, photo):
    network, image = networks["lightbsr"], floats(4, 40, 50, photo)
    view = View(ArrayPixels(image, 1))
    lq = view.read(whole(view.size))
    taken = []
    hooks = [
        block.modulation.register_forward_hook(lambda _, inputs, __: taken.append(inputs[0][:, 2:].mean((2, 3))))
        for block in network.sr_network.groups[0].blocks
    ]
    with torch.inference_mode():
        network(lq)
        for hook in hooks:
            hook.remove()
        averages = shared.SharedByTiles(network, view, side=64, sample=EVERYTHING).averages
    torch.testing.assert_close(averages, torch.cat(taken))
    assert averages.shape == (2, 6)


# --- self-ensemble ---


@pytest.mark.parametrize("name", ["plain", "kdsr"])
def test_self_ensemble_is_the_mean_over_flips_and_transposes(name, networks, photo):
    network, image = networks[name], floats(5, 21, 34, photo)
    expected = np.zeros((42, 68, 3))
    for quarter in range(4):
        for mirrored in (False, True):
            turned = np.rot90(image[:, ::-1] if mirrored else image, quarter)
            with torch.inference_mode():
                sr = network(torch.from_numpy(turned.copy()).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
            sr = np.rot90(sr, -quarter)
            expected += (sr[:, ::-1] if mirrored else sr) / 8
    ensembled = upscaled(network, image, at_once=None, self_ensemble=True)
    assert np.abs(ensembled - expected.clip(0, 1)).max() < 1e-5
    assert np.abs(upscaled(network, image, at_once=None) - ensembled).max() > 1e-3


@pytest.mark.parametrize("name", ["lightbsr", "kdsr"])
def test_tiles_of_a_self_ensemble_are_exact_too(name, networks, photo, monkeypatch):
    monkeypatch.setattr(tiling, "SAMPLE", EVERYTHING)
    monkeypatch.setattr(tiling, "LEAST_SAMPLE", EVERYTHING)
    image = floats(6, 101, 138, photo)  # no multiples of 4
    whole_image = upscaled(networks[name], image, at_once=None, self_ensemble=True)
    tiled = upscaled(networks[name], image, at_once=side(40), self_ensemble=True)
    assert np.abs(tiled - whole_image).max() < 2e-6


def test_views_read_the_regions_that_they_say(photo):
    image = floats(7, 11, 16, photo)
    pixels, region = ArrayPixels(image, 1), Region(2, 7, 3, 14)
    expected = pixels.read(region)
    all_views = views(pixels, self_ensemble=True)
    for view in all_views:
        assert torch.equal(view.turned_back(view.read(view.region(region))), expected)
    assert len({view.read(whole(view.size)).numpy().tobytes() for view in all_views}) == 8


# --- memory ---


class SmallMemory(TorchEngine):
    """Has room for ``most`` pixels."""

    def __init__(self, network, most, error):
        super().__init__(network)
        self.most, self.error, self.attempts = most, error, []

    def whole(self, lq):
        return super().whole(self._fitting(lq))

    def tile(self, lq, idr, averages):
        return super().tile(self._fitting(lq), idr, averages)

    def _fitting(self, lq):
        self.attempts.append(lq.shape[2] * lq.shape[3])
        if self.attempts[-1] > self.most:
            raise self.error
        return lq


@pytest.mark.parametrize(
    "error, is_one",
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested"), True),
        (MemoryError(), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
    ],
)
def test_what_running_out_of_memory_looks_like(error, is_one):
    assert is_out_of_memory(error) == is_one


def test_where_memory_runs_out_tiles_get_smaller(networks, photo, monkeypatch):
    monkeypatch.setattr(tiling, "SAMPLE", EVERYTHING)
    monkeypatch.setattr(tiling, "LEAST_SAMPLE", EVERYTHING)
    network, image = networks["lightbsr"], floats(8, 170, 180, photo)
    engine = SmallMemory(network, 10_000, torch.OutOfMemoryError("CUDA out of memory"))
    tiler = Tiler(network, engine, 10**6)
    pixels = ArrayPixels(image, 2)
    with torch.inference_mode():
        tiler(pixels, views(pixels, self_ensemble=False))
    assert np.abs(pixels.canvas - upscaled(network, image, at_once=None)).max() < 2e-6
    failures = [attempt for attempt in engine.attempts if attempt > 10_000]
    assert 1 < len(failures) < 5  # halved each time, and then remembered
    with torch.inference_mode():
        tiler(pixels, views(pixels, self_ensemble=False))
    assert [attempt for attempt in engine.attempts if attempt > 10_000] == failures


def test_where_not_even_small_tiles_fit_that_is_said(networks, photo):
    network, pixels = networks["lightbsr"], ArrayPixels(floats(8, 190, 200, photo), 2)
    engine = SmallMemory(network, 10, torch.OutOfMemoryError("no"))
    with pytest.raises(InputError, match="not enough memory for tiles of 16 pixels"):
        Tiler(network, engine, 10**6)(pixels, views(pixels, self_ensemble=False))
    with pytest.raises(InputError, match="38,000 pixels do not fit into memory at once: let them be tiled"):
        Tiler(network, engine, None)(pixels, views(pixels, self_ensemble=False))


def test_other_errors_are_not_taken_for_memory(networks, photo):
    network, pixels = networks["lightbsr"], ArrayPixels(floats(8, 20, 20, photo), 2)
    with pytest.raises(RuntimeError, match="cuDNN is ill"):
        Tiler(network, SmallMemory(network, 10, RuntimeError("cuDNN is ill")), 10**6)(
            pixels, views(pixels, self_ensemble=False)
        )


# --- threads ---


def test_threads_get_what_they_would_get_alone(weights, photo):
    upscaler = Upscaler(weights["lightbsr"], device="cpu", tile=32)
    images = [photo(i, 100 + 7 * i, 110 - 5 * i) for i in range(4)]
    expected = [upscaler(image) for image in images]
    results: list = [None] * 8
    barrier = threading.Barrier(8)

    def work(i):
        barrier.wait()
        results[i] = upscaler(images[i % 4])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, result in enumerate(results):
        assert np.array_equal(result, expected[i % 4])
