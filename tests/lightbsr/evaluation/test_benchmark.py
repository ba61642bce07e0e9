"""``lightbsr benchmark``: figures, layouts, other tools' images, pairs, images without a score, refusals."""

import argparse
import csv
import math
import os
import shutil
import sys
import types

import cv2
import numpy as np
import pytest
import torch

from lightbsr.evaluation.benchmark import add_arguments, benchmark
from lightbsr.evaluation.cost import count_gmacs
from lightbsr.evaluation.image_sets import canonical
from lightbsr_arch import KDSR, LightBSR
from lightbsr_cli import main


def words(data, out, *more):
    return ["--data", str(data), "--out", str(out), "--device", "cpu", "--speed-size", "8", "9", *more]


def run(data, out, *more):
    return main(["benchmark", *words(data, out, *more)])


def compute(data, out, *more):
    """The scores of a run."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return benchmark(parser.parse_args(words(data, out, *more)))


def rows(out, **wanted):
    """Rows of results.csv with these entries."""
    with open(out / "results.csv", encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in wanted.items())]


def refusal(capsys, data, out, *more):
    """The one sentence that a run is refused with."""
    assert run(data, out, *more) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("lightbsr: error: ") and "\n" not in error
    return error


def test_our_rows_stand_among_the_papers(data, weights, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(data, out, "--method", f"LightBSR={weights('a')}") == 0
    shown = capsys.readouterr().out
    for text in (shown, (out / "results.md").read_text(encoding="utf-8")):
        assert all(part in text for part in ("LightBSR (ours)", "CDFormerS", "32.47", "2876.30", "ms: of 8x9"))
        assert "Sets of the protocol that are not in" in text and "B100, Urban100" in text
    for set_name in ("Set5", "Set14"):
        found = rows(out, set=set_name, setting="mean")
        assert [row["source"] == "here" for row in found] == [True] * 2 + [False] * 11
        names = {f"{row['method']}{' (ours)' * (row['source'] == 'here')}": float(row["psnr"]) for row in found}
        table = shown[shown.index(f"{set_name}\n") :].split("\n\n")[1]
        shown_names = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
        assert shown_names == sorted(names, key=names.get, reverse=True)
    (bicubic,) = rows(out, method="Bicubic", source="here", set="Set5", setting="mean")
    three = [float(row["psnr"]) for row in rows(out, method="Bicubic", source="here", set="Set5")][:3]
    assert float(bicubic["psnr"]) == pytest.approx(sum(three) / 3) and 0 < float(bicubic["ssim"]) < 1
    (printed,) = rows(out, method="Bicubic", source="LightBSR (ICCV 2025), Table 3", set="Set5", setting="sigma1.2")
    assert printed["psnr"] == "27.69"
    (line,) = [line for line in shown.splitlines() if line.startswith("| Bicubic (ours)")][:1]
    gap = sum(round(ours, 2) - paper for ours, paper in zip(three, (27.69, 25.99, 24.45), strict=True)) / 3
    assert f"| {gap:+.2f} " in line


def test_ablations_are_compared_with_the_whole_method(data, weights, tmp_path, capsys):
    methods = [word for name in ("t2", "T4") for word in ("--method", f"{name}={weights(name)}")]
    assert run(data, tmp_path / "out", *methods, "--sets", "Set5") == 0
    shown = capsys.readouterr().out
    table = shown[shown.index("LightBSR (ICCV 2025), Table 1") :]
    lines = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("| T")}
    assert list(lines) == ["T1", "T2", "T3", "T4", "T2 (ours)", "T4 (ours)"] and "Table 2" not in shown
    assert "32.00" in lines["T4"] and "M4" not in table and lines["T1"].rstrip("| ").endswith("-0.40")
    assert lines["T4 (ours)"].rstrip("| ").endswith("+0.00")


def test_the_network_is_scored_as_upscaled_images_are(data, weights, tmp_path):
    """An independent way to the same figure: degrade, upscale and score one image by hand."""
    from basicsr.metrics import calculate_psnr

    from lightbsr.upscaling.upscaler import Upscaler
    from lightbsr_data import BlindBenchmarkDataset

    results = compute(data, tmp_path, "--method", f"mine={weights('a')}", "--sets", "Set5")
    options = {"dataroot_gt": str(data / "Set5"), "io_backend": {"type": "disk"}, "scale": 4}
    item = BlindBenchmarkDataset({**options, "degradation": {"sigma": 2.4}})[1]
    lq, gt = ((item[key] * 255).round().byte().permute(1, 2, 0).numpy() for key in ("lq", "gt"))
    sr = Upscaler(weights("a"), device="cpu")(lq)
    expected = calculate_psnr(sr[..., ::-1], gt[..., ::-1], crop_border=4, test_y_channel=True)
    assert results.scores["mine", "Set5", "sigma2.4", "psnr"][1] == pytest.approx(expected, abs=1e-3)


def test_bicubic_row_of_table_3(datasets_root, tmp_path):
    results = compute(datasets_root / "benchmark", tmp_path, "--sets", "Set5", "Set14")
    expected = {"Set5": [27.6929, 25.9939, 24.4492], "Set14": [25.5954, 24.3937, 23.2485]}
    for set_name, figures in expected.items():
        found = [results.mean("Bicubic", set_name, f"sigma{sigma}", "psnr")[0] for sigma in (1.2, 2.4, 3.6)]
        assert found == pytest.approx(figures, abs=5e-5)


def test_a_score_depends_on_image_and_setting_alone(data, tmp_path):
    """Noise included: an image alone, at another place in the order, has the same score."""
    whole = compute(data, tmp_path / "a", "--protocol", "aniso9", "--sets", "Set5")
    alone = tmp_path / "alone" / "Set5"
    alone.mkdir(parents=True)
    shutil.copy(data / "Set5" / "image_2.png", alone)
    again = compute(alone.parent, tmp_path / "b", "--protocol", "aniso9", "--sets", "Set5")
    assert len(whole.settings) == 18
    assert all(again.scores[cell] == scores[2:] for cell, scores in whole.scores.items())


@pytest.mark.parametrize("layout", ["", "HR", "GTmod12", "image_SRF_4"])
def test_layouts(data, tmp_path, layout):
    folder = tmp_path / "other" / "set5" / layout
    folder.mkdir(parents=True)
    for path in (data / "Set5").iterdir():
        shutil.copy(path, folder / (f"{path.stem}_HR.png" if layout == "image_SRF_4" else path.name))
    if layout == "image_SRF_4":  # what else lies there is no HR image
        (folder / "image_0_LR.png").write_bytes(b"not looked at")
    first = compute(data, tmp_path / "a", "--protocol", "aniso9", "--sets", "Set5")
    assert compute(tmp_path / "other", tmp_path / "b", "--protocol", "aniso9", "--sets", "SET5").scores == first.scores


def test_names_of_sets():
    names = {"set14": "Set14", "BSD100": "B100", "b100": "B100", "manga109": "Manga109", "mine": "mine"}
    assert {name: canonical(name) for name in names} == names


def test_a_partial_set_stands_without_the_papers_figures(data, tmp_path, capsys):
    (data / "Set5" / "image_1.png").unlink()
    assert run(data, tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "Set5 (2 of 3 images)" in shown and "32.47" not in shown
    assert {row["source"] for row in rows(tmp_path / "out", set="Set5")} == {"here"}
    assert len({row["source"] for row in rows(tmp_path / "out", set="Set14")}) == 2


def test_images_without_a_score_are_named_and_left_out(data, weights, tmp_path, capsys):
    whole = compute(data, tmp_path / "whole", "--sets", "Set14")
    capsys.readouterr()
    (data / "Set5" / "broken.png").write_bytes(b"no image")
    cv2.imwrite(str(data / "Set14" / "small.png"), np.full((24, 24, 3), 7, np.uint8))  # flat: an infinite PSNR
    out = tmp_path / "out"
    assert run(data, out, "--method", f"bad={weights('bad', broken=True)}", "--method", f"x={weights('x')}") == 1
    errors = capsys.readouterr().err
    assert errors.count("broken.png") == 1 and "'small', sigma1.2, Bicubic: no finite psnr of 24x24" in errors
    assert "Set5, image 'image_0', sigma3.6, bad: the image has values that are not finite" in errors
    page = (out / "results.md").read_text(encoding="utf-8")
    assert "Images left out of the means" in page and "Bicubic (ours; images left out: 1)" in page
    assert rows(out, method="bad", set="Set5", setting="mean")[0]["psnr"] == ""
    (row,) = rows(out, method="Bicubic", source="here", set="Set14", setting="sigma1.2")
    assert float(row["psnr"]) == whole.mean("Bicubic", "Set14", "sigma1.2", "psnr")[0] and row["images"] == "2"


def test_names_that_are_not_utf_8(data, tmp_path, capsys):
    folder = os.fsencode(data / "Set5")
    os.rename(folder + b"/image_1.png", folder + b"/a\xff.png")
    with open(folder + b"/b\xff.png", "wb") as file:
        file.write(b"no image")
    assert run(data, tmp_path / "out", "--sets", "Set5", "--protocol", "aniso9") == 1
    assert "image 'b\\\\udcff'" in capsys.readouterr().err
    assert "a\\udcff" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_images_of_other_tools(data, tmp_path, capsys):
    """The cropped HR images themselves as one tool's results: infinite PSNR; and a sentence for each mistake."""
    made = tmp_path / "made"
    for label in ("sigma1.2", "sigma2.4", "sigma3.6"):
        # Both layouts; and both names.
        folder = made / ("Set5_sigma1.2" if label == "sigma1.2" else f"Set5/{label}")
        folder.mkdir(parents=True)
        for path in (data / "Set5").iterdir():
            image = cv2.imread(str(path))
            height, width = (side // 4 * 4 for side in image.shape[:2])
            name = f"{path.stem}_tool.png" if label == "sigma2.4" else path.name
            image[4, 4] ^= 1  # inside the border
            cv2.imwrite(str(folder / name), image[:height, :width])
    out = tmp_path / "out"
    assert run(data, out, "--sets", "Set5", "--method", f"tool={made}") == 0
    assert all(float(row["psnr"]) > 70 for row in rows(out, method="tool"))
    cv2.imwrite(str(made / "Set5" / "sigma3.6" / "image_0.png"), np.zeros((8, 8, 3), np.uint8))
    (made / "Set5" / "sigma3.6" / "image_1.png").unlink()
    capsys.readouterr()
    assert run(data, out, "--sets", "Set5", "--method", f"tool={made}") == 1
    error = capsys.readouterr().err
    assert "is 8x8, but x4 of its LR image is 60x48" in error and "no images named 'image_1'" in error
    error = refusal(capsys, data, out, "--method", f"tool={made}")
    assert "holds no folder 'Set14/sigma1.2' or 'Set14_sigma1.2'" in error


def test_grey_rgba_and_16_bit(tmp_path):
    """Each is read as 8-bit RGB: grey three times, alpha left out, 16 bits divided by 256."""
    image = np.random.RandomState(0).randint(0, 256, (48, 48), np.uint8)
    colour = cv2.merge([image] * 3)
    rgba, deep = cv2.merge([*cv2.split(colour), image]), colour.astype(np.uint16) * 256
    scores = []
    for name, form in {"rgb": colour, "grey": image, "rgba": rgba, "deep": deep}.items():
        (tmp_path / name / "Set5").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / name / "Set5" / "a.png"), form)
        scores.append(compute(tmp_path / name, tmp_path / f"out_{name}").scores)
    assert all(score == scores[0] for score in scores)


def test_real(tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.RandomState(0).randint(0, 256, (60, 64, 3), np.uint8)
    cv2.imwrite(str(folder / "a.png"), noise)
    cv2.imwrite(str(folder / "flat.png"), np.full_like(noise, 255))
    cv2.imwrite(str(folder / "small.png"), noise[:45, :45])  # one block of 96 pixels has no covariance
    assert run(folder, tmp_path / "out", "--protocol", "real") == 1
    errors = capsys.readouterr().err
    assert errors.count("no finite niqe") == 2 and "'flat'" in errors and "of 180x180 pixels" in errors
    (row,) = rows(tmp_path / "out", setting="as_is")
    assert (row["set"], row["images"]) == ("photos", "1") and float(row["niqe"]) > 0


def test_pairs(data, tmp_path, capsys, monkeypatch):
    """LR and HR in two folders, RealSR's names; LPIPS by a stand-in for pyiqa whose weights of DISTS cannot be had."""

    def create_metric(name, device):
        if name == "dists":
            raise OSError("no network")
        return lambda sr, hr: (sr - hr).abs().mean()

    monkeypatch.setitem(sys.modules, "pyiqa", types.SimpleNamespace(create_metric=create_metric))
    for kind in ("LR", "HR"):
        (tmp_path / "pairs" / "realsr" / kind).mkdir(parents=True)
    hr = cv2.imread(str(data / "Set14" / "image_0.png"))
    lr = cv2.resize(hr, (13, 13), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(tmp_path / "pairs" / "realsr" / "HR" / "Canon_001_HR.png"), hr)
    cv2.imwrite(str(tmp_path / "pairs" / "realsr" / "LR" / "Canon_001_LR4.png"), lr)
    assert run(tmp_path / "pairs", tmp_path / "out", "--protocol", "paired") == 0
    shown = capsys.readouterr().out
    assert "dists is left out: pyiqa cannot make it (no network)" in shown and "NTIRE2020, AIM2019" in shown
    (row,) = rows(tmp_path / "out", setting="as_is")
    assert row["set"] == "RealSR" and float(row["psnr"]) > 20 and 0 < float(row["lpips"]) < 0.1 and "dists" not in row
    cv2.imwrite(str(tmp_path / "pairs" / "realsr" / "LR" / "Canon_002_LR4.png"), lr)
    error = refusal(capsys, tmp_path / "pairs", tmp_path / "out", "--protocol", "paired")
    assert "Canon_002_LR4.png' has no partner in HR/" in error


def test_released_weights(data, released_state_dict, tmp_path):
    path = tmp_path / "released.pth"
    torch.save(released_state_dict("lightbsr_student_x4"), path)
    for name in ("image_1.png", "image_2.png"):
        (data / "Set5" / name).unlink()
    results = compute(data, tmp_path / "out", "--sets", "Set5", "--method", f"LightBSR={path}")
    assert math.isfinite(results.mean("LightBSR", "Set5", "mean", "psnr")[0])
    (row,) = rows(tmp_path / "out", method="LightBSR", source="here", setting="mean")
    assert float(row["parameters"]) == 3.259947 and float(row["gmacs"]) == pytest.approx(205.93, abs=0.005)


def test_gmacs_by_hand():
    """One convolution: height x width x output channels x input channels x 9."""
    assert count_gmacs(torch.nn.Conv2d(3, 8, 3, padding=1), (16, 20)) * 1e9 == 16 * 20 * 8 * 3 * 9
    assert count_gmacs(LightBSR().eval(), (256, 256)) == pytest.approx(205.93, abs=0.005)


def test_kdsr(data, tmp_path):
    torch.save({"params": KDSR(num_feat=8, num_block=1, num_resblock=1).state_dict()}, tmp_path / "kdsr.pth")
    results = compute(data, tmp_path / "out", "--sets", "Set14", "--method", f"KDSR={tmp_path / 'kdsr.pth'}")
    assert math.isfinite(results.mean("KDSR", "Set14", "mean", "ssim")[0])


def test_refusals(data, weights, tmp_path, capsys):
    out = tmp_path / "out"
    a, b = weights("a"), weights("b", upscale=2)
    assert "a is x4, but b is x2" in refusal(capsys, data, out, "--method", f"a={a}", "--method", f"b={b}")
    assert "--scale is x3, but a is x4" in refusal(capsys, data, out, "--method", f"a={a}", "--scale", "3")
    assert "is not NAME=WEIGHTS" in refusal(capsys, data, out, "--method", a)
    assert "there is a method 'bicubic' already" in refusal(capsys, data, out, "--method", f"bicubic={a}")
    assert "no such checkpoint file: 'nowhere.pth'" in refusal(capsys, data, out, "--method", "a=nowhere.pth")
    assert "'nowhere' is no folder" in refusal(capsys, "nowhere", out)
    assert "did you mean 'Set14'?" in refusal(capsys, data, out, "--sets", "Set144")
    (data / "Empty").mkdir()
    assert "no image in image_SRF_4/*_HR.png, GTmod12/" in refusal(capsys, data, out, "--sets", "Empty")
    assert "(B100); name others with --sets: Set14, Set5" in refusal(capsys, data, out, "--protocol", "aniso9")
    assert "cannot be used" in refusal(capsys, data, out, "--device", "cpux")
    assert not out.exists()
