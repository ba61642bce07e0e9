"""Writing pictures, and what comes before it: alpha, sizes and metadata; against Pillow, OpenCV and tifffile."""

import io
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from lightbsr.upscaling.encoding import encode_picture
from lightbsr.upscaling.sizes import TargetSize, fill_hidden, resized
from lightbsr_compat.errors import InputError
from lightbsr_compat.images import Picture, decode_picture

RANDOM = np.random.RandomState(0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]


def values(*shape, bits=8):
    return RANDOM.randint(0, 2**bits, shape).astype(np.uint8 if bits == 8 else np.uint16)


PICTURES = [
    Picture(values(9, 5, 3)),
    Picture(values(9, 5), icc_profile=GREY_PROFILE),
    Picture(values(9, 5, 3), values(9, 5), SRGB),
    Picture(values(9, 5), values(9, 5)),
    Picture(values(9, 5, 3, bits=16), icc_profile=SRGB),
    Picture(values(9, 5, bits=16)),
    Picture(values(9, 5, 3, bits=16), values(9, 5, bits=16), SRGB),
    Picture(values(9, 5, bits=16), values(9, 5, bits=16)),
    Picture(values(1, 1, 3)),
]


@pytest.mark.parametrize("number", range(len(PICTURES)))
@pytest.mark.parametrize("name", ["png", "tiff"])
def test_png_and_tiff_lose_nothing(name, number):
    picture = PICTURES[number]
    if name == "png" and picture.colour.ndim == 2 and picture.alpha is not None:
        return  # see below
    data = encode_picture(picture, name)
    grey, deep = picture.colour.ndim == 2, picture.colour.dtype == np.uint16
    if name == "tiff":
        samples = tifffile.imread(io.BytesIO(data)).reshape(*picture.colour.shape[:2], -1)
        parts = [picture.colour] if picture.alpha is None else [picture.colour, picture.alpha]
        assert np.array_equal(samples, np.dstack(parts))
        if grey and deep and picture.alpha is not None:
            return  # which neither Pillow nor OpenCV reads
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.info.get("icc_profile") == picture.icc_profile
        if not deep:
            expected = picture.colour[..., None] if grey else picture.colour
            if picture.alpha is not None:
                expected = np.dstack([expected, picture.alpha])
            assert np.array_equal(np.asarray(image).reshape(expected.shape), expected)
    again = decode_picture(data, "again")
    assert np.array_equal(again.colour, picture.colour) and again.icc_profile == picture.icc_profile
    assert (again.alpha is None) == (picture.alpha is None)
    assert picture.alpha is None or np.array_equal(again.alpha, picture.alpha)


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_with_alpha_becomes_rgb_in_a_png(bits):
    picture = Picture(values(9, 5, bits=bits), values(9, 5, bits=bits), GREY_PROFILE)
    again = decode_picture(encode_picture(picture, "png"), "a.png")
    assert np.array_equal(again.colour, np.dstack([picture.colour] * 3)) and again.icc_profile is None
    assert np.array_equal(again.alpha, picture.alpha)


@pytest.mark.parametrize("name, tolerance", [("jpg", 12), ("webp", 25)])
def test_jpeg_and_webp_take_8_bits_and_the_profile(name, tolerance, photo):
    colour = cv2.GaussianBlur(photo(0, 40, 30), (0, 0), 2)
    wide = colour.astype(np.uint16) * 257
    for picture in (Picture(colour, icc_profile=SRGB), Picture(wide, icc_profile=SRGB)):
        with Image.open(io.BytesIO(encode_picture(picture, name))) as image:
            assert image.format == {"jpg": "JPEG"}.get(name, name.upper())
            assert image.info["icc_profile"] == SRGB
            assert np.abs(np.asarray(image).astype(int) - colour).max() <= tolerance
    with Image.open(io.BytesIO(encode_picture(Picture(colour[..., 0]), name))) as image:
        assert np.abs(np.asarray(image.convert("L")).astype(int) - colour[..., 0]).max() <= tolerance
    assert encode_picture(Picture(colour), name) == encode_picture(Picture(wide), name)


def test_webp_keeps_alpha_and_jpeg_refuses_it():
    picture = Picture(values(8, 8, 3), values(8, 8))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_picture(picture, "webp"))))[..., 3], picture.alpha)
    with pytest.raises(InputError, match="has alpha, which jpg cannot hold"):
        encode_picture(picture, "jpg")
    with pytest.raises(InputError, match="1x16384 pixels are more than 16,383"):
        encode_picture(Picture(values(16_384, 1)), "webp")


# --- metadata ---


@pytest.fixture
def photograph(photo):
    """A JPEG of 20x30, to be turned, as a camera and an editor leave it."""
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "Camera", 0x8298: "Ann", 0x8769: {0xA002: 30, 0xA003: 20, 0x829A: 0.01}})
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0)}
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6" exif:PixelXDimension="30">'
    xmp += b"<tiff:ImageLength>20</tiff:ImageLength>caf\xc3\xa9</d></x:xmpmeta>"
    iptc = b"\x1c\x02\x50\x00\x03Ann"
    resource = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + len(iptc).to_bytes(4, "big") + iptc
    segment = b"\xff\xed" + (len(resource) + 2).to_bytes(2, "big") + resource
    file = io.BytesIO()
    Image.fromarray(photo(1, 20, 30)).save(file, "JPEG", exif=exif, xmp=xmp, extra=segment)
    return file.getvalue()


@pytest.mark.parametrize("format", ["png", "jpg", "webp", "tiff"])
def test_metadata_is_kept_upright_and_with_the_right_size(photograph, format):
    picture = replace(decode_picture(photograph, "a.jpg"), colour=values(60, 40, 3))
    with Image.open(io.BytesIO(encode_picture(picture, format))) as image:
        image.load()
        exif, info = image.getexif(), image.info
        assert image.size == (40, 60) and exif.get(0x0112, 1) == 1
        assert exif[0x010F] == "Camera" and exif[0x8298] == "Ann"
        if format != "tiff":
            camera = exif.get_ifd(0x8769)
            assert (camera[0xA002], camera[0xA003]) == (40, 60) and float(camera[0x829A]) == 0.01
            assert exif.get_ifd(0x8825)[2] == (52.0, 31.0, 12.0)
        assert b'tiff:Orientation="1" exif:PixelXDimension="40"><tiff:ImageLength>60<' in info["xmp"]
        assert "café".encode() in info["xmp"]
        if format in ("jpg", "tiff"):
            iptc = image.tag_v2[33_723] if format == "tiff" else info["photoshop"][0x0404]
            assert iptc == b"\x1c\x02\x50\x00\x03Ann"


# --- alpha and sizes ---


def test_hidden_colours_are_replaced_by_the_nearest_that_shows():
    colour = values(20, 30, 3)
    alpha = np.where(RANDOM.rand(20, 30) < 0.1, values(20, 30), 0).astype(np.uint8)
    filled = fill_hidden(colour, alpha)
    rows, columns = np.nonzero(alpha)
    for y in range(20):
        for x in range(30):
            if alpha[y, x]:
                assert np.array_equal(filled[y, x], colour[y, x])
                continue
            distances = np.hypot(rows - y, columns - x)
            # OpenCV's distances are off by a few hundredths.
            near = distances <= distances.min() * 1.05 + 1e-9
            assert (filled[y, x] == colour[rows[near], columns[near]]).all(1).any()


@pytest.mark.parametrize("alpha", [0, 1, 255])
def test_where_all_or_nothing_shows_nothing_is_filled(alpha):
    colour = values(4, 5, bits=16)
    assert np.array_equal(fill_hidden(colour, np.full((4, 5), alpha, np.uint16)), colour)


def test_alpha_is_enlarged_smoothly():
    opaque = np.full((3, 4), 65_535, np.uint16)
    assert (resized(opaque, (12, 16)) == 65_535).all()
    step = np.repeat(np.array([[0, 0, 0, 255, 255, 255]], np.uint8), 6, 0)
    enlarged = resized(step, (12, 12))
    assert enlarged.dtype == np.uint8 and (enlarged[:, 0] == 0).all() and (enlarged[:, -1] == 255).all()
    assert (np.diff(enlarged[5].astype(int)[4:8]) > 0).all()


@pytest.mark.parametrize("shape", [(12, 18), (12, 18, 3)])
@pytest.mark.parametrize("bits", [8, 16])
def test_smaller_sizes_are_means_over_areas(shape, bits):
    samples = values(*shape, bits=bits)
    expected = samples.reshape(4, 3, 6, 3, *shape[2:]).mean((1, 3))
    assert np.abs(resized(samples, (4, 6)) - expected).max() <= 0.51


@pytest.mark.parametrize(
    "target, size",
    [
        (TargetSize("outscale", 2.5), (33, 18)),  # 32.5 and 17.5: halves go up
        (TargetSize("outscale", 1.1), (14, 8)),
        (TargetSize("width", 333), (618, 333)),
        (TargetSize("height", 1), (1, 1)),
        (TargetSize("max_side", 26), (26, 14)),
        (TargetSize("max_side", 53), (52, 28)),
        (TargetSize("max_side", 1), (1, 1)),
    ],
)
def test_target_sizes(target, size):
    assert target.of((13, 7), 4) == size


def test_a_result_has_a_bound():
    with pytest.raises(InputError, match="the result would be 200000x20000, more than"):
        TargetSize("width", 200_000).of((10, 100), 4)
