"""Random degradations and image files: a result or InputError, never another exception."""

import cv2
import numpy as np
import torch
from fuzzing import QUIET
from hypothesis import given, settings
from hypothesis import strategies as st

from lightbsr_compat import InputError
from lightbsr_compat.images import decode_rgb8
from lightbsr_data import degrade, gaussian_kernels
from lightbsr_data.datasets import parse_fixed_degradation


@settings(max_examples=60, **QUIET)
@given(
    sigma=st.tuples(st.floats(0.05, 50), st.floats(0.05, 50)),
    theta=st.floats(-10, 10),
    height=st.integers(3, 20),
    width=st.integers(3, 20),
    scale=st.sampled_from([2, 3, 4]),
    noise=st.floats(0, 200),
)
def test_degradations_of_any_size_and_strength(sigma, theta, height, width, scale, noise):
    parameters = [torch.tensor([value], dtype=torch.float32) for value in (*sigma, theta)]
    kernels = gaussian_kernels(*parameters)
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(1))
    size = (1, 3, max(12, height * scale) // scale * scale, max(12, width * scale) // scale * scale)
    lq_size = (1, 3, size[2] // scale, size[3] // scale)
    lq = degrade(torch.rand(size), kernels, noise * torch.randn(lq_size), scale=scale)
    assert lq.shape == lq_size and lq.min() >= 0 and lq.max() <= 1
    torch.testing.assert_close(lq * 255, (lq * 255).round(), rtol=0, atol=1e-3)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, **QUIET)
@given(
    degradation=ANYTHING
    | st.dictionaries(st.sampled_from(["sigma", "sigma_x", "sigma_y", "theta", "noise_sigma", "x"]), ANYTHING)
)
def test_benchmark_degradations_are_parsed_or_refused(degradation):
    try:
        parsed = parse_fixed_degradation(degradation)
        assert min(parsed.sigma_x, parsed.sigma_y) > 0
    except InputError:
        pass


@settings(max_examples=200, **QUIET)
@given(data=st.data())
def test_mutated_image_files_are_read_or_refused(data):
    picture = np.random.RandomState(0).randint(0, 256, (12, 17, 3), dtype=np.uint8)
    suffix = data.draw(st.sampled_from([".png", ".jpg", ".bmp", ".webp", ".tif"]))
    content = bytearray(cv2.imencode(suffix, picture)[1].tobytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    try:
        image = decode_rgb8(bytes(content), "x")
        assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    except InputError as error:
        assert "'x'" in str(error)
