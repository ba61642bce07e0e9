"""Reading image files: depth, alpha, grey, profile and orientation, of files of all writers."""

import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from lightbsr_compat.errors import InputError
from lightbsr_compat.images import UnreadableImage, decode_picture, decode_rgb8, read_bytes

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


def chunk(kind, content):
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_bytes(samples, colour_type, bits, extra=b""):
    """A PNG written from the specification, sample by sample: (H, W, C)."""
    h, w = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", w, h, bits, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("colour_type, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_keeps_every_sample(bits, colour_type, channels):
    samples = values(5, 7, channels, bits=bits)
    picture = decode_picture(png_bytes(samples, colour_type, bits), "a.png")
    colour = samples[..., 0] if channels < 3 else samples[..., :3]
    assert picture.colour.dtype == samples.dtype and np.array_equal(picture.colour, colour)
    if channels in (2, 4):
        assert picture.alpha is not None and np.array_equal(picture.alpha, samples[..., -1])
    else:
        assert picture.alpha is None


def test_palettes_colour_keys_and_black_and_white():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 2, 1])
    expected = [[[10, 20, 30], [70, 80, 90], [40, 50, 60]]]
    picture = decode_picture(pillow_bytes(image, "PNG"), "p.png")
    assert np.array_equal(picture.colour, expected) and picture.alpha is None
    picture = decode_picture(pillow_bytes(image, "PNG", transparency=bytes([255, 255, 7])), "p.png")
    assert np.array_equal(picture.colour, expected) and picture.alpha.tolist() == [[255, 7, 255]]
    grey = Image.fromarray(np.array([[5, 9]], np.uint8))
    picture = decode_picture(pillow_bytes(grey, "PNG", transparency=9), "g.png")
    assert picture.colour.tolist() == [[5, 9]] and picture.alpha.tolist() == [[255, 0]]
    picture = decode_picture(pillow_bytes(Image.fromarray(np.array([[True, False]])), "PNG"), "bw.png")
    assert picture.colour.dtype == np.uint8 and picture.colour.tolist() == [[255, 0]]


@pytest.mark.parametrize("colour_type, channels", [(0, 1), (2, 3)])
def test_colour_keys_of_16_bits_become_alpha(colour_type, channels):
    samples = values(3, 4, channels, bits=16)
    key = chunk(b"tRNS", samples[1, 2].astype(">u2").tobytes())
    picture = decode_picture(png_bytes(samples, colour_type, 16, extra=key), "a.png")
    expected = np.full((3, 4), 65_535)
    expected[1, 2] = 0
    assert picture.alpha is not None and picture.alpha.dtype == np.uint16 and np.array_equal(picture.alpha, expected)
    assert np.array_equal(picture.colour, samples if channels == 3 else samples[..., 0])


def netpbm(kind, maximum, samples):
    """A PGM or PPM, binary or as text."""
    header = b"%s\n# a comment\n%d %d\n%d\n" % (kind, samples.shape[1], samples.shape[0], maximum)
    if kind in (b"P2", b"P3"):
        return header + b" ".join(b"%d" % value for value in samples.ravel())
    return header + samples.astype(">u2" if maximum > 255 else "u1").tobytes()


@pytest.mark.parametrize("maximum", [1, 100, 255, 1023, 65_535])
@pytest.mark.parametrize("kind", [b"P2", b"P3", b"P5", b"P6"])
def test_netpbm_is_scaled_by_its_own_maximum(kind, maximum):
    samples = RANDOM.randint(0, maximum + 1, (5, 7, 3 if kind in (b"P3", b"P6") else 1))
    colour = decode_picture(netpbm(kind, maximum, samples), "a.ppm").colour
    assert colour.dtype == (np.uint8 if maximum <= 255 else np.uint16)
    expected = samples / maximum * np.iinfo(colour.dtype).max
    assert np.abs(colour.reshape(samples.shape) - expected).max() <= 0.5 + 1e-9


def jpeg_2000(samples, bits):
    """A lossless JPEG 2000 codestream of ``bits`` bits, from one of 16 whose header is rewritten."""
    raised = (samples.astype(int) - 2 ** (bits - 1) + 2**15).astype(np.uint16)  # samples are stored around zero
    data = bytearray(pillow_bytes(Image.fromarray(raised), "JPEG2000", no_jp2=True, irreversible=False))
    data[42] = bits - 1
    return bytes(data)


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_jpeg_2000_keeps_its_depth(bits):
    samples = RANDOM.randint(0, 2**bits, (20, 30))
    colour = decode_picture(jpeg_2000(samples, bits), "a.j2k").colour
    assert colour.dtype == np.uint16
    assert np.abs(colour - samples / (2**bits - 1) * 65_535).max() <= 0.5


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiff_keeps_every_sample(bits, channels):
    samples = values(5, 7, channels, bits=bits)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    picture = decode_picture(opencv_bytes(samples[..., order], ".tiff"), "a.tiff")
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
        data = png_bytes(stored, 2, 16, extra=chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    elif kind == "tiff16":
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, stored, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
        data = buffer.getvalue()
    else:
        options = {"jpg": dict(quality=100, subsampling=0), "webp": dict(lossless=True)}.get(kind, {})
        data = pillow_bytes(Image.fromarray(stored), {"jpg": "JPEG"}.get(kind, kind.upper()), exif=exif, **options)
    picture = decode_picture(data, kind)
    expected = UPRIGHT[orientation](stored).astype(int)
    assert picture.colour.shape == expected.shape
    assert np.abs(picture.colour - expected).max() <= (6 if kind == "jpg" else 0)


def test_profiles_are_read_where_they_fit():
    colour, grey = Image.fromarray(values(4, 4, 3)), Image.fromarray(values(4, 4))
    for kind in ("PNG", "JPEG", "TIFF", "WEBP"):
        assert decode_picture(pillow_bytes(colour, kind, icc_profile=SRGB), kind).icc_profile == SRGB
        assert decode_picture(pillow_bytes(colour, kind), kind).icc_profile is None
    assert decode_picture(pillow_bytes(grey, "JPEG", icc_profile=GREY_PROFILE), "g").icc_profile == GREY_PROFILE
    # A grey picture cannot keep a profile of colours: readers refuse such files.
    assert decode_picture(pillow_bytes(grey, "JPEG", icc_profile=SRGB), "g").icc_profile is None


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(photometric="rgb", planarconfig="separate"), "a plane for each colour"),
        (dict(photometric="rgb", extrasamples=["assocalpha"]), "premultiplied alpha"),
        (dict(photometric="miniswhite"), "neither RGB nor grey with black as 0"),
    ],
)
def test_wide_tiffs_that_opencv_misreads_are_refused(options, message):
    shape = {"a plane for each colour": (3, 6, 5), "premultiplied alpha": (6, 5, 4)}.get(message, (6, 5))
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values(*shape, bits=16), **options)
    with pytest.raises(InputError, match=f"'odd file' has 16 bits and (is )?{message}"):
        decode_picture(buffer.getvalue(), "odd file")


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_wide_tiffs_of_other_writers(byteorder, compression):
    samples, buffer = values(6, 5, 3, bits=16), io.BytesIO()
    options = dict(photometric="rgb", byteorder=byteorder, compression=compression, predictor=compression is not None)
    tifffile.imwrite(buffer, samples, **options)
    assert np.array_equal(decode_picture(buffer.getvalue(), "a.tif").colour, samples)


def test_a_phones_picture_with_more_behind_it_is_read():
    front, behind = Image.fromarray(values(4, 6, 3)), Image.fromarray(values(4, 6, 3))
    data = pillow_bytes(front, "MPO", save_all=True, append_images=[behind], quality=100, subsampling=0)
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert np.abs(decode_picture(data, "a.jpg").colour - np.asarray(front).astype(int)).max() <= 6


def animation(kind):
    frames = [Image.fromarray(values(4, 4, 3)) for _ in range(2)]
    return pillow_bytes(frames[0], kind, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    "data, message",
    [
        (lambda: b"", "is missing or empty"),
        (lambda: b"I am a text", "it is no image"),
        (lambda: png_bytes(values(5, 7, 3), 2, 8)[:-20], "cut off or damaged"),
        (lambda: pillow_bytes(Image.fromarray(values(4, 4, 4), "CMYK"), "JPEG"), "is CMYK"),
        (lambda: animation("WEBP"), "has 2 frames or pages"),
        (lambda: animation("PNG"), "has 2 frames or pages"),
        (lambda: animation("TIFF"), "has 2 frames or pages"),
        (lambda: pillow_bytes(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF"), "floating-point or signed pixels"),
        (lambda: opencv_bytes(np.ones((3, 3, 3), np.float32), ".tiff"), "it is no image"),
        (lambda: pillow_bytes(Image.fromarray(np.ones((3, 3), np.int32)), "TIFF"), "32|16 bits"),
        (lambda: pillow_bytes(Image.new("LAB", (3, 3)), "TIFF"), "of the kind LAB"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(data, message):
    with pytest.raises(InputError, match=f"'odd file'.*({message})"):
        decode_picture(data(), "odd file")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "JPEG2000"])
def test_cut_off_files_are_refused(kind):
    data = pillow_bytes(Image.fromarray(values(40, 50, 3)), kind)
    decode_picture(data, "a")
    for part in (0.1, 0.5, 0.9, 0.999):
        with pytest.raises(UnreadableImage, match="'a' cannot be read"):
            decode_picture(data[: int(len(data) * part)], "a")


def test_damaged_metadata_is_left_out():
    samples = values(6, 5, 3)
    data = pillow_bytes(Image.fromarray(samples), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f no directory")
    picture = decode_picture(data, "a.png")
    assert np.array_equal(picture.colour, samples) and picture.exif is None


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_rgb_of_8_bits_has_no_alpha_in_it(mode):
    samples = values(6, 5, 4)
    samples[..., 3] //= 2
    image = Image.fromarray(samples).convert(mode)
    for kind in ("TIFF", "PNG"):
        expected = np.asarray(image.convert("RGBA"))[..., :3]
        assert np.array_equal(decode_rgb8(pillow_bytes(image, kind), kind), expected)


def test_rgb_of_8_bits_has_the_upper_bytes():
    deep = values(4, 5, 3, bits=16)
    assert np.array_equal(decode_rgb8(png_bytes(deep, 2, 16), "a"), deep >> 8)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", "/dev/zero", tmp_path):
        with pytest.raises(InputError, match=r"is no regular file|Is a directory"):
            read_bytes(path)
    with pytest.raises(UnreadableImage, match=r"gone\.png' cannot be read: No such file"):
        read_bytes(tmp_path / "gone.png")
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(InputError, match="1,073,741,825 bytes, but at most"):
        read_bytes(tmp_path / "huge.png")


def test_jpeg_with_fill_bytes_before_a_marker_is_whole(photo):
    """Any number of 0xFF bytes may stand before a marker (ITU-T T.81, B.1.1.2)."""
    data = bytes(cv2.imencode(".jpg", photo(0, 24, 32)[..., ::-1])[1])
    filled = data[:2] + b"\xff\xff\xff" + data[2:-2] + b"\xff\xff" + data[-2:]
    assert np.array_equal(decode_rgb8(filled, "x"), decode_rgb8(data, "x"))
