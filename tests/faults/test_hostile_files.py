"""Damaged or hostile images and LMDBs: errors that name the file, never another image."""

import io
import shutil
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from lightbsr_compat import InputError
from lightbsr_compat.images import decode_rgb8
from lightbsr_data import DegradationPriorDataset
from lightbsr_data.images import HRImages, UnreadableImage

PICTURE = np.random.RandomState(0).randint(0, 256, (40, 50, 3), dtype=np.uint8)


def encoded(kind, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name, content):
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def bomb(width, height):
    """A PNG of a few hundred bytes that claims any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_a_valid_image_is_read(kind):
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    image = decode_rgb8(encoded(kind, **options), "x")
    assert image.shape == (40, 50, 3)
    if kind != "JPEG":
        np.testing.assert_array_equal(image, PICTURE)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("part", [0.01, 0.5, 0.999])
def test_a_truncated_image_is_refused(kind, part):
    data = encoded(kind)
    with pytest.raises(UnreadableImage, match=r"'x' cannot be read"):
        decode_rgb8(data[: int(len(data) * part)], "x")


def test_progressive_jpeg_with_a_thumbnail():
    thumbnail = encoded("JPEG")
    data = encoded("JPEG", progressive=True, comment=thumbnail)
    assert decode_rgb8(data, "x").shape == (40, 50, 3)
    with pytest.raises(UnreadableImage):
        decode_rgb8(data[: len(data) * 9 // 10], "x")


def test_a_flipped_bit_in_a_png_is_refused():
    data = bytearray(encoded("PNG"))
    data[len(data) // 2] ^= 16
    with pytest.raises(UnreadableImage, match="cut off or damaged"):
        decode_rgb8(bytes(data), "x")


@pytest.mark.parametrize("data", [b"", None, b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_data_that_is_no_image_is_refused(data):
    with pytest.raises(UnreadableImage, match="'x' cannot be read"):
        decode_rgb8(data, "x")


@pytest.mark.parametrize("size", [(8193, 8192), (2**31 - 1, 2**31 - 1), (100_000, 100_000), (1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused(size):
    with pytest.raises(InputError, match="pixels"):
        decode_rgb8(bomb(*size), "x")


def test_modes_become_rgb_or_are_refused():
    grey = decode_rgb8(encoded("PNG", "L"), "x")
    assert (grey == grey[..., :1]).all()
    palette = decode_rgb8(encoded("PNG", "P"), "x")
    np.testing.assert_array_equal(palette, np.asarray(Image.fromarray(PICTURE).convert("P").convert("RGB")))
    np.testing.assert_array_equal(decode_rgb8(encoded("PNG", "RGBA"), "x"), PICTURE)
    deep = cv2.imencode(".png", (PICTURE.astype(np.uint16) << 8)[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode_rgb8(deep, "x"), PICTURE)
    np.testing.assert_array_equal(decode_rgb8(encoded("PNG"), "wrong_extension.jpg"), PICTURE)
    with pytest.raises(InputError, match="CMYK"):
        decode_rgb8(encoded("JPEG", "CMYK"), "x")


def test_reading_is_retried_before_an_image_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(encoded("PNG"))
    images = HRImages(str(tmp_path))
    path.rename(tmp_path / "away")
    monkeypatch.setattr("time.sleep", lambda seconds: (tmp_path / "away").rename(path))
    np.testing.assert_array_equal(images.read(0), PICTURE)
    path.write_bytes(b"")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(InputError, match=r"a\.png"):
        images.read(0)


def test_a_cut_off_lmdb_is_refused_when_it_is_opened(tmp_path, small_lmdb):
    path = tmp_path / "cut.lmdb"
    shutil.copytree(small_lmdb, path)
    data = path / "data.mdb"
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cut\.lmdb' is cut off"):
        HRImages(str(path), io_backend="lmdb")
    data.write_bytes(b"")
    with pytest.raises(InputError, match=r"cut\.lmdb' cannot be read as an LMDB"):
        HRImages(str(path), io_backend="lmdb")


READER = """
import os, sys
import numpy as np
import lightbsr
from lightbsr_compat import InputError
from lightbsr_data.images import HRImages

sound, bad = sys.argv[1:]
expected = HRImages(sound, io_backend="lmdb")
content = open(sound + "/data.mdb", "rb").read()
for page in range(2, len(content) // 4096):
    with open(bad + "/data.mdb", "wb") as file:
        file.write(content[: page * 4096 + 64] + b"\\xa5" * 4032 + content[(page + 1) * 4096 :])
    child = os.fork()
    if not child:
        try:
            images = HRImages(bad, io_backend="lmdb")
            same = all(np.array_equal(images.read(i), expected.read(i)) for i in range(len(images)))
            os._exit(0 if same else 1)
        except InputError:
            os._exit(3)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_an_overwritten_lmdb_page_is_refused_or_unused(tmp_path, small_lmdb):
    path = tmp_path / "bad.lmdb"
    shutil.copytree(small_lmdb, path)
    words = [sys.executable, "-W", "ignore", "-c", READER, str(small_lmdb), str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    results = [int(line) for line in done.stdout.split()]
    assert set(results) == {0, 3}  # sound, named; never another image, never a crash


def test_training_names_a_damaged_image_and_never_replaces_it(tmp_path, small_images, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    folder = tmp_path / "images"
    shutil.copytree(small_images, folder)
    dataset = DegradationPriorDataset(
        dict(dataroot_gt=str(folder), io_backend={"type": "disk"}, degradation="iso", gt_size=32, num_views=1, scale=2)
    )
    bad = folder / "image_3.png"
    bad.write_bytes(bad.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"image_3\.png"):
        dataset[3]
