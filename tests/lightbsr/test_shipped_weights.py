"""The weights that ship are those that their cards describe, and score what these say."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from model_card import BUNDLED, bundled_photographs, scores, table

from lightbsr.packaged import DEFAULT_WEIGHTS, packaged_weights

ROOT = Path(__file__).parents[2]
BENCHMARK = Path(os.environ.get("LIGHTBSR_DATASETS", ROOT.parent / "shared" / "datasets")) / "benchmark"
TOLERANCE = 0.01  # dB, between machines and versions


def card(name):
    return json.loads((ROOT / "docs" / "models" / f"{name}.json").read_text(encoding="utf-8"))


def compare(found, stated):
    """Every cell that the card states is there, as it states it, and above bicubic."""
    cells = {(row["set"], row["setting"]): row for row in found}
    assert stated
    for row in stated:
        cell = cells[row["set"], row["setting"]]
        assert cell["ours"]["psnr"] == pytest.approx(row["ours"]["psnr"], abs=TOLERANCE), cell
        assert cell["bicubic"]["psnr"] == pytest.approx(row["bicubic"]["psnr"], abs=TOLERANCE), cell
        assert cell["ours"]["psnr"] > cell["bicubic"]["psnr"], cell


def test_the_default_is_packaged():
    assert DEFAULT_WEIGHTS in packaged_weights()


@pytest.mark.parametrize("name", packaged_weights())
def test_a_card_is_of_its_weights(name):
    content = Path(packaged_weights()[name]).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    text = (ROOT / "docs" / "models" / f"{name}.md").read_text(encoding="utf-8")
    assert card(name)["sha256"] == digest and digest in text
    assert len(content) < 8e6
    for rows in card(name)["protocols"].values():
        for row in rows:  # the text is made of the same figures
            assert f"| {row['set']} | {row['setting']} | " in text and f"{row['ours']['psnr']:.2f} / " in text


@pytest.mark.parametrize("name", packaged_weights())
def test_bundled_photographs(name, tmp_path):
    bundled_photographs(tmp_path / "data")
    stated = card(name)[BUNDLED]
    results = scores(Path(packaged_weights()[name]), tmp_path / "data", stated["protocol"], [BUNDLED], tmp_path / "out")
    compare(table(results), stated["cells"])


@pytest.mark.skipif(not (BENCHMARK / "Set5").is_dir(), reason=f"Set5 is not at {BENCHMARK}")
@pytest.mark.parametrize("name", packaged_weights())
def test_set5(name, tmp_path):
    protocol = next(iter(card(name)["protocols"]))
    results = scores(Path(packaged_weights()[name]), BENCHMARK, protocol, ["Set5"], tmp_path / "out")
    stated = [row for row in card(name)["protocols"][protocol] if row["set"] == "Set5"]
    compare(table(results), stated)
