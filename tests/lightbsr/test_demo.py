"""The demo trains, tests and compares; a few iterations only, so that quality is not tested."""

import re

import cv2
import pytest

from lightbsr_compat import InputError, has_basicsr

if not has_basicsr():
    pytest.skip("needs BasicSR", allow_module_level=True)

from lightbsr.demo import demo


def test_the_demo_trains_tests_and_compares(tmp_path, capfd):
    folder = tmp_path / "demo"
    few = ["train:total_iter=4", "train:idr_pretrain_iter=2", "train:scheduler:warmup_iter=1", "logger:print_freq=1"]
    demo(str(folder), forced=few)
    table = (folder / "table.md").read_text()
    assert table.strip() in capfd.readouterr().out
    rows = re.findall(r"\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([+-][\d.]+) \|", table)
    assert [row[0] for row in rows] == ["1.2", "2.4", "3.6"]
    for _, bicubic, student, gain in rows:
        assert abs(float(student) - float(bicubic) - float(gain)) < 0.011
    assert float(rows[0][1]) > float(rows[1][1]) > float(rows[2][1]) > 25  # bicubic falls with the width
    logs = "".join(p.read_text() for p in folder.glob("experiments/*/*.log"))
    assert "l_contrast" in logs and "l_channel_kl" in logs and "l_pix" in logs
    for sigma in (1.2, 2.4, 3.6):
        assert cv2.imread(str(folder / f"compare_sigma{sigma}.png")).shape == (348, 1280, 3)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is not empty"):
        demo(str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
