"""Pictures in and out of files: bits, alpha, grey, profile and orientation, against Pillow, OpenCV and tifffile."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from lightbsr.upscaling import png
from lightbsr.upscaling.formats import FORMATS, format_of, write_picture
from lightbsr.upscaling.picture import Picture, enlarge_alpha, fill_hidden, read_picture
from lightbsr_compat import InputError

RANDOM = np.random.RandomState(0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]


def values(*shape, bits=8):
    return RANDOM.randint(0, 2**bits, shape).astype(np.uint8 if bits == 8 else np.uint16)


def pillow_bytes(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opencv_bytes(image, suffix, *options):
    done, data = cv2.imencode(suffix, image, options)
    assert done
    return data.tobytes()


def png_bytes(samples, colour_type, bits, extra=b""):
    """A PNG written from the specification, sample by sample: (H, W, C)."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    h, w = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", w, h, bits, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# --- reading ---


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("colour_type, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_keeps_every_sample(bits, colour_type, channels):
    samples = values(5, 7, channels, bits=bits)
    picture = read_picture(png_bytes(samples, colour_type, bits), "a.png")
    colour = samples[..., 0] if channels < 3 else samples[..., :3]
    assert picture.colour.dtype == samples.dtype and np.array_equal(picture.colour, colour)
    if channels in (2, 4):
        assert picture.alpha is not None and np.array_equal(picture.alpha, samples[..., -1])
    else:
        assert picture.alpha is None


def test_palettes_and_colour_keys_become_colours_and_alpha():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 2, 1])
    expected = [[[10, 20, 30], [70, 80, 90], [40, 50, 60]]]
    picture = read_picture(pillow_bytes(image, "PNG"), "p.png")
    assert np.array_equal(picture.colour, expected) and picture.alpha is None
    picture = read_picture(pillow_bytes(image, "PNG", transparency=bytes([255, 255, 7])), "p.png")
    assert np.array_equal(picture.colour, expected) and picture.alpha.tolist() == [[255, 7, 255]]
    grey = Image.fromarray(np.array([[5, 9]], np.uint8))
    picture = read_picture(pillow_bytes(grey, "PNG", transparency=9), "g.png")
    assert picture.colour.tolist() == [[5, 9]] and picture.alpha.tolist() == [[255, 0]]


def test_black_and_white_is_grey():
    picture = read_picture(pillow_bytes(Image.fromarray(np.array([[True, False]])), "PNG"), "bw.png")
    assert picture.colour.dtype == np.uint8 and picture.colour.tolist() == [[255, 0]]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiff_keeps_every_sample(bits, channels):
    samples = values(5, 7, channels, bits=bits)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    picture = read_picture(opencv_bytes(samples[..., order], ".tiff"), "a.tiff")
    assert picture.colour.dtype == samples.dtype
    assert np.array_equal(picture.colour, samples[..., 0] if channels == 1 else samples[..., :3])
    assert (picture.alpha is None) == (channels < 4)
    if channels == 4:
        assert np.array_equal(picture.alpha, samples[..., 3])


# What an orientation means: how the stored rows and columns become the picture (TIFF 6.0, tag 274).
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["png", "png16", "jpg", "tiff", "tiff16", "webp"])
def test_orientation_is_applied(kind, orientation):
    stored = values(5, 7, 3, bits=16 if kind.endswith("16") else 8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "png16":
        content = exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(content)) + b"eXIf" + content + struct.pack(">I", zlib.crc32(b"eXIf" + content))
        data = png_bytes(stored, 2, 16, extra=chunk)
    elif kind == "tiff16":
        tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, stored, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
        data = buffer.getvalue()
    else:
        options = {"jpg": dict(quality=100, subsampling=0), "webp": dict(lossless=True)}.get(kind, {})
        data = pillow_bytes(Image.fromarray(stored), {"jpg": "JPEG"}.get(kind, kind.upper()), exif=exif, **options)
    picture = read_picture(data, kind)
    expected = UPRIGHT[orientation](stored).astype(int)
    assert picture.colour.shape == expected.shape
    assert np.abs(picture.colour - expected).max() <= (6 if kind == "jpg" else 0)


def test_profiles_are_read_where_they_fit():
    colour, grey = Image.fromarray(values(4, 4, 3)), Image.fromarray(values(4, 4))
    for kind in ("PNG", "JPEG", "TIFF", "WEBP"):
        assert read_picture(pillow_bytes(colour, kind, icc_profile=SRGB), kind).icc_profile == SRGB
        assert read_picture(pillow_bytes(colour, kind), kind).icc_profile is None
    assert read_picture(pillow_bytes(grey, "JPEG", icc_profile=GREY_PROFILE), "g").icc_profile == GREY_PROFILE
    # A grey picture cannot keep a profile of colours: readers refuse such files.
    assert read_picture(pillow_bytes(grey, "JPEG", icc_profile=SRGB), "g").icc_profile is None


def test_a_phones_picture_with_more_behind_it_is_read():
    front, behind = Image.fromarray(values(4, 6, 3)), Image.fromarray(values(4, 6, 3))
    data = pillow_bytes(front, "MPO", save_all=True, append_images=[behind], quality=100, subsampling=0)
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert np.abs(read_picture(data, "a.jpg").colour - np.asarray(front).astype(int)).max() <= 6


def animation(kind):
    frames = [Image.fromarray(values(4, 4, 3)) for _ in range(2)]
    return pillow_bytes(frames[0], kind, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    "data, message",
    [
        (lambda: b"", "is missing or empty"),
        (lambda: b"I am a text", "no image of a known kind"),
        (lambda: png_bytes(values(5, 7, 3), 2, 8)[:-20], "cut off or damaged"),
        (lambda: pillow_bytes(Image.fromarray(values(4, 4, 4), "CMYK"), "JPEG"), "is CMYK"),
        (lambda: animation("WEBP"), "has 2 frames or pages"),
        (lambda: animation("PNG"), "has 2 frames or pages"),
        (lambda: animation("TIFF"), "has 2 frames or pages"),
        (lambda: pillow_bytes(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF"), "floating-point pixels"),
        (lambda: opencv_bytes(np.ones((3, 3, 3), np.float32), ".tiff"), "no image of a known kind"),
        (lambda: pillow_bytes(Image.fromarray(np.ones((3, 3), np.int32)), "TIFF"), "32|16 bits"),
        (lambda: pillow_bytes(Image.new("LAB", (3, 3)), "TIFF"), "of the kind LAB"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(data, message):
    with pytest.raises(InputError, match=f"'odd file'.*({message})"):
        read_picture(data(), "odd file")


# --- writing ---


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


def written(picture, name):
    buffer = io.BytesIO()
    write_picture(picture, buffer, name)
    return buffer.getvalue()


@pytest.mark.parametrize("band_bytes", [1, 2**22])
@pytest.mark.parametrize("number", range(len(PICTURES)))
@pytest.mark.parametrize("name", ["png", "tiff"])
def test_png_and_tiff_lose_nothing(name, number, band_bytes, monkeypatch):
    monkeypatch.setattr(png, "BAND_BYTES", band_bytes)  # one row at a time, or all
    picture = PICTURES[number]
    data = written(picture, name)
    grey, deep = picture.colour.ndim == 2, picture.colour.dtype == np.uint16
    if name == "tiff":
        tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
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
    if name == "png" or picture.alpha is None:  # OpenCV premultiplies a TIFF's
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert pixels.dtype == picture.colour.dtype
        colour = pixels if pixels.ndim == 2 else pixels[..., 0] if grey else pixels[..., 2::-1]
        assert np.array_equal(colour, picture.colour)
        assert picture.alpha is None or np.array_equal(pixels[..., 3], picture.alpha)
    again = read_picture(data, "again")
    assert np.array_equal(again.colour, picture.colour) and again.icc_profile == picture.icc_profile
    assert (again.alpha is None) == (picture.alpha is None)
    assert picture.alpha is None or np.array_equal(again.alpha, picture.alpha)


def test_png_is_compressed():
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 256, 3))
    assert len(written(Picture(ramp), "png")) < ramp.size / 100


@pytest.mark.parametrize("name, tolerance", [("jpg", 12), ("webp", 25)])
def test_jpeg_and_webp_take_8_bits_and_the_profile(name, tolerance, photo):
    colour = cv2.GaussianBlur(photo(0, 40, 30), (0, 0), 2)
    wide = colour.astype(np.uint16) * 257
    for picture in (Picture(colour, icc_profile=SRGB), Picture(wide, icc_profile=SRGB)):
        with Image.open(io.BytesIO(written(picture, name))) as image:
            assert image.format == {"jpg": "JPEG"}.get(name, name.upper())
            assert image.info["icc_profile"] == SRGB
            assert np.abs(np.asarray(image).astype(int) - colour).max() <= tolerance
    with Image.open(io.BytesIO(written(Picture(colour[..., 0]), name))) as image:
        assert np.abs(np.asarray(image.convert("L")).astype(int) - colour[..., 0]).max() <= tolerance
    assert written(Picture(colour), name) == written(Picture(wide), name)


def test_webp_keeps_alpha_and_jpeg_refuses_it():
    picture = Picture(values(8, 8, 3), values(8, 8))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(written(picture, "webp"))))[..., 3], picture.alpha)
    with pytest.raises(InputError, match="has alpha, which jpg cannot hold"):
        written(picture, "jpg")
    with pytest.raises(InputError, match="1x16384 pixels are more than 16,383"):
        written(Picture(values(16_384, 1)), "webp")


def test_formats_go_by_suffixes():
    assert FORMATS == ("png", "jpg", "webp", "tiff", "same")
    for path, name in {"a.JPEG": "jpg", "b/c.tif": "tiff", "d.webp": "webp", "e.bmp": "png", "f": "png"}.items():
        assert format_of(path) == name


# --- alpha ---


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
    assert (enlarge_alpha(opaque, 4) == 65_535).all() and enlarge_alpha(opaque, 4).shape == (12, 16)
    step = np.repeat(np.array([[0, 0, 0, 255, 255, 255]], np.uint8), 6, 0)
    enlarged = enlarge_alpha(step, 2)
    assert enlarged.dtype == np.uint8 and (enlarged[:, 0] == 0).all() and (enlarged[:, -1] == 255).all()
    assert (np.diff(enlarged[5].astype(int)[4:8]) > 0).all()
