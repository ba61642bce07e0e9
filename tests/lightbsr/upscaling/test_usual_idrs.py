"""Degradations that the weights were not trained for are told from those that they were."""

import copy
import json

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lightbsr.upscaling.upscaler import Upscaler
from lightbsr.upscaling.usual_idrs import METADATA_KEY, IDRStatistics, idr_statistics
from lightbsr_compat import InputError


def degraded(seed, blur, noise, size=48):
    """A picture of soft shapes and texture, blurred and noisy."""
    random = np.random.RandomState(seed)
    shapes = cv2.GaussianBlur(random.normal(0, 1, (size, size, 3)), (0, 0), 5)
    picture = 128 + 30 * shapes / shapes.std() + random.normal(0, 25, (size, size, 1))
    picture = cv2.GaussianBlur(picture, (0, 0), blur) + random.normal(0, noise, (size, size, 3))
    return picture.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def trained(networks):
    """Networks with estimators that look at differences of neighbours alone: what a trained one has learned to do."""
    found = {name: copy.deepcopy(networks[name]) for name in ("lightbsr", "kdsr")}
    for first in (found["lightbsr"].estimator[0], found["kdsr"].estimator.features[0]):
        first.weight.data -= first.weight.data.mean((2, 3), keepdim=True)
        first.weight.data *= 10
    return found


@pytest.fixture(scope="module")
def statistics(trained):
    random = np.random.RandomState(0)
    images = [degraded(i, random.uniform(0.4, 0.8), random.uniform(0, 8)) for i in range(200)]
    return {name: idr_statistics(network, images) for name, network in trained.items()}


@pytest.fixture(scope="module")
def upscalers(trained, statistics, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    found = {}
    for name, its in statistics.items():
        metadata = {METADATA_KEY: its.to_json()}
        save_file(trained[name].state_dict(), folder / f"{name}.safetensors", metadata=metadata)
        found[name] = Upscaler(folder / f"{name}.safetensors", device="cpu")
    return found


@pytest.mark.parametrize("name", ["lightbsr", "kdsr"])
def test_usual_degradations_are_not_flagged_and_far_ones_are(name, upscalers):
    upscaler = upscalers[name]
    for i in range(1000, 1020):
        assert upscaler.degradation_distance(degraded(i, 0.6, 4, 48 + i % 7)) <= 1
        assert upscaler.degradation_distance(degraded(i, 0.6, 40)) > 1


def test_without_statistics_nothing_is_said(weights, photo):
    assert Upscaler(weights["lightbsr"], device="cpu").degradation_distance(photo(0, 8, 8)) is None


def test_statistics_survive_their_file(statistics):
    for its in statistics.values():
        again = IDRStatistics.from_json(its.to_json())
        assert np.allclose(again.mean, its.mean, rtol=1e-5) and again.threshold == its.threshold
        idr = torch.randn(1, len(its.mean))
        assert again.distance(idr) == pytest.approx(its.distance(idr), rel=1e-3)


def test_the_distance_is_mahalanobis():
    its = IDRStatistics(np.array([1.0, 2.0]), np.linalg.inv(np.array([[4.0, 0.0], [0.0, 1.0]])), 3.0)
    assert its.distance(torch.tensor([[7.0, 2.0]])) == pytest.approx(1.0)
    assert its.distance(torch.tensor([[1.0, -4.0]])) == pytest.approx(2.0)


@pytest.mark.parametrize(
    "text",
    ["no JSON", "{}", "[1]", '{"mean": [1], "inverse_covariance": [[1, 2]], "threshold": 1}']
    + [json.dumps({"mean": [1], "inverse_covariance": [[1]], "threshold": t}) for t in (0, -1, "x", None)],
)
def test_damaged_statistics_are_named(tmp_path, networks, text):
    path = tmp_path / "damaged.safetensors"
    save_file(networks["lightbsr"].state_dict(), path, metadata={METADATA_KEY: text})
    with pytest.raises(InputError, match=r"damaged\.safetensors' carries idr_statistics that cannot be read"):
        Upscaler(path)


def test_a_few_images_are_too_few(networks, photo):
    with pytest.raises(InputError, match="need at least 8 images, but there are 7"):
        idr_statistics(networks["lightbsr"], [photo(i, 8, 8) for i in range(7)])
