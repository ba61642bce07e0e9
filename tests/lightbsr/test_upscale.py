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
    Image.fromarray(grey).save(folder / "猫 süß.c.png")
    (folder / "text.png").write_text("I am a text")
    for name in ("a.HEIC", "b.avif", "c.gif", "d.heic", "notes.txt"):
        (folder / name).touch()

    assert run(folder, "-o", out) == 1

    results = ["a", "deep/er/clear", "deep/turned", "deep/wide", "grey", "one", "猫 süß.c"]
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
    assert np.array_equal(read(out / "one_x2.png"), upscaler(rgb[:1, :1]))

    errors = capsys.readouterr().err
    (warning,) = (line for line in errors.splitlines() if "warning" in line)
    assert "a.HEIC'" in warning and "c.gif' and 1 others" in warning and "notes" not in warning
    assert errors.count("lightbsr: error: ") == 1
    assert "text.png' cannot be read: it is no image, or of a kind that is not read" in errors
    assert f"lightbsr: 7 upscaled to {str(out)!r}, 1 failed" in errors


def test_existing_results_are_overwritten_without_skip_existing(tmp_path, run, photo, capsys):
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


def test_images_of_one_stem_get_distinct_results(tmp_path, run, photo):
    (tmp_path / "in").mkdir()
    (tmp_path / "other").mkdir()
    for i, name in enumerate(("in/photo.JPG", "in/photo.png", "in/Photo.webp", "in/b.png", "other/b.png")):
        Image.fromarray(photo(i, 8, 8)).save(tmp_path / name)
    assert run(tmp_path / "in", tmp_path / "other" / "b.png", "-o", tmp_path / "out") == 0
    expected = ["Photo.webp_x2.png", "b.png_x2.png", "b.png_x2_2.png", "photo.JPG_x2.png", "photo.png_x2.png"]
    assert names(tmp_path / "out") == expected


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


def test_the_inputs_format(tmp_path, run, photo):
    (tmp_path / "in").mkdir()
    for name in ("a.JPG", "b.webp", "c.tif", "d.bmp", "e.jpeg"):
        Image.fromarray(photo(6, 8, 8)).save(tmp_path / "in" / name)
    assert run(tmp_path / "in", "-o", tmp_path / "out", "--format", "same") == 0
    assert names(tmp_path / "out") == ["a_x2.jpg", "b_x2.webp", "c_x2.tiff", "d_x2.png", "e_x2.jpg"]


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


def test_names_that_are_not_utf_8(tmp_path, run, photo, capsys):
    folder = os.fsencode(tmp_path) + b"/in"
    os.mkdir(folder)
    for name, content in ((b"\xff good.png", png(photo(1, 6, 6))), (b"\xfe bad.png", b"no image")):
        with open(folder + b"/" + name, "wb") as file:
            file.write(content)
    assert run(tmp_path / "in", "-o", tmp_path / "out") == 1
    assert os.listdir(os.fsencode(tmp_path / "out")) == [b"\xff good_x2.png"]
    assert r"\udcfe bad.png' cannot be read" in capsys.readouterr().err


def test_pipes_devices_and_links_to_themselves_are_refused(tmp_path, run, photo, capsys):
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "a.png")
    os.symlink("/dev/zero", tmp_path / "in" / "b.png")
    os.symlink("itself.png", tmp_path / "in" / "itself.png")
    (tmp_path / "in" / "c.png").write_bytes(png(photo(1, 6, 6)))
    assert run(tmp_path / "in", "-o", tmp_path / "out") == 1
    errors = capsys.readouterr().err
    assert errors.count("is no regular file") == 2 and "3 failed" in errors and "itself.png" in errors
    assert names(tmp_path / "out") == ["c_x2.png"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["in", "-o", "-"], "standard output takes one image"),
        (["in/a.png", "in/b.png", "-o", "c.png"], "output 'c.png' takes one image"),
        (["in", "-o", "in"], "'in' is the output too"),
        (["in", "-o", "in/a.png"], "output 'in/a.png' takes one image"),
        (["in", "-o", "in/notes"], "'in/notes' is no folder"),
        (["in/a.png", "in/a_x2.png", "-o", "in"], "'in/a_x2.png' is an input"),
        (["in/a.png", "-o", "out.bmp"], "'out.bmp' has the name of an image, but only"),
        (["in", "-o", "in/notes/out"], "output folder 'in/notes/out' cannot be made"),
        (["in/a.png", "-o", "x.jpg", "--format", "png"], "'x.jpg' is called jpg, but the format is png"),
        (["-", "-o", "out", "--share-idr"], "--share-idr reads images twice"),
        (["in/a.png", "-o", "-", "--compare"], "--compare writes a page beside the results"),
        (["in", "-o", "out", "--like", "in/notes"], "'in/notes' cannot be read"),
        (["-", "-o", "out", "--format", "same"], "standard input has no name"),
        (["in", "-o", "out", "--device", "abacus"], "device 'abacus' cannot be used"),
        (["in", "-o", "out", "--weights", "lightbsr_x9"], "no such checkpoint file: 'lightbsr_x9'"),
    ],
)
def test_what_cannot_be_begun_has_status_2(tmp_path, run, photo, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "in/a.png", "in/a_x2.png", "in/b.png", "in/notes")
    before = names(tmp_path)
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err
    assert names(tmp_path) == before


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


# --- sizes ---


@pytest.mark.parametrize(
    "arguments, label, size",
    [
        (["--outscale", "2.5"], "x2.5", (33, 38)),
        (["--width", "40"], "w40", (35, 40)),
        (["--height", "20"], "h20", (20, 23)),
        (["--max-side", "21"], "max21", (18, 21)),
    ],
)
def test_target_sizes(tmp_path, run, photo, arguments, label, size):
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


# --- metadata and IDRs ---


def test_metadata_is_stripped_on_demand(tmp_path, run, photo):
    exif = Image.Exif()
    exif.update({0x010F: "Camera"})
    Image.fromarray(photo(1, 8, 8)).save(tmp_path / "a.jpg", exif=exif)
    for name, words, kept in (("b", [], {0x010F: "Camera"}), ("c", ["--strip-metadata"], {})):
        assert run(tmp_path / "a.jpg", "-o", tmp_path / f"{name}.jpg", *words) == 0
        with Image.open(tmp_path / f"{name}.jpg") as image:
            assert dict(image.getexif()) == kept


def test_images_that_share_an_idr(tmp_path, run, upscaler, photo):
    (tmp_path / "in").mkdir()
    images, like = [photo(i, 12, 14) for i in range(3)], photo(5, 20, 20)
    for path, image in {"in/0": images[0], "in/1": images[1], "in/2": images[2], "like": like}.items():
        (tmp_path / f"{path}.png").write_bytes(png(image))
    for words, shared in ((["--share-idr"], images), (["--like", tmp_path / "like.png"], [like])):
        assert run(tmp_path / "in", "-o", tmp_path / "out", *words) == 0
        idr = upscaler.estimate_idr(shared)
        for i, image in enumerate(images):
            assert np.array_equal(read(tmp_path / "out" / f"{i}_x2.png"), upscaler(image, idr=idr))


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
