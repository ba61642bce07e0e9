"""The packaged weights have the checksums and the scores of their cards."""

import hashlib
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from pack_weights import scores

from lightbsr.packaged import packaged_weights
from lightbsr.upscaling.stated import in_words
from lightbsr.upscaling.upscaler import Upscaler

ROOT = Path(__file__).parents[2]
BENCHMARK = Path(os.environ.get("LIGHTBSR_DATASETS", ROOT.parent / "shared" / "datasets")) / "benchmark"
TOLERANCE = 0.01 + 0.005  # dB: between machines and versions, and the rounding of the card's figures
ROW = re.compile(r"\| (\w+) \| (\S+) \| ([\d.]+) / [\d.]+ \| ([\d.]+) / [\d.]+ \| [+-][\d.]+ \|")


def card(name):
    return (ROOT / "docs" / "models" / f"{name}.md").read_text(encoding="utf-8")


def stated(name):
    """Protocol -> {(set, setting): (PSNR of bicubic, PSNR of the model)} of a card's tables, in their order."""
    tables, protocol = {}, ""
    for line in card(name).splitlines():
        if line.startswith("### Protocol "):
            protocol = line.split()[-1]
        if match := ROW.match(line):
            cells = tables.setdefault(protocol, {})
            cells[match[1], match[2]] = (float(match[3]), float(match[4]))
    return tables


def compare(weights, data, protocol, set_name, cells):
    """Every cell of a set is as the card states it, and above bicubic."""
    found = scores(Path(packaged_weights()[weights]), data, protocol, [set_name])
    cells = {key: figures for key, figures in cells.items() if key[0] == set_name}
    assert cells
    for key, (bicubic, ours) in cells.items():
        assert found[key]["Bicubic"][0] == pytest.approx(bicubic, abs=TOLERANCE), key
        assert found[key]["ours"][0] == pytest.approx(ours, abs=TOLERANCE), key
        assert found[key]["ours"][0] > found[key]["Bicubic"][0], key


@pytest.mark.parametrize("name", packaged_weights())
def test_a_card_is_of_its_weights(name):
    content = Path(packaged_weights()[name]).read_bytes()
    assert hashlib.sha256(content).hexdigest() in card(name)


def test_what_an_idr_says_follows_the_degradation():
    from sklearn.datasets import load_sample_image

    hr, weights = load_sample_image("china.jpg")[:400, :600], "lightbsr_x4_photo"
    upscaler, random = Upscaler(weights, device="cpu"), np.random.RandomState(0)
    read = []
    for sigma, noise, quality in [(0, 0, 95), (2.5, 0, 95), (0, 12, 95), (0, 0, 40)]:
        blurred = cv2.GaussianBlur(hr, (21, 21), sigma) if sigma else hr
        lr = cv2.resize(blurred, (150, 100), interpolation=cv2.INTER_AREA) + noise * random.randn(100, 150, 3)
        jpeg = cv2.imencode(".jpg", lr.clip(0, 255).round().astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        text = in_words(weights, upscaler.estimate_idr([cv2.imdecode(jpeg, cv2.IMREAD_COLOR)]))
        read.append([float(number) for number in re.findall(r"([\d.]+) ±", text)])
    (plain, blurry, noisy, compressed) = read
    assert blurry[0] > plain[0] + 0.5 and noisy[1] > plain[1] + 4 and compressed[2] < plain[2] - 20, read


@pytest.mark.parametrize("name", packaged_weights())
def test_photographs_that_scikit_learn_carries(name, tmp_path):
    """The middle 256x256 pixels of two, as the card's set ``bundled``."""
    from sklearn.datasets import load_sample_images

    (tmp_path / "bundled").mkdir()
    samples = load_sample_images()
    for path, image in zip(samples.filenames, samples.images, strict=True):
        top, left = ((side - 256) // 2 for side in image.shape[:2])
        crop = image[top : top + 256, left : left + 256]
        cv2.imwrite(str(tmp_path / "bundled" / f"{Path(path).stem}.png"), crop[..., ::-1])
    cells = {key: figures for table in stated(name).values() for key, figures in table.items()}
    (protocol,) = re.findall(r"pixels of two, protocol (\w+)", card(name))
    compare(name, tmp_path, protocol, "bundled", cells)


@pytest.mark.skipif(not (BENCHMARK / "Set5").is_dir(), reason=f"Set5 is not at {BENCHMARK}")
@pytest.mark.parametrize("name", packaged_weights())
def test_set5(name):
    protocol, cells = next(iter(stated(name).items()))
    compare(name, BENCHMARK, protocol, "Set5", cells)
