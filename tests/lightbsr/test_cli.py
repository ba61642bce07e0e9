"""The command line: exit statuses, one line per error, no partial output."""

import os
import resource
import subprocess
import sys
import tempfile

import cv2
import pytest
import torch

import lightbsr_cli as cli
from lightbsr_arch import LightBSRTeacher
from lightbsr_compat import InputError

SIZES = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6)


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for command in ("train", "test", "upscale", "convert", "demo"):
        assert f"\n    {command} " in text


def test_python_m_works_and_errors_have_no_traceback(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "lightbsr", "upscale", "nowhere.png", "-o", "out", "--weights", "none.pth"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "lightbsr: error: no such file or folder: 'nowhere.png'" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_an_error_in_a_data_loading_worker_is_its_sentence_alone():
    error = InputError(
        "Caught InputError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  ...\n"
        "lightbsr_compat.InputError: image 'a.png' is 8x8, but both sides must be at least gt_size, 32\n"
    )
    assert cli._sentences(error) == ["image 'a.png' is 8x8, but both sides must be at least gt_size, 32"]


def test_ctrl_c_has_its_own_status(monkeypatch, capsys):
    def interrupt(name, argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_command", interrupt)
    assert cli.main(["demo"]) == 130
    assert capsys.readouterr().err == "lightbsr: interrupted\n"


def test_an_unforeseen_error_is_one_sentence_and_a_file_with_the_traceback(monkeypatch, capsys, tmp_path):
    def fail(name, argv):
        raise RuntimeError("shapes differ\nsecond line")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "run_command", fail)
    assert cli.main(["upscale", "a.png"]) == 70
    (file,) = tmp_path.iterdir()
    sentence = f"lightbsr: error: unforeseen RuntimeError: shapes differ (a bug: please report it with {file})\n"
    assert capsys.readouterr().err == sentence
    text = file.read_text()
    assert "command: ['upscale', 'a.png']" in text and 'raise RuntimeError("shapes differ' in text
    with pytest.raises(RuntimeError, match="shapes differ"):
        cli.main(["--debug", "upscale", "a.png"])
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_leaves_no_half_report(monkeypatch, capsys, tmp_path):
    def fail(name, argv):
        raise RuntimeError("no room")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(cli, "run_command", fail)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # a file gets 100 bytes, then an OSError
    try:
        status = cli.main(["upscale", "a.png"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 70 and not list(tmp_path.iterdir())
    assert capsys.readouterr().err == "lightbsr: error: unforeseen RuntimeError: no room\n"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("nowhere.pth", "no such checkpoint file"),
        ("garbage.pth", "cannot be read as a PyTorch checkpoint"),
        ("other.pth", "holds no state dict"),
        ("teacher.pth", "holds a teacher"),
    ],
)
def test_upscale_refuses_weights_that_it_cannot_use(tmp_path, photo, capsys, weights, message):
    cv2.imwrite(str(tmp_path / "a.png"), photo(1, 8, 8))
    (tmp_path / "garbage.pth").write_bytes(b"not a checkpoint")
    torch.save({"params": [1, 2]}, tmp_path / "other.pth")
    torch.save({"params": LightBSRTeacher(queue_size=8, **SIZES).state_dict()}, tmp_path / "teacher.pth")
    arguments = ["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--weights", str(tmp_path / weights)]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and weights in error
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings are set on Linux alone")
def test_the_allocator_is_set_by_one_restart_that_keeps_the_command_line():
    code = "import os, sys, lightbsr_cli as c; c.set_allocator(); print(os.environ['GLIBC_TUNABLES'], sys.argv[1:])"
    clean = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-W", "ignore", "-c", code, "a b", "--x"]
    for environment, expected in ((clean, cli.MALLOC_SETTINGS), (clean | {"GLIBC_TUNABLES": "x=1"}, "x=1")):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.stdout == f"{expected} ['a b', '--x']\n", done.stderr
