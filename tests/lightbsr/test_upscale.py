"""``lightbsr upscale``: files and folders of all kinds, right results, bad ones named, exit status that says so."""

import io
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import lightbsr_cli as cli
from lightbsr import Upscaler
from lightbsr.upscaling.jobs import find_images
from lightbsr_arch import LightBSR
from lightbsr_compat import InputError

SIZES = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6, upscale=2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "student.pth"
    torch.save({"params": LightBSR(**SIZES).state_dict()}, path)
    return str(path)


@pytest.fixture(scope="module")
def upscaler(weights):
    return Upscaler(weights, device="cpu")


@pytest.fixture
def run(weights):
    """``run(*arguments)``: the exit status of ``lightbsr upscale``."""
    return lambda *arguments: cli.main(["upscale", "--weights", weights, "--device", "cpu", *map(str, arguments)])


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def read(path, flags=cv2.IMREAD_UNCHANGED):
    image = cv2.imread(str(path), flags)
    return image if image.ndim == 2 else image[..., [2, 1, 0, 3][: image.shape[2]]]


def test_a_folder_of_everything(tmp_path, run, upscaler, photo, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "deep" / "er").mkdir(parents=True)
    rgb, deep = photo(1, 20, 30), photo(2, 13, 11).astype(np.uint16) * 257
    grey, alpha = photo(3, 9, 16)[..., 0], np.tile(np.linspace(0, 255, 18).astype(np.uint8), (12, 1))
    rgba = np.dstack([photo(4, 12, 18), alpha])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(rgb).save(folder / "a.png")
    Image.fromarray(rgb).save(folder / "deep" / "turned.jpg", exif=exif, quality=95)
    cv2.imwrite(str(folder / "deep" / "wide.tiff"), deep[..., ::-1])
    Image.fromarray(rgba).save(folder / "deep" / "er" / "clear.png")
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray(rgb[:1, :1]).save(folder / "one.png")
    (folder / "text.png").write_text("I am a text")
    (folder / "notes.txt").write_text("not looked at")

    assert run(folder, "-o", out) == 1

    results = ["a", "deep/er/clear", "deep/turned", "deep/wide", "grey", "one"]
    assert names(out) == [f"{name}_x2.png" for name in results]
    assert np.array_equal(read(out / "a_x2.png"), upscaler(rgb))
    decoded = np.asarray(Image.open(folder / "deep" / "turned.jpg"))
    assert np.array_equal(read(out / "deep" / "turned_x2.png"), upscaler(np.rot90(decoded, -1).copy()))
    assert read(out / "deep" / "turned_x2.png").shape == (60, 40, 3)
    wide = read(out / "deep" / "wide_x2.png")
    assert wide.dtype == np.uint16 and np.array_equal(wide, upscaler(deep))
    assert len(np.unique(wide % 257)) > 100  # not 8 bits stretched
    clear = read(out / "deep" / "er" / "clear_x2.png")
    assert np.array_equal(clear[..., 3], cv2.resize(alpha, (36, 24), interpolation=cv2.INTER_CUBIC))
    assert clear.shape == (24, 36, 4)
    result = read(out / "grey_x2.png")
    assert np.array_equal(result, upscaler(grey)) and result.shape == (18, 32)
    assert np.array_equal(read(out / "one_x2.png"), upscaler(rgb[:1, :1])) and read(out / "one_x2.png").shape == (
        2,
        2,
        3,
    )

    errors = capsys.readouterr().err
    assert errors.count("lightbsr: error: ") == 1
    assert "text.png' cannot be read: it is no image, or of a kind that is not read" in errors
    assert f"lightbsr: 6 upscaled to {str(out)!r}, 1 failed" in errors


def test_results_are_made_anew_unless_existing_ones_are_to_be_kept(tmp_path, run, photo, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(photo(i, 8, 9)).save(folder / f"{i}.png")
    assert run(folder, "-o", out) == 0
    (out / "1_x2.png").unlink()
    (out / "2_x2.png").write_text("kept")
    os.utime(out / "0_x2.png", (0, 0))  # older than its image, which was replaced since
    capsys.readouterr()
    assert run(folder, "-o", out, "--skip-existing") == 0
    assert "2 upscaled to" in (errors := capsys.readouterr().err) and "1 skipped, which have results" in errors
    assert names(out) == ["0_x2.png", "1_x2.png", "2_x2.png"] and (out / "2_x2.png").read_text() == "kept"
    assert run(folder, "-o", out) == 0
    assert read(out / "2_x2.png").shape == (16, 18, 3)
    assert "3 upscaled to" in capsys.readouterr().err


def test_the_default_output_is_a_folder_results(tmp_path, run, photo, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo(1, 6, 6)).save("a.png")
    for _ in range(2):
        assert run(".") == 0
    assert names(tmp_path) == ["a.png", "results/a_x2.png"]
    assert "1 upscaled to 'results'" in capsys.readouterr().err


def test_images_of_one_stem_get_distinct_results(tmp_path, run, photo):
    (tmp_path / "in").mkdir()
    (tmp_path / "other").mkdir()
    for i, name in enumerate(("in/photo.JPG", "in/photo.png", "in/Photo.webp", "in/b.png", "other/b.png")):
        Image.fromarray(photo(i, 8, 8)).save(tmp_path / name)
    assert run(tmp_path / "in", tmp_path / "other" / "b.png", "-o", tmp_path / "out") == 0
    expected = ["Photo.webp_x2.png", "b.png_x2.png", "b.png_x2_2.png", "photo.JPG_x2.png", "photo.png_x2.png"]
    assert names(tmp_path / "out") == expected


def test_formats_that_are_not_read_are_named(tmp_path, run, photo, capsys):
    (tmp_path / "in").mkdir()
    for name in ("a.HEIC", "b.avif", "c.gif", "d.heic", "notes.txt"):
        (tmp_path / "in" / name).touch()
    Image.fromarray(photo(1, 6, 6)).save(tmp_path / "in" / "e.png")
    assert run(tmp_path / "in", "-o", tmp_path / "out") == 0
    (warning,) = (line for line in capsys.readouterr().err.splitlines() if "warning" in line)
    assert "a.HEIC'" in warning and "c.gif' and 1 others" in warning and "notes" not in warning


def test_hidden_colours_do_not_bleed(tmp_path, run, photo):
    picture, alpha = photo(5, 24, 24), np.zeros((24, 24), np.uint8)
    alpha[8:16, 8:16] = 255
    results = []
    for i, hidden in enumerate((0, 255)):
        colour = np.where(alpha[..., None] > 0, picture, hidden).astype(np.uint8)
        Image.fromarray(np.dstack([colour, alpha])).save(tmp_path / f"{i}.png")
        assert run(tmp_path / f"{i}.png", "-o", tmp_path / "out") == 0
        results.append(read(tmp_path / "out" / f"{i}_x2.png"))
    assert np.array_equal(*results)


@pytest.mark.parametrize("format", ["png", "jpg", "webp", "tiff"])
def test_formats(tmp_path, run, upscaler, photo, format):
    picture = cv2.GaussianBlur(photo(6, 16, 16), (0, 0), 2)
    Image.fromarray(picture).save(tmp_path / "a.bmp")
    assert run(tmp_path / "a.bmp", "-o", tmp_path / "out", "--format", format) == 0
    assert names(tmp_path / "out") == [f"a_x2.{format}"]
    with Image.open(tmp_path / "out" / f"a_x2.{format}") as image:
        assert image.format == {"jpg": "JPEG"}.get(format, format.upper())
        expected = Image.fromarray(upscaler(picture))
        assert image.mode == expected.mode and image.size == expected.size
        # An untrained network's colours are wild, which JPEG and WebP do not keep; grey they do.
        pair = [np.asarray(one.convert("L")).astype(int) for one in (image, expected)]
    assert np.abs(pair[0] - pair[1]).mean() <= {"jpg": 2, "webp": 4}.get(format, 0)


def test_the_inputs_format(tmp_path, run, photo):
    (tmp_path / "in").mkdir()
    for name in ("a.JPG", "b.webp", "c.tif", "d.bmp", "e.jpeg"):
        Image.fromarray(photo(6, 8, 8)).save(tmp_path / "in" / name)
    assert run(tmp_path / "in", "-o", tmp_path / "out", "--format", "same") == 0
    assert names(tmp_path / "out") == ["a_x2.jpg", "b_x2.webp", "c_x2.tiff", "d_x2.png", "e_x2.jpg"]


def test_what_a_format_cannot_hold_is_said_by_name(tmp_path, run, photo, capsys):
    Image.fromarray(np.dstack([photo(6, 8, 8), photo(7, 8, 8)[..., 0]])).save(tmp_path / "a.png")
    assert run(tmp_path / "a.png", "-o", tmp_path / "out", "--format", "jpg") == 1
    assert "a.png': it has alpha, which jpg cannot hold" in capsys.readouterr().err
    assert names(tmp_path / "out") == []


# --- inputs and outputs ---


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_standard_input_and_output(weights, upscaler, photo):
    words = [sys.executable, "-m", "lightbsr", "upscale", "-", "-o", "-", "--weights", weights, "--device", "cpu"]
    result = subprocess.run(words, input=png(photo(8, 14, 10)), capture_output=True)
    assert result.returncode == 0
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(result.stdout))), upscaler(photo(8, 14, 10)))
    result = subprocess.run(words, input=b"no image", capture_output=True)
    assert result.returncode == 1 and result.stdout == b""
    assert b"image 'standard input' cannot be read" in result.stderr and b"Traceback" not in result.stderr


def test_a_file_for_a_file(tmp_path, run, upscaler, photo, capsys):
    Image.fromarray(photo(8, 14, 10)).save(tmp_path / "a.png")
    assert run(tmp_path / "a.png", "-o", tmp_path / "new" / "b.tiff") == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "b.tiff")), upscaler(photo(8, 14, 10)))
    assert "b.tiff'" in capsys.readouterr().err
    assert run(tmp_path / "a.png", "-o", tmp_path / "a.png") == 2
    assert "a.png' is an input" in capsys.readouterr().err


def touch(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def test_which_images_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(
        tmp_path, "p/b.png", "p/a.JPG", "p/c/d.webp", "p/c/e.txt", "p/.hidden/f.png", "p/._g.png", "q[1].png", "r.odd"
    )
    touch(tmp_path, "p/out/b_x2.png", "p/empty/notes.txt")
    os.symlink(tmp_path / "p", tmp_path / "p" / "c" / "loop")
    os.symlink(tmp_path / "p" / "b.png", tmp_path / "p" / "link.png")

    def found(*inputs, output="p/out"):
        return [(image.path, image.name) for image in find_images(inputs, output)[0]]

    everything = ["a.JPG", "b.png", "link.png", "c/d.webp"]
    assert found("p") == [(f"p/{name}", name) for name in everything]
    assert found("r.odd", "-") == [("r.odd", "r.odd"), ("-", "stdin.png")]
    assert found("q[1].png", "q[1].png") == [("q[1].png", "q[1].png")]
    assert len(found("p", output="elsewhere")) == 5
    for odd, message in {
        "p/empty": "holds no image",
        "p/*.png": "no such file or folder",
        "p": "is the output too",
    }.items():
        with pytest.raises(InputError, match=message):
            find_images([odd], "p")


def test_no_result_replaces_an_input(tmp_path, run, photo, capsys):
    for name in ("a.png", "a_x2.png"):
        Image.fromarray(photo(1, 6, 6)).save(tmp_path / name)
    assert run(tmp_path / "a.png", tmp_path / "a_x2.png", "-o", tmp_path) == 2
    assert "a_x2.png' is an input" in capsys.readouterr().err
    assert names(tmp_path) == ["a.png", "a_x2.png"]


def test_names_of_all_languages(tmp_path, run, photo):
    folder = tmp_path / "ein Ordner"
    folder.mkdir()
    for name in ("süß.png", "猫 🐈.png", "a b.c.png"):
        (folder / name).write_bytes(png(photo(1, 6, 6)))
    assert run(folder, "-o", tmp_path / "é") == 0
    assert names(tmp_path / "é") == sorted(["a b.c_x2.png", "süß_x2.png", "猫 🐈_x2.png"])


def test_names_that_are_not_utf_8(tmp_path, run, photo, capsys):
    folder = os.fsencode(tmp_path) + b"/in"
    os.mkdir(folder)
    for name, content in ((b"\xff good.png", png(photo(1, 6, 6))), (b"\xfe bad.png", b"no image")):
        with open(folder + b"/" + name, "wb") as file:
            file.write(content)
    assert run(tmp_path / "in", "-o", tmp_path / "out") == 1
    assert os.listdir(os.fsencode(tmp_path / "out")) == [b"\xff good_x2.png"]
    assert r"\udcfe bad.png' cannot be read" in capsys.readouterr().err


def test_pipes_and_devices_are_refused_at_once(tmp_path, run, photo, capsys):
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "a.png")
    os.symlink("/dev/zero", tmp_path / "in" / "b.png")
    (tmp_path / "in" / "c.png").write_bytes(png(photo(1, 6, 6)))
    assert run(tmp_path / "in", "-o", tmp_path / "out") == 1
    errors = capsys.readouterr().err
    assert errors.count("is no regular file") == 2 and names(tmp_path / "out") == ["c_x2.png"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["in", "-o", "-"], "standard output takes one image"),
        (["in/a.png", "in/b.png", "-o", "c.png"], "output 'c.png' takes one image"),
        (["in", "-o", "in"], "'in' is the output too"),
        (["in", "-o", "in/a.png"], "output 'in/a.png' takes one image"),
        (["in", "-o", "in/notes"], "'in/notes' is no folder"),
        (["in/a.png", "-o", "out.bmp"], "'out.bmp' has the name of an image, but only"),
        (["in", "-o", "in/notes/out"], "output folder 'in/notes/out' cannot be made"),
        (["in/a.png", "-o", "x.jpg", "--format", "png"], "'x.jpg' is called jpg, but the format is png"),
        (["-", "-o", "out", "--share-idr"], "--share-idr reads images twice"),
        (["in", "-o", "out", "--like", "in/notes"], "'in/notes' cannot be read"),
        (["-", "-o", "out", "--format", "same"], "standard input has no name"),
        (["in", "-o", "out", "--device", "abacus"], "device 'abacus' cannot be used"),
        (["in", "-o", "out", "--weights", "lightbsr_x9"], "no such checkpoint file: 'lightbsr_x9'"),
    ],
)
def test_what_cannot_be_begun_has_status_2(tmp_path, run, photo, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "in/a.png", "in/b.png", "in/notes")
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err
    assert [name for name in names(tmp_path) if name != "out"] == ["in/a.png", "in/b.png", "in/notes"]


@pytest.mark.parametrize(
    "arguments",
    ["--tile -1", "--tile big", "--format gif", "--outscale 0", "--outscale nan", "--width 0", "--max-side 2.5"],
)
def test_odd_options_are_refused(run, capsys, arguments):
    with pytest.raises(SystemExit) as exit_:
        run("a.png", "-o", "out", *arguments.split())
    assert exit_.value.code == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("lightbsr: error: argument --") and arguments.split()[1] in sentence


def test_a_link_to_itself_is_one_bad_file(tmp_path, run, photo, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.png").write_bytes(png(photo(1, 6, 6)))
    os.symlink("a.png", tmp_path / "in" / "a.png")
    assert run(tmp_path / "in", "-o", tmp_path / "out") == 1
    assert "a.png" in capsys.readouterr().err and names(tmp_path / "out") == ["b_x2.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_output_folder(tmp_path, run, photo, capsys):
    (tmp_path / "a.png").write_bytes(png(photo(1, 6, 6)))
    (tmp_path / "out").mkdir(mode=0o500)
    assert run(tmp_path / "a.png", "-o", tmp_path / "out") == 1
    assert "a_x2.png' cannot be written" in capsys.readouterr().err


# --- sizes ---


@pytest.mark.parametrize(
    "arguments, label, size",
    [
        (["--outscale", "2.5"], "x2.5", (33, 38)),
        (["--outscale", "1"], "x1", (13, 15)),
        (["--width", "40"], "w40", (35, 40)),
        (["--height", "20"], "h20", (20, 23)),
        (["--max-side", "21"], "max21", (18, 21)),
        (["--max-side", "1000"], "max1000", (26, 30)),
    ],
)
def test_target_sizes(tmp_path, run, upscaler, photo, arguments, label, size):
    alpha = photo(2, 13, 15)[..., 0]
    pictures = {"rgb": photo(1, 13, 15), "rgba": np.dstack([photo(1, 13, 15), alpha]), "grey": alpha}
    pictures["deep"] = pictures["rgba"].astype(np.uint16) * 257
    (tmp_path / "in").mkdir()
    for name, picture in pictures.items():
        stored = picture if picture.ndim == 2 else picture[..., [2, 1, 0, 3][: picture.shape[2]]]
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), stored)
    assert run(tmp_path / "in", "-o", tmp_path / "out", *arguments) == 0
    for name, picture in pictures.items():
        result = read(tmp_path / "out" / f"{name}_{label}.png")
        assert result.shape == (*size, *picture.shape[2:]) and result.dtype == picture.dtype
    if size[0] <= 26:  # an area average keeps the mean
        result = read(tmp_path / "out" / f"rgb_{label}.png")
        assert np.abs(result.mean((0, 1)) - upscaler(pictures["rgb"]).mean((0, 1))).max() < 0.5


# --- metadata ---


@pytest.fixture
def photograph(tmp_path, photo):
    """A JPEG of 20x30, to be turned, as a camera and an editor leave it."""
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "Camera", 0x8298: "Ann", 0x8769: {0xA002: 30, 0xA003: 20, 0x829A: 0.01}})
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0)}
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6" exif:PixelXDimension="30">'
    xmp += b"<tiff:ImageLength>20</tiff:ImageLength>caf\xc3\xa9</d></x:xmpmeta>"
    iptc = b"\x1c\x02\x50\x00\x03Ann"
    resource = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + len(iptc).to_bytes(4, "big") + iptc
    segment = b"\xff\xed" + (len(resource) + 2).to_bytes(2, "big") + resource
    Image.fromarray(photo(1, 20, 30)).save(tmp_path / "a.jpg", exif=exif, xmp=xmp, extra=segment)
    return tmp_path / "a.jpg"


@pytest.mark.parametrize("format", ["png", "jpg", "webp", "tiff"])
def test_metadata_is_kept_upright_and_with_the_right_size(tmp_path, run, photograph, format):
    assert run(photograph, "-o", tmp_path / "out", "--format", format) == 0
    with Image.open(tmp_path / "out" / f"a_x2.{format}") as image:
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


def test_metadata_is_stripped_on_demand(tmp_path, run, photograph):
    assert run(photograph, "-o", tmp_path / "b.jpg", "--strip-metadata") == 0
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.size == (40, 60) and not image.getexif() and not {"xmp", "photoshop", "exif"} & set(image.info)


# --- IDRs ---


def test_frames_share_one_idr(tmp_path, run, upscaler, photo):
    (tmp_path / "in").mkdir()
    frames = [photo(i, 12, 14) for i in range(3)]
    for i, frame in enumerate(frames):
        (tmp_path / "in" / f"{i}.png").write_bytes(png(frame))
    assert run(tmp_path / "in", "-o", tmp_path / "out", "--share-idr") == 0
    idr = upscaler.estimate_idr(frames)
    for i, frame in enumerate(frames):
        assert np.array_equal(read(tmp_path / "out" / f"{i}_x2.png"), upscaler(frame, idr=idr))


def test_the_idr_of_another_image(tmp_path, run, upscaler, photo):
    image, like = photo(1, 12, 14), photo(2, 20, 20)
    (tmp_path / "a.png").write_bytes(png(image))
    (tmp_path / "like.png").write_bytes(png(like))
    assert run(tmp_path / "a.png", "-o", tmp_path / "b.png", "--like", tmp_path / "like.png") == 0
    assert np.array_equal(read(tmp_path / "b.png"), upscaler(image, idr=upscaler.estimate_idr([like])))


# --- weights, start and interruptions ---


def test_weights_that_are_not_finite_are_refused(tmp_path, weights, photo, capsys):
    checkpoint = torch.load(weights)
    checkpoint["params"]["sr_network.body_conv.bias"][3] = torch.nan
    torch.save(checkpoint, tmp_path / "nan.pth")
    (tmp_path / "a.png").write_bytes(png(photo(1, 6, 6)))
    assert cli.main(["upscale", str(tmp_path / "a.png"), "--weights", str(tmp_path / "nan.pth")]) == 2
    assert "not finite (NaN or infinity), in 'sr_network.body_conv.bias'" in capsys.readouterr().err


def test_the_command_imports_no_training(tmp_path, weights, photo):
    (tmp_path / "a.png").write_bytes(png(photo(1, 6, 6)))
    code = (
        "import sys, lightbsr_cli; status = lightbsr_cli.main(sys.argv[1:]);"
        " print(status, sorted({'basicsr', 'torchvision', 'sklearn', 'scipy', 'lightbsr_data'} & set(sys.modules)))"
    )
    words = [sys.executable, "-c", code, "upscale", "a.png", "--weights", weights, "--device", "cpu"]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout == "0 []\n", result.stderr


def test_ctrl_c_leaves_only_whole_files(tmp_path, weights, photo):
    (tmp_path / "in").mkdir()
    for i in range(200):
        (tmp_path / "in" / f"{i:03}.png").write_bytes(png(photo(1, 100, 100)))
    words = [sys.executable, "-m", "lightbsr", "upscale", "in", "-o", "out", "--weights", weights, "--device", "cpu"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(tmp_path.glob("out/*_x2.png")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "lightbsr: interrupted" in errors and " upscaled" in errors and "Traceback" not in errors
    results = list((tmp_path / "out").iterdir())
    assert 0 < len(results) < 200
    for path in results:
        assert path.name.endswith("_x2.png") and Image.open(path).size == (200, 200)
        Image.open(path).load()
