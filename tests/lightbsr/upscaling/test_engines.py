"""ONNX Runtime and OpenVINO give what PyTorch gives, whole and in tiles; what they cannot do is said."""

import importlib.util

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from lightbsr.upscaling import engines, tiling
from lightbsr.upscaling.engines import make_engine
from lightbsr.upscaling.upscaler import Upscaler, load_network
from lightbsr_compat import InputError

# Float32 everywhere: what differs is the order of sums, a few millionths of the range [0, 1], or 255 grey levels.
TOLERANCE = 1e-3 / 255
PACKAGES = {
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("onnx", "onnxruntime", "onnxscript", "openvino"),
}


def require(engine):
    for package in PACKAGES[engine]:
        pytest.importorskip(package, reason=f"{package} is not installed (the onnx extra)")


def _compare(_rank, engine, path, images):
    upscaler = Upscaler(path, device="cpu", engine=engine, tile=40)
    assert type(upscaler._tiler._engine) is {"onnx": engines.OnnxEngine, "openvino": engines.OpenVINOEngine}[engine]
    reference = Upscaler(path, device="cpu", tile=40)
    for image in images:
        assert np.abs(upscaler(image) - reference(image)).max() < TOLERANCE
    assert set(upscaler._tiler._engine._graphs) == {"whole", "tile"}  # each was made once


@pytest.mark.parametrize("engine", PACKAGES)
@pytest.mark.parametrize(
    "name", ["lightbsr", pytest.param("kdsr", marks=pytest.mark.slow), pytest.param("plain", marks=pytest.mark.slow)]
)
def test_engines_are_torch(name, engine, weights, photo):
    """In a process of its own: one that had data-loading workers and then ran OpenVINO crashes when its next child
    ends."""
    require(engine)
    images = [photo(1, *size).astype(np.float32) / 255 for size in ((1, 1), (30, 41), (150, 131))]  # the last is tiled
    mp.spawn(_compare, args=(engine, weights[name], images), nprocs=1)


def test_there_must_be_more_than_one_tile(weights):
    # Else the test above would not see the graph for tiles.
    assert 150 * 131 > (40 + 2 * tiling.OVERLAP) ** 2


@pytest.mark.parametrize("engine", PACKAGES)
def test_missing_packages_are_named(engine, networks, monkeypatch):
    package = PACKAGES[engine][-1] if engine == "openvino" else "onnxruntime"
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(InputError, match=f"engine {engine} needs {package}, which is not installed: pip install"):
        make_engine(engine, networks["kdsr"], "fp32")


def test_other_engines_and_precisions_are_refused(networks, weights):
    with pytest.raises(InputError, match=r"engine is 'onyx'; did you mean 'onnx'\?"):
        make_engine("onyx", networks["kdsr"], "fp32")
    with pytest.raises(InputError, match="precision is 'fp16', but engine onnx computes in fp32"):
        make_engine("onnx", networks["kdsr"], "fp16")
    with pytest.raises(InputError, match=r"precision is 'fp8'; did you mean 'fp16'\?|precision is 'fp8'"):
        Upscaler(weights["kdsr"], precision="fp8")


def test_a_gpu_that_an_engine_cannot_use_is_refused(weights):
    network = load_network(weights["kdsr"]).to("meta")
    for engine in PACKAGES:
        require(engine)
        with pytest.raises(InputError, match=f"engine {engine} cannot use device 'meta'"):
            make_engine(engine, network, "fp32")


@pytest.mark.parametrize("precision, levels", [("bf16", 4), ("fp16", 0.5)])
def test_half_precision_is_near(precision, levels, weights, photo):
    image = photo(2, 40, 50).astype(np.float32) / 255
    exact = Upscaler(weights["kdsr"], device="cpu")(image)
    near = Upscaler(weights["kdsr"], device="cpu", precision=precision)(image)
    assert near.dtype == np.float32
    assert 0 < np.abs(near - exact).max() * 255 < levels
    assert torch.get_autocast_dtype("cpu") is not None and not torch.is_autocast_enabled("cpu")  # nothing is left on
