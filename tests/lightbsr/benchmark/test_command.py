"""``lightbsr benchmark`` from its command line: figures, resuming, layouts, other tools' images, bad inputs."""

import csv
import json
import os
import shutil
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lightbsr.evaluation import cells
from lightbsr.evaluation.cost import count_gmacs
from lightbsr_arch import KDSR, LightBSR
from lightbsr_cli import main


def run(data, out, *words):
    words = ["--data", str(data), "--out", str(out), "--device", "cpu", "--workers", "0", *words]
    return main(["benchmark", *words, "--speed-side", "8"])


def results(out):
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def rows(out):
    with open(out / "results.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def refusal(capsys, data, out, *words):
    """The one sentence that a run is refused with."""
    assert run(data, out, *words) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("lightbsr: error: ") and "\n" not in error
    return error


def test_everything_is_written(data, weights, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(data, out, "--method", f"LightBSR={weights('a')}") == 0
    shown = capsys.readouterr().out
    assert "Bicubic" in shown and "32.47" in shown and "difference" in shown
    found = results(out)
    assert found["protocol"]["name"] == "iso" and found["scale"] == 4 and "torch" in found["versions"]
    assert len(found["cells"]) == 2 * 2 * 3 and all(len(cell["images"]) in (2, 3) for cell in found["cells"])
    method = found["methods"][1]
    assert len(method["sha256"]) == 64 and method["gmacs"] > 0 and method["milliseconds"] > 0
    table = rows(out)
    assert len(table) == 2 * 2 * 4  # a mean beside three settings
    row = next(r for r in table if (r["method"], r["set"], r["setting"]) == ("Bicubic", "Set5", "sigma1.2"))
    assert row["paper_psnr"] == "27.69" and row["protocol"] == "iso" and 0 < float(row["ssim"]) < 1
    assert float(row["difference_psnr"]) == pytest.approx(round(float(row["psnr"]), 2) - 27.69, abs=0.006)
    mean = next(r for r in table if (r["method"], r["set"], r["setting"]) == ("Bicubic", "Set5", "mean"))
    three = [float(r["psnr"]) for r in table if (r["method"], r["set"]) == ("Bicubic", "Set5")][:3]
    assert float(mean["psnr"]) == pytest.approx(sum(three) / 3)
    assert "| Set5 " in (out / "results.md").read_text(encoding="utf-8")


def test_the_network_is_scored_as_upscaled_images_are(data, weights, tmp_path):
    """An independent way to the same figure: degrade, upscale and score one image by hand."""
    from basicsr.metrics import calculate_psnr

    from lightbsr.upscaling.upscaler import Upscaler
    from lightbsr_data import BlindBenchmarkDataset

    path, out = weights("a"), tmp_path / "out"
    run(data, out, "--method", f"mine={path}", "--sets", "Set5")
    options = {"dataroot_gt": str(data / "Set5"), "io_backend": {"type": "disk"}, "scale": 4}
    item = BlindBenchmarkDataset({**options, "degradation": {"sigma": 2.4}})[1]
    lq, gt = ((item[key] * 255).round().byte().permute(1, 2, 0).numpy() for key in ("lq", "gt"))
    sr = Upscaler(path, device="cpu")(lq)
    expected = calculate_psnr(sr[..., ::-1], gt[..., ::-1], crop_border=4, test_y_channel=True)
    cell = next(c for c in results(out)["cells"] if (c["method"], c["setting"]) == ("mine", "sigma2.4"))
    assert cell["images"][1]["psnr"] == pytest.approx(expected, abs=1e-3)


def test_bicubic_row_of_table_3(tmp_path):
    root = Path(os.environ.get("LIGHTBSR_DATASETS", Path(__file__).parents[4] / "shared" / "datasets")) / "benchmark"
    if not root.is_dir():
        pytest.skip(f"no data sets at {root} (set LIGHTBSR_DATASETS)")
    assert run(root, tmp_path) == 0
    table = [row for row in rows(tmp_path) if row["setting"] != "mean"]
    assert [row["set"] for row in table] == ["Set5"] * 3 + ["Set14"] * 3
    for row in table:
        assert f"{float(row['psnr']):.2f}" == f"{float(row['paper_psnr']):.2f}"


def test_finished_cells_are_not_computed_again(data, weights, tmp_path, monkeypatch):
    computed = []
    stock = cells.CellRunner._run_image

    def spy(self, job, item, method, cell, **options):
        computed.append((job.image_set.name, job.setting.label, method.name))
        stock(self, job, item, method, cell, **options)

    monkeypatch.setattr(cells.CellRunner, "_run_image", spy)

    def computes(*words):
        computed.clear()
        assert run(data, tmp_path / "out", *words) == 0
        return sorted(set(computed))

    path = weights("a")
    assert len(computes("--sets", "Set5")) == 3
    assert computes("--sets", "Set5") == []
    before = results(tmp_path / "out")["cells"]
    assert {method for _, _, method in computes("--sets", "Set5", "--method", f"x={path}")} == {"x"}
    assert computes("--sets", "Set5", "--method", f"renamed={path}") == []
    after = results(tmp_path / "out")["cells"]
    assert [c for c in after if c["method"] == "Bicubic"] == before
    assert "renamed" in {c["method"] for c in after}
    shutil.copy(weights("other"), path)  # other weights under the same name
    assert {method for _, _, method in computes("--sets", "Set5", "--method", f"x={path}")} == {"x"}
    cv2.imwrite(str(data / "Set5" / "image_0.png"), np.zeros((50, 50, 3), np.uint8))  # another image in the set
    assert len(computes("--sets", "Set5", "--method", f"x={path}")) == 6


def test_a_bad_image_loses_no_finished_cell(data, tmp_path, capsys):
    out = tmp_path / "out"
    (data / "Set14" / "broken.png").write_bytes(b"no image")
    assert run(data, out) == 1
    error = capsys.readouterr().err
    assert error.count("broken.png") == 3 and "Set14 sigma1.2" in error
    by_set = {c["set"]: c for c in results(out)["cells"]}
    assert by_set["Set5"]["psnr"] is not None and by_set["Set14"]["psnr"] is None
    assert len(list((out / "cells").glob("*.json"))) == 3
    assert "Images that failed" in (out / "report.html").read_text(encoding="utf-8")
    (data / "Set14" / "broken.png").unlink()
    assert run(data, out) == 0 and all(c["psnr"] for c in results(out)["cells"])


def test_scores_depend_on_image_and_setting_alone(data, tmp_path):
    """Noise included: any order of images and any number of processes give the same bits."""
    words = ["--protocol", "aniso9", "--sets", "Set5"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run(data, tmp_path / "a", *words) == 0
        command = ["benchmark", "--data", str(data), "--out", str(tmp_path / "b"), "--workers", "2", "--device", "cpu"]
        assert main([*command, *words]) == 0
    first, second = (results(tmp_path / name)["cells"] for name in "ab")
    assert len(first) == 18 and first == second
    # One image alone, at another place in the order.
    alone = tmp_path / "alone" / "Set5"
    alone.mkdir(parents=True)
    shutil.copy(data / "Set5" / "image_2.png", alone)
    assert run(alone.parent, tmp_path / "c", *words) == 0
    for cell, whole in zip(results(tmp_path / "c")["cells"], first, strict=True):
        assert cell["images"] == whole["images"][2:]


@pytest.mark.parametrize("layout", ["", "HR", "GTmod12", "image_SRF_4"])
def test_layouts(data, tmp_path, layout):
    assert run(data, tmp_path / "flat", "--sets", "Set5") == 0
    folder = tmp_path / "other" / "Set5" / layout
    folder.mkdir(parents=True)
    for path in (data / "Set5").iterdir():
        shutil.copy(path, folder / (f"{path.stem}_HR.png" if layout == "image_SRF_4" else path.name))
    if layout == "image_SRF_4":  # what else lies there is no HR image
        (folder / "image_0_LR.png").write_bytes(b"not looked at")
    assert run(folder.parents[0] if not layout else tmp_path / "other", tmp_path / "out", "--sets", "Set5") == 0
    first, second = (results(tmp_path / name)["cells"] for name in ("flat", "out"))
    assert [c["psnr"] for c in first] == [c["psnr"] for c in second]


def test_images_of_other_tools(data, tmp_path, capsys):
    """The cropped HR images themselves as one tool's results: an infinite PSNR, and a sentence for each mistake."""
    made = tmp_path / "made"
    for label in ("sigma1.2", "sigma2.4", "sigma3.6"):
        # Both layouts; and both names.
        folder = made / ("Set5_sigma1.2" if label == "sigma1.2" else f"Set5/{label}")
        folder.mkdir(parents=True)
        for path in (data / "Set5").iterdir():
            image = cv2.imread(str(path))
            height, width = (side // 4 * 4 for side in image.shape[:2])
            name = f"{path.stem}_tool.png" if label == "sigma2.4" else path.name
            cv2.imwrite(str(folder / name), image[:height, :width])
    out = tmp_path / "out"
    assert run(data, out, "--sets", "Set5", "--method", f"tool={made}") == 0
    assert {c["psnr"] for c in results(out)["cells"] if c["method"] == "tool"} == {"inf"}
    cv2.imwrite(str(made / "Set5" / "sigma3.6" / "image_0.png"), np.zeros((8, 8, 3), np.uint8))
    assert run(data, out, "--sets", "Set5", "--method", f"tool={made}") == 1
    assert "is 8x8, but x4 of its LR image is 60x48" in capsys.readouterr().err
    (made / "Set5" / "sigma3.6" / "image_0.png").unlink()
    assert run(data, out, "--sets", "Set5", "--method", f"tool={made}") == 1
    assert "no image named 'image_0'" in capsys.readouterr().err
    assert "holds no folder 'Set14/sigma1.2' or 'Set14_sigma1.2'" in refusal(
        capsys, data, out, "--method", f"tool={made}"
    )


def test_grey_rgba_and_16_bit(tmp_path):
    """Each is read as 8-bit RGB: grey three times, alpha left out, 16 bits divided by 256."""
    image = np.random.RandomState(0).randint(0, 256, (48, 48), np.uint8)
    colour = cv2.merge([image] * 3)
    forms = {
        "rgb": colour,
        "grey": image,
        "rgba": cv2.merge([*cv2.split(colour), image]),
        "deep": colour.astype(np.uint16) * 256,
    }
    for name, form in forms.items():
        (tmp_path / name / "Set5").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / name / "Set5" / "a.png"), form)
        assert run(tmp_path / name, tmp_path / f"out_{name}") == 0
    scores = {name: [c["psnr"] for c in results(tmp_path / f"out_{name}")["cells"]] for name in forms}
    assert all(score == scores["rgb"] for score in scores.values())


def test_real(data, weights, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.random.RandomState(0).randint(0, 256, (60, 64, 3), np.uint8))
    assert run(folder, tmp_path / "out", "--protocol", "real", "--method", f"x={weights('a')}") == 0
    assert {r["set"] for r in rows(tmp_path / "out")} == {"photos"} and float(rows(tmp_path / "out")[0]["niqe"]) > 0
    assert run(data, tmp_path / "out2", "--protocol", "real", "--sets", "Set5") == 0
    cv2.imwrite(str(folder / "b.png"), np.zeros((9, 9, 3), np.uint8))
    assert run(folder, tmp_path / "out", "--protocol", "real") == 1
    assert "SR image is 36x36, but niqe needs at least 104 pixels a side" in capsys.readouterr().err


def test_released_weights(data, released_state_dict, tmp_path):
    path = tmp_path / "released.pth"
    torch.save(released_state_dict("lightbsr_student_x4"), path)
    (data / "Set5" / "image_1.png").unlink()
    (data / "Set5" / "image_2.png").unlink()
    assert run(data, tmp_path / "out", "--sets", "Set5", "--method", f"LightBSR={path}") == 0
    method = results(tmp_path / "out")["methods"][1]
    assert method["parameters"] == 3_259_947 and method["gmacs"] == pytest.approx(205.93, abs=0.005)


def test_gmacs_by_hand():
    """One convolution: height x width x output channels x input channels x 9."""
    assert count_gmacs(torch.nn.Conv2d(3, 8, 3, padding=1), side=16) * 1e9 == 16 * 16 * 8 * 3 * 9
    assert count_gmacs(LightBSR().eval()) == pytest.approx(205.93, abs=0.005)


def test_peak_memory_grows_with_the_image(weights, peak_mib_cpu):
    if not sys.platform.startswith("linux"):
        pytest.skip("measured on Linux only")
    small, large = (peak_mib_cpu(weights("a"), side) for side in (32, 512))
    # At x4 the SR image alone is 3 x 2048 x 2048 float32 numbers, and the tail has more than twice as many channels.
    assert small < 40 and large > 3 * 48


def test_refusals(data, weights, tmp_path, capsys):
    out = tmp_path / "out"
    a, b = weights("a"), weights("b", upscale=2)
    assert "a is x4, but b is x2" in refusal(capsys, data, out, "--method", f"a={a}", "--method", f"b={b}")
    assert "--scale is x3, but a is x4" in refusal(capsys, data, out, "--method", f"a={a}", "--scale", "3")
    assert "is not NAME=WEIGHTS" in refusal(capsys, data, out, "--method", a)
    assert "there is a method 'bicubic' already" in refusal(capsys, data, out, "--method", f"bicubic={a}")
    assert "neither a checkpoint, nor packaged weights" in refusal(capsys, data, out, "--method", "a=nowhere.pth")
    assert "'nowhere' is no folder" in refusal(capsys, "nowhere", out)
    assert "did you mean 'Set14'?" in refusal(capsys, data, out, "--sets", "Set144")
    (data / "Empty").mkdir()
    assert "set 'Empty' in" in refusal(capsys, data, out, "--sets", "Empty")
    assert "(B100); name others with --sets: Set14, Set5" in refusal(capsys, data, out, "--protocol", "aniso9")
    assert "cannot be used" in refusal(capsys, data, out, "--device", "cpux")
    assert not out.exists()
    assert run(data, out, "--sets", "Set14") == 0
    capsys.readouterr()
    other = refusal(capsys, data, out, "--sets", "Set14", "--protocol", "gaussian8")
    assert "holds protocol 'iso' at x4, but this is 'gaussian8' at x4: name another folder" in other


def test_kdsr(data, tmp_path):
    torch.save({"params": KDSR(num_feat=8, num_block=1, num_resblock=1).state_dict()}, tmp_path / "kdsr.pth")
    assert run(data, tmp_path / "out", "--sets", "Set14", "--method", f"KDSR={tmp_path / 'kdsr.pth'}") == 0
    assert all(c["psnr"] is not None for c in results(tmp_path / "out")["cells"])
