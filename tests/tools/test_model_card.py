"""A model card's tables and pictures are made of the benchmark's figures and of the model's own images."""

import cv2
import numpy as np
import pytest
import torch
from card_pictures import comparison_picture, real_picture
from model_card import bundled_photographs, card, scores, table

from lightbsr_arch import LightBSR
from lightbsr_compat import InputError

SIZES = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return LightBSR(**SIZES).eval()


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "Set" / "image.png"
    path.parent.mkdir()
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    cv2.imwrite(
        str(path),
        np.stack([np.broadcast_to(ramp, (64, 64)), np.broadcast_to(ramp[:, None], (64, 64))] * 2, -1)[..., :3],
    )
    return "Set/image.png"


def test_a_table_is_the_benchmarks_cells(network, tmp_path):
    bundled_photographs(tmp_path / "data")
    torch.save({"params": network.state_dict()}, tmp_path / "tiny.pth")
    results = scores(tmp_path / "tiny.pth", tmp_path / "data", "iso", ["bundled"], tmp_path / "out")
    rows = table(results)
    assert [row["setting"] for row in rows] == ["sigma1.2", "sigma2.4", "sigma3.6"]
    for row in rows:
        bicubic, ours = (results.mean(name, "bundled", row["setting"], "psnr")[0] for name in ("Bicubic", "LightBSR"))
        assert (row["bicubic"]["psnr"], row["ours"]["psnr"]) == (bicubic, ours)
        assert row["paper"]["psnr"] is None  # no paper knows this set


def test_pictures(network, tmp_path, photograph):
    entry = {"image": photograph, "corner": [0, 0]}
    assert real_picture(network, tmp_path, [entry]).shape == (28 + 256, 3 * 256, 3)
    picture, (sentence,) = comparison_picture(
        network, tmp_path, [{**entry, "degradation": {"sigma": 2.0, "noise_sigma": 9}, "jpeg": 30, "what": "It fails"}]
    )
    assert picture.shape == (28 + 2 * 64, 4 * 2 * 64, 3)
    gt = cv2.cvtColor(cv2.imread(str(tmp_path / photograph)), cv2.COLOR_BGR2RGB)
    assert np.array_equal(picture[28::2, 3 * 128 :: 2], gt)  # the last panel is the HR image
    assert sentence.startswith("It fails (") and sentence.endswith(" dB against bicubic on image)")


def test_missing_weights_and_images_are_named(network, tmp_path):
    with pytest.raises(InputError, match=r"no such file: .*nothing\.safetensors"):
        card("nothing", tmp_path)
    with pytest.raises(InputError, match=r"gone\.png' cannot be read as an image"):
        real_picture(network, tmp_path, [{"image": "gone.png", "corner": [0, 0]}])
