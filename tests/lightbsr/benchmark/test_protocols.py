"""Protocols and paper figures: what they say, that the option files say the same, and what is refused."""

import re

import pytest

from lightbsr.evaluation.papers import paper_figures
from lightbsr.evaluation.protocols import load_protocol, packaged_protocols
from lightbsr.packaged import packaged_options
from lightbsr_compat import InputError, load_options


def test_packaged_protocols():
    names = ["aniso9", "aniso9_narrow", "gaussian8", "idr_aniso_noise", "idr_iso", "iso", "real"]
    assert sorted(packaged_protocols()) == names and all(load_protocol(name).name == name for name in names)


def test_iso():
    protocol = load_protocol("iso")
    assert protocol.sets == ("Set5", "Set14", "B100", "Urban100")
    for scale in (2, 3, 4):
        assert [s.degradation for s in protocol.settings(scale)] == [{"sigma": s} for s in (1.2, 2.4, 3.6)]


@pytest.mark.parametrize(
    ("scale", "first", "last", "step"), [(2, 0.9, 1.6, 0.1), (3, 1.35, 2.4, 0.15), (4, 1.8, 3.2, 0.2)]
)
def test_gaussian8(scale, first, last, step):
    widths = [s.degradation["sigma"] for s in load_protocol("gaussian8").settings(scale)]
    assert widths == pytest.approx([first + i * step for i in range(8)]) and widths[-1] == last


def test_aniso9_and_its_variant():
    kernels = [(0, 2, 0.5), (10, 2, 1), (30, 3.5, 1.5), (45, 3.5, 2), (90, 3.5, 2)]
    kernels += [(120, 4, 1.5), (135, 4, 2), (165, 4, 3), (180, 4, 4)]
    settings = [s.degradation for s in load_protocol("aniso9").settings(4)]
    assert settings == [
        {"theta": t, "sigma_x": x, "sigma_y": y, "noise_sigma": n} for n in (5, 10) for t, x, y in kernels
    ]
    narrow = [s.degradation for s in load_protocol("aniso9_narrow").settings(4)]
    differing = [(a, b) for a, b in zip(settings, narrow, strict=True) if a != b]
    assert [(a["sigma_y"], b["sigma_y"], b["sigma_x"], b["theta"]) for a, b in differing] == [(0.5, 0.2, 2, 0)] * 2


@pytest.mark.parametrize("name", ["bicubic_x4_iso", "lightbsr_x4_iso", "lightbsr_x4_aniso9"])
def test_option_files_say_what_the_protocol_says(name):
    options = load_options(packaged_options()[name])
    protocol = load_protocol(name.split("_")[-1])
    expected = [(f"{s}_{x.label}", x.degradation) for s in protocol.sets for x in protocol.settings(options["scale"])]
    assert [(d["name"], d["degradation"]) for d in options["datasets"].values()] == expected
    for metric in protocol.metrics:
        said = {"type": f"calculate_{metric}", "crop_border": options["scale"], "test_y_channel": True}
        assert options["val"]["metrics"][metric] == said


def test_checksum_follows_what_decides_a_score():
    iso, eight = load_protocol("iso"), load_protocol("gaussian8")
    assert iso.checksum(4) != iso.checksum(2) != eight.checksum(4)
    # sigma 2.4 is in both: the same cell.
    (a,), (b,) = ([s for s in p.settings(4) if s.label == "sigma2.4"] for p in (iso, eight))
    assert iso.checksum(4, (a,)) == eight.checksum(4, (b,)) != iso.checksum(4)


@pytest.fixture
def changed(tmp_path):
    """``changed(pattern, replacement)``: path of a copy of protocol iso with one change."""

    def make(pattern: str, replacement: str) -> str:
        with open(packaged_protocols()["iso"], encoding="utf-8") as file:
            text, count = re.subn(pattern, replacement, file.read(), count=1, flags=re.M)
        assert count == 1
        path = tmp_path / "mine.yml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return make


def test_a_protocol_of_ones_own(changed):
    protocol = load_protocol(changed(r"\{sigma: 1.2\}", "{sigma: 0.7, noise_sigma: 3}"))
    assert protocol.name == "mine"
    assert [s.label for s in protocol.settings(2)] == ["sigma0.7_noise3", "sigma2.4", "sigma3.6"]


@pytest.mark.parametrize(
    ("pattern", "replacement", "sentence"),
    [
        (r"^blur_border", "blur_boarder", "unknown key 'blur_boarder'; did you mean 'blur_border'?"),
        (r"^downsampler: \w+", "downsampler: area", "downsampler is 'area', but this package implements 'bicubic"),
        (r"^rounding.*$", "", "rounding is missing"),
        (r"^metrics.*$", "metrics: [psrn]", "metric 'psrn' is not known; did you mean 'psnr'?"),
        (r"^hr: true", "hr: perhaps", "hr is 'perhaps'"),
        (r"^hr: true", "hr: false", "hr is false"),
        (r"\{sigma: 1.2\}", "{sigma: 2.4}", "a degradation twice"),
        (r"\{sigma: 1.2\}", "{sigmo: 2.4}", "'sigmo'; did you mean 'sigma"),
        (r"\{sigma: 1.2\}", "{sigma: -1}", "must be positive"),
        (r"^settings:", "settings: {x5: []}\nsource2:", "unknown key 'source2'"),
    ],
)
def test_refusals(changed, pattern, replacement, sentence):
    path = changed(pattern, replacement)
    with pytest.raises(InputError, match=re.escape(sentence)) as caught:
        load_protocol(path)
    assert path in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_name_and_scale():
    with pytest.raises(InputError, match=r"'gaussian9' is neither a file nor .*did you mean 'gaussian8'"):
        load_protocol("gaussian9")
    with pytest.raises(InputError, match="no settings for x8, only for x2, x3, x4"):
        load_protocol("iso").settings(8)


def test_paper_figures():
    figures = paper_figures("iso", 4)
    assert figures.get("bicubic", "Urban100", "sigma2.4", "psnr") == 21.76
    assert figures.get("LightBSR", "Set5", "sigma3.6", "psnr") == 31.06
    assert figures.get("LightBSR", "Set5", "sigma3.6", "ssim") is None
    assert figures.size("LightBSR")["gmacs"] == 206.16
    assert paper_figures("iso", 3).methods == [] and paper_figures("real", 4).sources == []
    # Every figure belongs to a cell that the protocol has.
    labels = [s.label for s in load_protocol("iso").settings(4)]
    assert all(set_name in load_protocol("iso").sets and label in labels for _, set_name, label, _ in figures._cells)
