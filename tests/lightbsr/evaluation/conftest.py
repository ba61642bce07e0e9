"""Small synthetic test sets and networks for the benchmark's tests."""

import cv2
import pytest
import torch

from lightbsr.evaluation import image_sets
from lightbsr_arch import LightBSR


@pytest.fixture
def data(tmp_path, photo, monkeypatch):
    """Two sets of images of mixed sizes, not multiples of 4: ``data/Set5`` with three, ``data/Set14`` with two.

    They count as whole sets, so that the papers' figures stand beside ours.
    """
    monkeypatch.setattr(image_sets, "SIZES", {**image_sets.SIZES, "Set5": 3, "Set14": 2})
    folder = tmp_path / "data"
    for name, sizes in (("Set5", [(50, 61), (64, 48), (47, 55)]), ("Set14", [(52, 52), (61, 45)])):
        (folder / name).mkdir(parents=True)
        for i, (height, width) in enumerate(sizes):
            cv2.imwrite(str(folder / name / f"image_{i}.png"), photo(10 * len(name) + i, height, width))
    return folder


@pytest.fixture
def weights(tmp_path):
    """``weights(name, upscale=4)``: the path of a tiny student's checkpoint."""

    def make(name: str, upscale: int = 4, *, broken: bool = False) -> str:
        torch.manual_seed(len(name))
        network = LightBSR(upscale=upscale, num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=4)
        if broken:
            torch.nn.init.constant_(network.sr_network.head.weight, 1e38)
        path = tmp_path / f"{name}.pth"
        torch.save({"params": network.state_dict()}, path)
        return str(path)

    return make
