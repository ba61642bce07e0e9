"""Small synthetic test sets and networks for the benchmark's tests."""

import cv2
import numpy as np
import pytest
import torch

from lightbsr.evaluation import cost
from lightbsr_arch import LightBSR

_PEAK_MIB_CPU = cost._peak_mib_cpu


@pytest.fixture(autouse=True)
def no_measuring_processes(monkeypatch):
    """Peak memory takes a process of its own per network, seconds each: only one test measures it."""
    monkeypatch.setattr(cost, "_peak_mib_cpu", lambda weights, side: 1.0)


@pytest.fixture
def peak_mib_cpu():
    """The real one."""
    return _PEAK_MIB_CPU


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """A smooth random picture with an edge in it, (height, width, 3) uint8."""
    random = np.random.RandomState(seed)
    image = cv2.resize(random.uniform(0, 255, (6, 6, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    image[height // 3 :, : width // 2] += 60
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture
def data(tmp_path):
    """Two sets of images of mixed sizes, not multiples of 4: ``data/Set5`` with three, ``data/Set14`` with two."""
    folder = tmp_path / "data"
    for name, sizes in (("Set5", [(50, 61), (64, 48), (47, 55)]), ("Set14", [(52, 52), (61, 45)])):
        (folder / name).mkdir(parents=True)
        for i, (height, width) in enumerate(sizes):
            cv2.imwrite(str(folder / name / f"image_{i}.png"), picture(10 * len(name) + i, height, width))
    return folder


@pytest.fixture
def weights(tmp_path):
    """``weights(name, upscale=4)``: the path of a tiny student's checkpoint."""

    def make(name: str, upscale: int = 4) -> str:
        torch.manual_seed(len(name))
        sizes = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=4)
        path = tmp_path / f"{name}.pth"
        torch.save({"params": LightBSR(upscale=upscale, **sizes).state_dict()}, path)
        return str(path)

    return make
