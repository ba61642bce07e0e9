"""Real-ESRGAN's ``RealESRGANer`` with our networks gives what the networks give, in float32 and in halves.

It runs in a process of its own, as its users start it: importing realesrgan registers data sets that would shadow
BasicSR's in this one.
"""

import copy
import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch

from lightbsr_arch import KDSR, LightBSR

if importlib.util.find_spec("realesrgan") is None:
    pytest.skip("realesrgan is not installed (the integration extra)", allow_module_level=True)

NETWORKS = {
    "LightBSR": lambda: LightBSR(
        num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6, layer_scale_init=0.5, upscale=4
    ),
    "KDSR": lambda: KDSR(num_feat=8, num_block=2, num_resblock=1, upscale=2),
}
SCRIPT = """
import lightbsr
import numpy as np, torch
from realesrgan import RealESRGANer
from lightbsr_arch import build_from_state_dict

images = np.load("images.npz")
results = {}
for name in ("LightBSR", "KDSR"):
    path = name + ".pth"
    for how, options in dict(whole={}, half=dict(half=True)).items():
        network = build_from_state_dict(torch.load(path)["params_ema"])
        for value in network.parameters():
            value.data.zero_()  # RealESRGANer has to load the file
        upsampler = RealESRGANer(
            scale=network.upscale, model_path=path, model=network, pre_pad=0, device=torch.device("cpu"), **options
        )
        for image in images:
            results[f"{name} {how} {image}"] = upsampler.enhance(images[image])[0]
np.savez("results.npz", **results)
"""


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return {name: make().eval() for name, make in NETWORKS.items()}


@pytest.fixture(scope="module")
def images(photo):
    rgb = photo(7, 23, 34)
    # Even sides for x2: RealESRGANer pads others, which the networks' estimators would see.
    return {"colour": rgb[:22], "16 bit": rgb[:22].astype(np.uint16) * 257}


@pytest.fixture(scope="module")
def results(tmp_path_factory, networks, images):
    folder = tmp_path_factory.mktemp("realesrgan")
    for name, network in networks.items():
        # As training writes them: the average is preferred.
        average = network.state_dict()
        torch.save(
            {"params": {k: torch.zeros_like(v) for k, v in average.items()}, "params_ema": average},
            folder / f"{name}.pth",
        )
    np.savez(folder / "images.npz", **{name: image[..., ::-1] for name, image in images.items()})  # BGR
    result = subprocess.run([sys.executable, "-c", SCRIPT], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    with np.load(folder / "results.npz") as file:
        return {name: file[name][..., ::-1] for name in file.files}


@torch.no_grad()
def upscaled(network, image: np.ndarray, dtype=torch.float32) -> np.ndarray:
    """The SR image of (H, W, 3) uint8 RGB, in [0, 255], not rounded."""
    lq = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    sr = network.to(dtype)(lq.to(dtype))[0].float().clamp(0, 1)
    return (sr * 255).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", NETWORKS)
def test_whole(results, networks, images, name):
    expected = upscaled(networks[name], images["colour"])
    assert np.abs(results[f"{name} whole colour"] - expected).max() <= 0.5 + 1e-3
    sixteen = results[f"{name} whole 16 bit"]
    assert sixteen.dtype == np.uint16 and np.abs(sixteen / 257 - expected).max() <= 0.5 / 257 + 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_half(results, networks, images, name):
    half = results[f"{name} half colour"]
    network = copy.deepcopy(networks[name])
    assert np.abs(half - upscaled(network, images["colour"], torch.half)).max() <= 0.5 + 1e-3
    assert np.abs(half - upscaled(networks[name], images["colour"])).max() <= 1.5
