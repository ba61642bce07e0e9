"""Protocols and papers' figures: what they say, that the option files say the same, and what is refused."""

import numpy as np
import pytest
import torch
import yaml

from lightbsr.evaluation.image_sets import SetImage
from lightbsr.evaluation.protocols import (
    SCALES,
    degradation_label,
    load_papers,
    load_protocol,
    packaged_protocols,
    paper_tables,
)
from lightbsr.evaluation.scoring import make_lq
from lightbsr.packaged import packaged_options
from lightbsr_compat import InputError, load_options
from lightbsr_data import BlindBenchmarkDataset
from lightbsr_data.datasets import parse_fixed_degradation


def test_packaged_protocols_can_be_read():
    assert all(load_protocol(name).degradations(4) for name in packaged_protocols())


@pytest.mark.parametrize("scale", SCALES)
def test_iso(scale):
    protocol = load_protocol("iso")
    assert protocol.sets == ["Set5", "Set14", "B100", "Urban100"]
    assert list(protocol.degradations(scale)) == ["sigma1.2", "sigma2.4", "sigma3.6"]


@pytest.mark.parametrize(
    ("scale", "first", "last", "step"), [(2, 0.9, 1.6, 0.1), (3, 1.35, 2.4, 0.15), (4, 1.8, 3.2, 0.2)]
)
def test_gaussian8(scale, first, last, step):
    protocol = load_protocol("gaussian8")
    widths = [d.sigma_x for d in protocol.degradations(scale).values()]
    assert widths == pytest.approx([first + i * step for i in range(8)]) and widths[-1] == last
    assert protocol.sets == ["Set5", "Set14", "B100", "Urban100", "Manga109"]


def test_aniso9():
    kernels = [(0, 2, 0.5), (10, 2, 1), (30, 3.5, 1.5), (45, 3.5, 2), (90, 3.5, 2)]
    kernels += [(120, 4, 1.5), (135, 4, 2), (165, 4, 3), (180, 4, 4)]
    settings = load_protocol("aniso9").settings["x4"]
    assert settings == [
        {"theta": t, "sigma_x": x, "sigma_y": y, "noise_sigma": n} for n in (5, 10) for t, x, y in kernels
    ]


@pytest.mark.parametrize("name", ["bicubic_x4_iso", "lightbsr_x4_iso", "lightbsr_x4_aniso9"])
def test_option_files_say_what_the_protocol_says(name):
    options = load_options(packaged_options()[name])
    protocol = load_protocol(name.split("_")[-1])
    labels = list(protocol.degradations(options["scale"]))
    expected = [
        (f"{s}_{label}", entry)
        for s in protocol.sets
        for label, entry in zip(labels, protocol.settings["x4"], strict=True)
    ]
    assert [(d["name"], d["degradation"]) for d in options["datasets"].values()] == expected
    for metric in protocol.metrics:
        said = {"type": f"calculate_{metric}", "crop_border": options["scale"], "test_y_channel": True}
        assert options["val"]["metrics"][metric] == said


@pytest.mark.parametrize(
    ("entry", "label"),
    [
        ({"sigma": 1.2}, "sigma1.2"),
        ({"theta": 30, "sigma_x": 3.5, "sigma_y": 1.5, "noise_sigma": 5}, "theta30_3.5_1.5_noise5"),
        ({"sigma": 1, "noise_sigma": 5, "jpeg": 85}, "sigma1_noise5_q85"),
        ({"downsample": "area"}, "noblur_area"),
        ({"downsample": "bicubic", "jpeg": 60}, "noblur_q60"),
    ],
)
def test_labels(entry, label):
    assert degradation_label(parse_fixed_degradation(entry)) == label


@pytest.mark.parametrize("entry", [{"sigma": 1.2}, {"theta": 30, "sigma_x": 3.5, "sigma_y": 1.5, "noise_sigma": 5}])
def test_lr_images_are_those_of_the_data_set(image_folder, entry):
    options = {"dataroot_gt": str(image_folder), "io_backend": {"type": "disk"}, "scale": 4, "degradation": entry}
    dataset = BlindBenchmarkDataset(options)
    for i, name in enumerate(dataset.images.names):
        item = dataset[i]
        hr = (item["gt"] * 255).round().byte().permute(1, 2, 0).numpy()
        image = SetImage(name, hr="", lr=None)
        assert torch.equal(make_lq(image, hr, parse_fixed_degradation(entry), 4), item["lq"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sets": None, "set": ["Set5"]}, "set: unknown key; did you mean 'sets'?"),
        ({"images": "perhaps"}, "images: Input should be 'degraded', 'pairs' or 'lr'"),
        ({"images": None}, "images: Field required"),
        ({"images": "lr"}, "metric 'psnr' does not go with images: lr, only niqe"),
        ({"metrics": ["psrn"]}, "metrics: 0: Input should be 'psnr'"),
        ({"settings": [{"sigma": 2.4}, {"sigma": 2.4}]}, "a degradation twice"),
        ({"settings": [{"sigmo": 2.4}]}, "'sigmo'; did you mean 'sigma"),
        ({"settings": [{"sigma": -1}]}, "must be positive"),
        ({"settings": [{"sigma": 1, "jpeg": 101}]}, "jpeg is 101, but must be a whole number"),
        ({"settings": [{"downsample": "nearest"}]}, "downsample is 'nearest', but must be one of bicubic"),
        ({"settings": []}, "images: degraded needs a list of settings"),
        ({"settings": {"x5": []}}, "settings"),
        ({1: "one"}, "1: Keys should be strings"),
    ],
)
def test_refusals(tmp_path, change, sentence):
    entries = {**load_options(packaged_protocols()["iso"]), **change}
    path = tmp_path / "mine.yml"
    path.write_text(yaml.safe_dump({k: v for k, v in entries.items() if v is not None}), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_protocol(str(path))
    assert sentence in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_protocol_of_ones_own(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text(
        "images: degraded\nmetrics: [psnr]\nsettings: {x2: [{sigma: 0.7, noise_sigma: 3}]}\n", encoding="utf-8"
    )
    protocol = load_protocol(str(path))
    assert (protocol.name, list(protocol.degradations(2))) == ("mine", ["sigma0.7_noise3"])
    with pytest.raises(InputError, match="no settings for x4, only for x2"):
        protocol.degradations(4)
    with pytest.raises(InputError, match=r"'gaussian9' is neither a file nor .*did you mean 'gaussian8'"):
        load_protocol("gaussian9")


# LightBSR's figures are held against the sums and comparisons that the paper's prose states.


@pytest.fixture
def lightbsr():
    """``lightbsr(table)``: its rows."""
    papers = {paper.source: {table.name: table.methods for table in paper.tables} for paper in load_papers()}
    return lambda table: papers["LightBSR (ICCV 2025)"][table]


def mean_gap(first, second):
    return np.mean(
        [np.subtract(first.psnr[name], second.psnr[name]) for name in first.psnr.keys() & second.psnr.keys()]
    )


@pytest.mark.parametrize(
    ("table", "first", "second", "gap"),
    [
        ("Table 1", "T2", "T1", 0.2200),
        ("Table 1", "T3", "T1", 0.0875),
        ("Table 2", "M2", "M1", 1.6675),
        ("Table 2", "M3", "M1", 1.6975),
        ("Table 2", "M4", "M5", 0.0625),
        ("Table 2", "M4-", "M5-", 0.0925),
        ("Table 4", "LightBSR", "DnCNN+DCLS", 0.9722),
        ("Table 4", "LightBSR", "CDFormerS", 0.0544),
    ],
)
def test_mean_gaps_of_the_papers_prose(lightbsr, table, first, second, gap):
    rows = lightbsr(table)
    assert mean_gap(rows[first], rows[second]) == pytest.approx(gap, abs=5e-5)


def test_comparisons_of_the_papers_prose(lightbsr):
    three, four = lightbsr("Table 3"), lightbsr("Table 4")
    ours, dcls, cdformer = (three[name] for name in ("LightBSR", "DCLS", "CDFormerS"))
    cells = [(a, b) for name in ours.psnr for a, b in zip(ours.psnr[name], dcls.psnr[name], strict=True)]
    assert (sum(a >= b for a, b in cells), len(cells)) == (8, 12)
    assert 1 - ours.size.parameters / dcls.size.parameters == pytest.approx(0.772, abs=5e-4)
    assert 1 - ours.size.gmacs / dcls.size.gmacs == pytest.approx(0.585, abs=5e-4)
    assert ours.size.parameters / cdformer.size.parameters == pytest.approx(0.261, abs=5e-4)
    assert ours.size.gmacs / cdformer.size.gmacs == pytest.approx(0.326, abs=5e-4)
    others = [row.psnr["B100"] for name, row in four.items() if name != "LightBSR"]
    best = np.array(four["LightBSR"].psnr["B100"]) >= np.max(others, axis=0)
    assert best.tolist() == [True] * 18


def test_ablations_whole_method_is_not_the_mean_of_table_3(lightbsr):
    whole = {name: values[0] for name, values in lightbsr("Table 1")["T4"].psnr.items()}
    assert whole == {name: values[0] for name, values in lightbsr("Table 2")["M4"].psnr.items()}
    means = [round(np.mean(values), 2) for values in lightbsr("Table 3")["LightBSR"].psnr.values()]
    assert (list(whole.values()), means) == ([32.00, 28.49, 27.50, 26.02], [31.90, 28.42, 27.50, 26.00])


def test_every_printed_cell_is_one_of_its_protocol():
    known = {}
    for paper in load_papers():
        for table in filter(lambda table: table.protocol is not None, paper.tables):
            protocol = load_protocol(table.protocol)
            assert set(table.settings) <= {*protocol.degradations(table.scale), "mean"}
            for name, row in table.methods.items():
                for figures in (row.psnr, row.ssim, row.lpips):
                    assert set(figures) <= set(protocol.sets)
                    assert all(len(values) == len(table.settings) for values in figures.values())
                known[paper.source, table.name, name] = row
    assert len(known) == 11 + 8 + 4 + 7 + 11 + 5  # LightBSR's Tables 3, 4, 1, 2; KDSR's 1 and 3
    kdsr = known["KDSR (ICLR 2023)", "Table 1", "KDSR-L"]
    assert (kdsr.psnr["Manga109"], kdsr.ssim["Set5"], kdsr.size.gmacs) == ([30.99], [0.8933], 623.61)
    assert known["KDSR (ICLR 2023)", "Table 3", "KDSR-GAN"].lpips["NTIRE2020"] == [0.3198]
    assert paper_tables("iso", 3) == []
