"""The command line: exit statuses, one sentence per error, nothing half-written."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

import lightbsr_cli as cli
from lightbsr_arch import LightBSR, LightBSRTeacher
from lightbsr_compat import InputError

SIZES = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6)


@pytest.fixture
def student_weights(tmp_path):
    path = tmp_path / "student.pth"
    torch.save({"params": LightBSR(upscale=2, **SIZES).state_dict()}, path)
    return str(path)


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


def test_upscale_writes_the_networks_image(tmp_path, student_weights, photo):
    cv2.imwrite(str(tmp_path / "a.png"), photo(1, 17, 23))
    assert (
        cli.main(["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--weights", student_weights]) == 0
    )
    written = cv2.imread(str(tmp_path / "out" / "a_x2.png"))
    network = LightBSR(upscale=2, **SIZES).eval()
    network.load_state_dict(torch.load(student_weights)["params"])
    rgb = cv2.imread(str(tmp_path / "a.png"))[..., ::-1].copy()
    with torch.no_grad():
        sr = network(torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255)[0].clamp(0, 1)
    expected = (sr * 255).permute(1, 2, 0).numpy()[..., ::-1]
    assert written.shape == (34, 46, 3)
    # channels_last sums in another order: half a grey level can round either way
    assert np.abs(written - expected).max() <= 0.5 + 1e-3


def test_upscale_goes_on_after_a_bad_image_and_says_so(tmp_path, student_weights, photo, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    cv2.imwrite(str(folder / "b.png"), photo(2, 8, 9))
    (folder / "a.png").write_text("no image")
    (folder / "c.png").touch()
    (folder / "notes.txt").write_text("not looked at")
    assert cli.main(["upscale", str(folder), "-o", str(tmp_path / "out"), "--weights", student_weights]) == 1
    errors = capsys.readouterr().err
    assert "a.png' cannot be read" in errors and "c.png' cannot be read" in errors
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b_x2.png"]


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


def test_convert_says_what_it_recognised(tmp_path, released_state_dict, capsys):
    torch.save(released_state_dict("lightbsr_student_x4"), tmp_path / "released.pth")
    assert cli.main(["convert", str(tmp_path / "released.pth"), str(tmp_path / "ours.pth")]) == 0
    assert "LightBSR, x4, 3,259,947 trainable parameters" in capsys.readouterr().out
    network = LightBSR()
    network.load_state_dict(torch.load(tmp_path / "ours.pth")["params"])


def test_convert_leaves_nothing_behind_where_it_fails(tmp_path, capsys):
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    assert cli.main(["convert", str(tmp_path / "other.pth"), str(tmp_path / "ours.pth")]) == 2
    assert "'conv.weight'" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["other.pth"]
