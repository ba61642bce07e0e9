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
from lightbsr.upscaling import command
from lightbsr.upscaling.inputs import find_images
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
def run(weights, monkeypatch):
    """``run(*arguments)``: the exit status of ``lightbsr upscale``."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
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
    assert "text.png' cannot be read: it is no image of a known kind" in errors
    assert "lightbsr: 6 upscaled, 1 failed" in errors


def test_what_is_finished_is_skipped_and_said(tmp_path, run, photo, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(photo(i, 8, 9)).save(folder / f"{i}.png")
    assert run(folder, "-o", out) == 0
    (out / "1_x2.png").unlink()
    (out / "2_x2.png").write_text("kept")
    os.utime(out / "0_x2.png", (0, 0))  # older than its image, which was replaced since
    capsys.readouterr()
    assert run(folder, "-o", out) == 0
    assert (
        f"lightbsr: 2 upscaled, 1 skipped, since there is {str(out / '2_x2.png')!r} already"
        " (--overwrite makes it anew)" in capsys.readouterr().err
    )
    assert names(out) == ["0_x2.png", "1_x2.png", "2_x2.png"] and (out / "2_x2.png").read_text() == "kept"
    assert run(folder, "-o", out, "--overwrite") == 0
    assert read(out / "2_x2.png").shape == (16, 18, 3)
    assert "3 upscaled\n" in capsys.readouterr().err


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
    assert "the result of '" in (error := capsys.readouterr().err) and "has alpha, which jpg cannot hold" in error
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
    assert run(tmp_path / "a.png", "-o", tmp_path / "new" / "b.tiff") == 0
    assert "1 skipped" in capsys.readouterr().err
    assert run(tmp_path / "a.png", "-o", tmp_path / "a.png", "--overwrite") == 2
    assert "a.png' is the input" in capsys.readouterr().err


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
        return [(image.path, image.name) for image in find_images(inputs, output)]

    everything = ["a.JPG", "b.png", "link.png", "c/d.webp"]
    assert found("p") == [(f"p/{name}", name) for name in everything]
    assert found("r.odd", "-") == [("r.odd", "r.odd"), ("-", "stdin.png")]
    assert found("q[1].png") == [("q[1].png", "q[1].png")]  # a file of that name comes before a pattern
    assert found("p/*.png") == [("p/b.png", "b.png"), ("p/link.png", "link.png")]
    assert found("p/c*") == [("p/c/d.webp", "c/d.webp")]
    assert found("p/**/*.webp") == [("p/c/d.webp", "c/d.webp")]
    assert found("*/*.JPG") == [("p/a.JPG", "p/a.JPG")]
    assert found("p/b.png", "p/b.png") == [("p/b.png", "b.png")]
    assert len(found("p", output="elsewhere")) == 5
    for odd, message in {
        "p/empty": "holds no image",
        "p/*.gif": "no image matches",
        "nowhere": "no such file or folder",
        "p": "is the output too",
    }.items():
        with pytest.raises(InputError, match=message):
            find_images([odd], "p")


def test_names_of_all_languages(tmp_path, run, photo):
    folder = tmp_path / "ein Ordner"
    folder.mkdir()
    for name in ("süß.png", "猫 🐈.png", "a b.c.png"):
        (folder / name).write_bytes(png(photo(1, 6, 6)))
    assert run(folder, "-o", tmp_path / "é") == 0
    assert names(tmp_path / "é") == sorted(["a b.c_x2.png", "süß_x2.png", "猫 🐈_x2.png"])


def test_the_results_of_a_folder_are_not_upscaled_again(tmp_path, run, photo):
    (tmp_path / "a.png").write_bytes(png(photo(1, 6, 6)))
    for _ in range(2):
        assert run(tmp_path, "-o", tmp_path / "out") == 0
    assert names(tmp_path) == ["a.png", "out/a_x2.png"]


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
        (["-", "-o", "out", "--format", "same"], "standard input has no name"),
        (["in", "-o", "out", "--device", "abacus"], "device 'abacus' cannot be used"),
        (["in", "-o", "out", "--engine", "onnx", "--precision", "bf16"], "engine onnx computes in fp32"),
        (["in", "-o", "out", "--weights", "lightbsr_x9"], "no such checkpoint file: 'lightbsr_x9'"),
    ],
)
def test_what_cannot_be_begun_has_status_2(tmp_path, run, photo, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "in/a.png", "in/b.png", "in/notes")
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err
    assert names(tmp_path) == ["in/a.png", "in/b.png", "in/notes"]


@pytest.mark.parametrize("arguments", [["--tile", "-1"], ["--tile", "big"], ["--format", "gif"], ["--engine", "steam"]])
def test_odd_options_are_refused(run, capsys, arguments):
    with pytest.raises(SystemExit) as exit_:
        run("a.png", "-o", "out", *arguments)
    assert exit_.value.code == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("lightbsr: error: argument --") and arguments[1] in sentence


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
    assert run(tmp_path / "a.png", "-o", tmp_path / "out") == 2
    assert "cannot be written to" in capsys.readouterr().err


# --- several processes, and interruptions ---


def test_processes_share_the_list(tmp_path, run, photo, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    for i in range(5):
        (tmp_path / "in" / f"{i}.png").write_bytes(png(photo(i, 6, 6)))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, done in ((1, ["1", "3"]), (0, ["0", "1", "2", "3", "4"])):
        monkeypatch.setenv("RANK", str(rank))
        assert run(tmp_path / "in", "-o", tmp_path / "out") == 0
        assert names(tmp_path / "out") == [f"{i}_x2.png" for i in done]
    monkeypatch.setenv("RANK", "first")
    assert run(tmp_path / "in", "-o", tmp_path / "out") == 2
    assert "RANK is 'first'" in capsys.readouterr().err


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


def test_far_degradations_are_warned_of(tmp_path, run, photo, monkeypatch, capsys):
    (tmp_path / "a.png").write_bytes(png(photo(1, 6, 6)))
    for distance, warned in ((None, False), (0.9, False), (1.7, True)):
        monkeypatch.setattr(Upscaler, "degradation_distance", lambda self, image, d=distance: d)
        assert run(tmp_path / "a.png", "-o", tmp_path / "out", "--overwrite") == 0
        errors = capsys.readouterr().err
        assert ("a.png' is degraded in another way than the weights were trained for (distance 1.7" in errors) == warned


def test_public_names():
    assert set(command.__all__) == {"find_images", "read_image", "upscale", "write_png"}
