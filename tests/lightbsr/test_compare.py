"""``lightbsr upscale --compare``: the page of bicubic interpolation and results."""

import base64
import io
import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import lightbsr_cli as cli
from lightbsr.upscaling import comparison
from lightbsr_arch import LightBSR

SIZES = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=6, upscale=2)


@pytest.fixture
def run(tmp_path):
    """``run(*arguments)``: the exit status of ``lightbsr upscale``."""
    weights = str(tmp_path / "student.pth")
    torch.save({"params": LightBSR(**SIZES).state_dict()}, weights)
    return lambda *arguments: cli.main(["upscale", "--weights", weights, "--device", "cpu", *map(str, arguments)])


def test_the_page_holds_bicubic_and_result_of_each_image(tmp_path, run, photo, monkeypatch, capsys):
    monkeypatch.setattr(comparison, "_SIDE", 40)
    monkeypatch.setattr(comparison, "_MOST", 3)
    (tmp_path / "in").mkdir()
    wide, alpha = cv2.GaussianBlur(photo(1, 14, 30), (5, 5), 2), np.full((14, 18), 128, np.uint8)
    pictures = {"a": wide[..., ::-1], "b <i>&": photo(2, 14, 18)[..., 0].astype(np.uint16) * 257}
    pictures |= {"c": np.dstack([photo(3, 14, 18), alpha]), "d": photo(4, 8, 8)}
    for name, picture in pictures.items():
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), picture)
    assert run(tmp_path / "in", "-o", tmp_path / "out", "--outscale", "2.5", "--compare") == 0
    assert "compare.html" in capsys.readouterr().err
    page = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    assert "http://" not in page and "https://" not in page and "<i>" not in page
    assert "a.png: 30x14 to 75x35, the middle 40x35" in page and "b &lt;i&gt;&amp;.png: 18x14 to 45x35" in page
    assert page.count('class="comparison"') == 3 and "1 more results are not shown" in page

    urls = re.findall(r'<img src="data:image/(\w+);base64,([^"]*)"', page)
    assert [kind for kind, _ in urls] == ["jpeg"] * 4 + ["webp"] * 2
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for _, data in urls]
    assert [picture.shape for picture in shown] == [(35, 40, 3)] * 2 + [(35, 40)] * 2 + [(35, 40, 4)] * 2
    assert (shown[4][..., 3] == 128).all()
    bicubic = np.asarray(Image.fromarray(wide).resize((75, 35), Image.Resampling.BICUBIC))
    for picture, whole in zip(
        shown[:2], (bicubic, cv2.imread(str(tmp_path / "out" / "a_x2.5.png"))[..., ::-1]), strict=True
    ):
        assert np.abs(picture.astype(float) - whole[:, 17:57]).mean() < 3  # quality 95


def test_the_page_says_what_the_idr_says(tmp_path, photo):
    cv2.imwrite(str(tmp_path / "a.png"), photo(1, 20, 30))
    assert cli.main(["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--compare"]) == 0
    page = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    assert re.search(r"read from its IDR: blur of width [\d.]+ ± [\d.]+ pixels.*noise of \d+ ± \d+ of 255, JPEG", page)


def test_where_the_page_is_written(tmp_path, run, photo):
    cv2.imwrite(str(tmp_path / "a.png"), photo(1, 6, 6))
    (tmp_path / "bad.png").touch()
    assert run(tmp_path / "a.png", "-o", tmp_path / "new" / "b.tiff", "--compare") == 0
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["b.tiff", "compare.html"]
    assert run(tmp_path / "bad.png", "-o", tmp_path / "out", "--compare") == 1
    assert not list((tmp_path / "out").iterdir())
