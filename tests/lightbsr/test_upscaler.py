"""``lightbsr.Upscaler``: what goes in comes out larger, of the same kind; odd input is refused by a sentence."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lightbsr import Upscaler
from lightbsr.packaged import find_weights, packaged_weights
from lightbsr_arch import LightBSR
from lightbsr_compat import InputError

SIZES = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return LightBSR(upscale=3, layer_scale_init=1.0, **SIZES).eval()  # at 1e-6 the IDR is lost in rounding


@pytest.fixture(scope="module")
def path(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "student.pth"
    torch.save({"params": network.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def upscaler(path):
    return Upscaler(path, device="cpu")


@pytest.fixture(scope="module")
def expected(network):
    """The network's output for (H, W, 3) in [0, 1]."""

    def sr(image):
        with torch.no_grad():
            return (
                network(torch.from_numpy(image).permute(2, 0, 1)[None].float())[0].clamp(0, 1).permute(1, 2, 0).numpy()
            )

    return sr


@pytest.mark.parametrize("dtype, white", [(np.uint8, 255), (np.uint16, 65_535), (np.float32, 1)])
def test_arrays_keep_their_type(upscaler, expected, photo, dtype, white):
    image = (photo(1, 13, 17) / 255 * white).astype(dtype)
    sr = upscaler(image)
    assert sr.dtype == dtype and sr.shape == (39, 51, 3)
    wanted = expected(image.astype(np.float32) / np.float32(white)) * white
    # Integers are rounded; channels_last sums in another order.
    assert np.abs(sr - wanted).max() <= (1e-5 if dtype == np.float32 else 0.5 + 2e-6 * white)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_grey_stays_grey(upscaler, photo, dtype):
    grey = photo(2, 9, 8)[..., 0].astype(dtype) / (255 if dtype == np.float32 else 1)
    grey = grey.astype(dtype)
    sr, colour = upscaler(grey), upscaler(np.dstack([grey] * 3)).astype(np.float64)
    assert sr.shape == (27, 24) and sr.dtype == dtype
    luma = colour @ [0.299, 0.587, 0.114]
    assert np.abs(sr - luma).max() <= (1e-5 if dtype == np.float32 else 1)


def test_tensors_keep_their_type_and_batch(upscaler, expected):
    batch = torch.rand(2, 3, 10, 7)
    sr = upscaler(batch)
    assert sr.shape == (2, 3, 30, 21) and sr.dtype == torch.float32 and not sr.is_inference()
    for one, its_sr in zip(batch, sr, strict=True):
        wanted = torch.from_numpy(expected(one.permute(1, 2, 0).numpy())).permute(2, 0, 1)
        torch.testing.assert_close(its_sr, wanted, rtol=0, atol=1e-5)
        assert torch.equal(upscaler(one), its_sr)
    assert upscaler(batch.half()).dtype == torch.float16 and upscaler(batch.double()).dtype == torch.float64
    assert (upscaler(batch * 100 - 50).max(), upscaler(batch * 100 - 50).min()) == (1, 0)  # clamped


def test_views_and_reversed_channels_are_read(upscaler, photo):
    image = photo(3, 20, 22)
    assert np.array_equal(upscaler(image[::-1, ::2, ::-1]), upscaler(image[::-1, ::2, ::-1].copy()))
    image.flags.writeable = False
    upscaler(image)


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((4, 4, 4), np.uint8), r"shape is \(4, 4, 4\), but must be \(H, W, 3\) or \(H, W\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape is \(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.int64), "type is int64, but must be uint8, uint16 or float32"),
        (np.zeros((4, 4, 3), np.float64), "type is float64"),
        (np.full((4, 4, 3), np.nan, np.float32), "values that are not finite"),
        (torch.full((3, 4, 4), torch.inf), "values that are not finite"),
        (
            torch.zeros(3, 4, 4, dtype=torch.uint8),
            r"the image is torch\.uint8, but must be a NumPy array or a floating",
        ),
        (torch.zeros(4, 4, 3), r"the tensor's shape is \(4, 4, 3\), but must be \(3, H, W\) or \(B, 3, H, W\)"),
        (torch.zeros(1, 3, 0, 4), r"shape is \(1, 3, 0, 4\)"),
        ("photo.png", "the image is str"),
    ],
)
def test_odd_images_are_refused(upscaler, image, message):
    with pytest.raises(InputError, match=message):
        upscaler(image)


@pytest.mark.parametrize("tile", [-1, "big", 1.5, None])
def test_odd_tiles_are_refused(path, tile):
    with pytest.raises(InputError, match=r"tile is .*, but must be auto or a whole number"):
        Upscaler(path, tile=tile)


def test_progress_is_told_tile_by_tile(path, photo):
    told = []
    Upscaler(path, device="cpu", tile=16)(photo(4, 100, 90), progress=lambda done, total: told.append((done, total)))
    assert told == [(i + 1, 42) for i in range(42)]


@pytest.mark.parametrize("tile", [0, 16])
def test_an_idr_can_be_given(path, photo, tile):
    upscaler = Upscaler(path, device="cpu", tile=tile)
    image, other = (photo(seed, 90, 80).astype(np.float32) / 255 for seed in (5, 6))
    own, another = upscaler.estimate_idr([image]), upscaler.estimate_idr([other])
    assert own.shape == (1, SIZES["num_channel_idr"]) and not torch.allclose(own, another)
    np.testing.assert_allclose(upscaler(image, idr=own), upscaler(image), atol=1e-6)
    # The channel IDR's part of a network without training is small.
    assert np.abs(upscaler(image, idr=own + 10) - upscaler(image)).max() > 1e-4
    batch = torch.from_numpy(np.stack([image, other])).permute(0, 3, 1, 2)
    np.testing.assert_array_equal(upscaler(batch, idr=own)[0].permute(1, 2, 0), upscaler(image, idr=own))


def test_several_images_have_one_idr(upscaler, network, photo):
    images = [photo(seed, 20 + seed, 30).astype(np.float32) / 255 for seed in range(3)]
    with torch.no_grad():
        lqs = [torch.from_numpy(image).permute(2, 0, 1)[None] for image in images]
        features = torch.stack([network.estimator(lq).mean((2, 3)) for lq in lqs]).mean(0)
        expected = network.converter.to_channel(features)
    torch.testing.assert_close(upscaler.estimate_idr(images), expected)
    with pytest.raises(InputError, match="no image"):
        upscaler.estimate_idr([])


def test_all_kinds_of_weights(tmp_path, network, path, released_state_dict, photo):
    image = photo(5, 8, 8)
    save_file(network.state_dict(), tmp_path / "ours.safetensors")
    assert np.array_equal(Upscaler(tmp_path / "ours.safetensors")(image), Upscaler(path)(image))
    torch.save(released_state_dict("lightbsr_student_x4"), tmp_path / "released.pth")
    assert Upscaler(tmp_path / "released.pth").scale == 4
    damaged = network.state_dict() | {"sr_network.body_conv.bias": torch.full((8,), torch.nan)}
    torch.save({"params": damaged}, tmp_path / "nan.pth")
    with pytest.raises(InputError, match=r"not finite \(NaN or infinity\), in 'sr_network.body_conv.bias'"):
        Upscaler(tmp_path / "nan.pth")


def test_packaged_weights_are_found_by_name(tmp_path, monkeypatch, path):
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    (tmp_path / "weights").mkdir()
    for name in ("b", "a"):
        (tmp_path / "weights" / f"{name}.safetensors").touch()
    assert list(packaged_weights()) == ["a", "b"]
    assert find_weights("b") == str(tmp_path / "weights" / "b.safetensors")
    assert find_weights(path) == str(path)  # a file of the user's comes first
    with pytest.raises(InputError, match=r"no such checkpoint file: 'c' \(packaged are a, b\)"):
        find_weights("c")


def test_importing_the_package_imports_no_upscaler():
    code = (
        "import sys, lightbsr; assert 'lightbsr.upscaling.upscaler' not in sys.modules;"
        " print(lightbsr.Upscaler.__name__)"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "Upscaler\n"), result.stderr
