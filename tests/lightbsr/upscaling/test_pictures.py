"""Pictures in and out of files: bits, alpha, grey, profile and orientation, against Pillow, OpenCV and tifffile."""

import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from lightbsr.upscaling.encoding import encode_picture
from lightbsr.upscaling.sizes import TargetSize, fill_hidden, resized
from lightbsr_compat.errors import InputError
from lightbsr_compat.images import Picture, UnreadableImage, decode_picture, decode_rgb8, read_bytes

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
    picture = decode_picture(png_bytes(samples, colour_type, bits), "a.png")
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
    picture = decode_picture(pillow_bytes(image, "PNG"), "p.png")
    assert np.array_equal(picture.colour, expected) and picture.alpha is None
    picture = decode_picture(pillow_bytes(image, "PNG", transparency=bytes([255, 255, 7])), "p.png")
    assert np.array_equal(picture.colour, expected) and picture.alpha.tolist() == [[255, 7, 255]]
    grey = Image.fromarray(np.array([[5, 9]], np.uint8))
    picture = decode_picture(pillow_bytes(grey, "PNG", transparency=9), "g.png")
    assert picture.colour.tolist() == [[5, 9]] and picture.alpha.tolist() == [[255, 0]]


@pytest.mark.parametrize("colour_type, channels", [(0, 1), (2, 3)])
def test_colour_keys_of_16_bits_become_alpha(colour_type, channels):
    samples = values(3, 4, channels, bits=16)
    content = samples[1, 2].astype(">u2").tobytes()
    chunk = struct.pack(">I", len(content)) + b"tRNS" + content + struct.pack(">I", zlib.crc32(b"tRNS" + content))
    picture = decode_picture(png_bytes(samples, colour_type, 16, extra=chunk), "a.png")
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


def test_black_and_white_is_grey():
    picture = decode_picture(pillow_bytes(Image.fromarray(np.array([[True, False]])), "PNG"), "bw.png")
    assert picture.colour.dtype == np.uint8 and picture.colour.tolist() == [[255, 0]]


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
        content = exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(content)) + b"eXIf" + content + struct.pack(">I", zlib.crc32(b"eXIf" + content))
        data = png_bytes(stored, 2, 16, extra=chunk)
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


def test_a_jpeg_with_fill_bytes_before_a_marker_is_legal():
    data = pillow_bytes(Image.fromarray(values(16, 16, 3)), "JPEG")
    at = data.index(b"\xff\xdb")
    filled = data[:at] + b"\xff\xff\xff" + data[at:]
    assert np.array_equal(decode_rgb8(filled, "a.jpg"), decode_rgb8(data, "a.jpg"))


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
