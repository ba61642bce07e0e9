"""The benchmark's own arithmetic, its report, and its command at tiny sizes."""

import json
import math
import sys

import cv2
import growth
import numpy as np
import precision
import pytest
import report
import run
import torch
from jobs import SIZES, Sizes, make_student
from plots import growth_plot
from rows import OURS, PUBLISHED, ROWS, Forms, Row
from timing import Spread, interleaved

from lightbsr_compat import InputError

CPU = torch.device("cpu")


def row(seconds, ratio, **entries):
    spread = dict(median=seconds, low=seconds, high=seconds, count=3)
    return dict(seconds=spread, ratio=ratio, ratio_quartiles=[ratio, ratio], gmacs=None, peak_mib=None, **entries)


# --- measuring ---


def test_spread_is_median_and_quartiles():
    spread = Spread.of([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (spread.median, spread.low, spread.high, spread.count) == (3, 2, 4, 5)
    assert Spread.of([7.0]).as_json() == dict(median=7, low=7, high=7, count=1)


def test_forms_take_turns():
    calls = []
    forms = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = interleaved(forms, CPU, budget=1.0, least=2, most=4)
    assert calls == list("abababab") and [len(values) for values in times.values()] == [4, 4]


def test_no_budget_gives_the_least_number_of_rounds_and_one_of_what_is_too_slow():
    calls = []
    forms = {name: lambda name=name: calls.append(name) for name in "ab"}
    interleaved(forms, CPU, budget=0.0, least=3)
    assert calls == ["a", "b"]  # both take more than nothing


def test_exponent_of_a_power_law():
    xs = [1, 2, 5, 9]
    assert growth.exponent(xs, [3 * x**1.7 for x in xs]) == pytest.approx(1.7)


# --- on paper ---


def test_plan_by_hand():
    sizes = SIZES["cpu"]  # 4 patches of 32x32: a 64th of the paper's batch
    rows = {f"teacher-stage-{stage}": {PUBLISHED: row(1.0, 1.0), OURS: row(0.25 * stage, 0.5)} for stage in (1, 2)}
    plan = {(p["who"], p["count"]): p for p in growth.plan(rows, sizes, counts=(1, 8), measured=True)}
    assert plan[OURS, 1]["hours"] == pytest.approx((97_000 * 0.25 + 582_000 * 0.5) * 64 / 3600)
    weights = sum(p.nbytes for p in make_student(sizes).parameters())
    exchange = 2 * 7 / 8 * weights / growth.BANDWIDTH + growth.EXCHANGES * growth.LATENCY
    assert plan[OURS, 8]["hours"] == pytest.approx((97_000 * (2 + exchange) + 582_000 * (4 + exchange)) / 3600)
    assert plan[PUBLISHED, 8]["cost"] == pytest.approx(plan[PUBLISHED, 8]["hours"] * 8 * growth.PRICE)
    assert all(p["kind"] == "teacher" for p in plan.values())  # the student was not measured
    counted = {"teacher-stage-1": {OURS: dict(gmacs=3.0)}, "teacher-stage-2": {OURS: dict(gmacs=40.0)}}
    (one,) = growth.plan(counted, sizes, counts=(1,), measured=False)
    assert one["hours"] == pytest.approx((97_000 * 3 + 582_000 * 40) / growth.RATE * 64 / 3600)


# --- memory ---


def test_kept_bytes_grow_with_the_batch_and_shrink_with_checkpointing():
    network = dict(SIZES["tiny"].network, num_group=4, num_block=2)
    one, two = (growth.kept_by_student(Sizes(batch=b, lr=16, network=network), CPU) for b in (1, 2))
    assert one < two < 2 * one  # weights are kept once
    estimates = growth.estimate_memory(Sizes(network=network), batch=64, lr=16)
    gigabytes = {e.options: e.gigabytes for e in estimates}
    parameters = sum(p.nbytes for p in make_student(Sizes(network=network)).parameters())
    assert gigabytes["off"] == pytest.approx((4 * parameters + one + 63 * (two - one)) / 1e9)
    assert gigabytes["amp: bf16"] < gigabytes["off"] and gigabytes["checkpointing"] < 0.6 * gigabytes["off"]


# --- reduced precision ---


def test_psnr_of_the_rounded_network(tmp_path, photo):
    """Against the mean squared error of the luma by hand, and float32 against itself."""
    folder = tmp_path / "images"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), photo(1, 48, 64)[..., ::-1])
    weights = tmp_path / "student.pth"
    torch.save({"params": make_student(SIZES["tiny"]).state_dict()}, weights)
    results = {p["precision"]: p for p in precision.measure(str(weights), folder, CPU)}
    assert list(results) == ["fp32", "bf16", "fp16"] and results["fp32"]["lost"] == 0
    for p in results.values():
        assert math.isfinite(p["psnr"]) and p["lost"] == pytest.approx(results["fp32"]["psnr"] - p["psnr"])
    assert results["bf16"]["lost"] != 0


# --- the report ---


def test_nothing_is_guessed():
    for device in ("cpu", "cuda"):
        text = report.markdown({}, device)
        lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
        measured = [
            line for line in lines if "not measured" not in line and not line.startswith(("| work", "| option"))
        ]
        assert measured == []
        for name, known in ROWS.items():
            if device in known.devices and name != "options":
                assert sum(line.startswith((f"| {known.title} |", f"| {known.title}, ")) for line in lines) == len(
                    known.targets
                )


def test_the_table_says_what_was_reached():
    rows = {
        "degradation": {PUBLISHED: row(1.0, 1.0), OURS: row(0.3, 0.3, fraction=0.25)},
        "kernel-basis": {PUBLISHED: row(1.0, 1.0), OURS: row(0.3, 0.3)},
        "data": {PUBLISHED: {"reason": "no disk"}, OURS: {}},
    }
    lines = report.table({"rows": rows}, "cpu").splitlines()
    found = {
        title: next(line for line in lines if line.startswith(f"| {title}")) for title in ("degr", "kern", "an im")
    }
    assert "0.3 (0.3-0.3) (reached)" in found["degr"] and "25%" in found["degr"]
    assert "(missed)" in found["kern"]
    assert "not measured: no disk" in found["an im"]


def test_figures_go_between_their_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A\n<!-- begin cpu -->\nold\n<!-- end cpu -->\nB\n<!-- begin cuda -->\nold\n<!-- end cuda -->\n")
    report.write_into(page, "cpu", "| new |\n")
    assert page.read_text() == (
        "# A\n<!-- begin cpu -->\n\n| new |\n\n<!-- end cpu -->\nB\n<!-- begin cuda -->\nold\n<!-- end cuda -->\n"
    )
    (tmp_path / "other.md").write_text("<!-- begin cpu -->")
    with pytest.raises(InputError, match=r"has no place for these figures: .* are missing"):
        report.write_into(tmp_path / "other.md", "cpu", "new")


def test_the_documentation_has_places_for_both_devices():
    page = (run.ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert all(f"<!-- {end} {device} -->" in page for end in ("begin", "end") for device in ("cpu", "cuda"))


def test_a_plot_has_a_panel_for_each_series():
    series = [
        dict(name="a", axis="x", x=[1, 10, 100], seconds=[0.1, 1, 10], exponent=1.0),
        dict(name="b", axis="y", x=[1, 2], seconds=[1, 1], exponent=0.0, kept_bytes=[5, 9], memory_exponent=0.8),
    ]
    image = growth_plot(series)
    height, width = image.shape[0] // 2, image.shape[1] // 2
    panels = [image[i * height :, j * width :][:height, :width] for i in range(2) for j in range(2)]
    assert [bool((panel != 255).any()) for panel in panels] == [True, True, True, False]
    blue = np.all(panels[0] == (178, 114, 0), axis=2)
    ys, xs = blue.nonzero()
    assert ys[xs.argmin()] > ys[xs.argmax()]  # larger is higher


# --- the command ---


def test_rows_are_measured_written_and_gone_on_with(tmp_path):
    arguments = ["--sizes", "tiny", "--no-memory", "--budget", "0.01", "--out", str(tmp_path)]
    assert run.main([*arguments, "--rows", "degradation"]) == 0
    assert run.main([*arguments, "--rows", "student-stage-1"]) == 0
    results = json.loads((tmp_path / "cpu.json").read_text())
    assert set(results["rows"]) == {"degradation", "student-stage-1"}
    ours = results["rows"]["student-stage-1"][OURS]
    assert 0 < ours["ratio"] and ours["seconds"]["count"] >= 1 and 0 < ours["fraction"] < 1
    assert results["ceilings"]["gmacs"] > 0 and results["machine"] and results["date"]
    text = (tmp_path / "cpu.md").read_text()
    assert "not measured" in text and "Rows of 2 runs" in text


def test_what_does_not_run_here_is_named(tmp_path, monkeypatch):
    """A form that fails costs its own line, not the others'."""

    def fail():
        raise RuntimeError("no such instruction\nmore")

    forms = Forms({PUBLISHED: lambda: None, OURS: lambda: None, "other": fail}, has_products=False)
    monkeypatch.setitem(run.ROWS, "degradation", Row("degradation", lambda sizes, device: forms))
    arguments = ["--sizes", "tiny", "--no-memory", "--budget", "0.01", "--out", str(tmp_path), "--rows", "degradation"]
    assert run.main(arguments) == 0
    results = json.loads((tmp_path / "cpu.json").read_text())["rows"]["degradation"]
    assert results["other"] == {"reason": "RuntimeError: no such instruction"} and results[OURS]["ratio"] > 0


def test_without_the_first_form_nothing_is_compared_and_the_run_goes_on(tmp_path, monkeypatch):
    def fail():
        raise RuntimeError("no memory")

    forms = Forms({PUBLISHED: fail, OURS: lambda: None, "hidden": lambda: None}, hidden={"hidden"})
    monkeypatch.setitem(run.ROWS, "degradation", Row("degradation", lambda sizes, device: forms))
    arguments = ["--sizes", "tiny", "--no-memory", "--budget", "0.01", "--out", str(tmp_path)]
    assert run.main([*arguments, "--rows", "degradation", "student-stage-1"]) == 0
    rows = json.loads((tmp_path / "cpu.json").read_text())["rows"]
    assert rows["degradation"][PUBLISHED] == {"reason": "RuntimeError: no memory"}
    assert rows["degradation"][OURS] == rows["degradation"]["hidden"]
    assert "nothing to compare with: 'as published'" in rows["degradation"][OURS]["reason"]
    assert rows["student-stage-1"][OURS]["ratio"] > 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory of a process: Linux alone")
def test_peak_memory_in_a_process_of_its_own():
    printed = run.machine.in_own_process("--peak", "student-stage-2", OURS, "--sizes", "tiny", "--device", "cpu")
    assert printed is not None and 0 < float(printed) < 2000


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--device", "cuda"], "device is 'cuda', but PyTorch finds no GPU here"),
        (["--rows", "precision", "--data", "nowhere"], "nowhere"),
        (["--rows", "precision", "--weights", "none.pth"], "no such checkpoint file: 'none.pth'"),
        (["--quick", "--write-docs"], "--write-docs does not go with --quick"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments, sentence, tmp_path, capsys):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert run.main([*arguments, "--sizes", "tiny", "--out", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_everything_at_tiny_sizes(tmp_path):
    """Compiles, starts processes and ranks: what `make bench` does, in a minute."""
    assert run.main(["--sizes", "tiny", "--budget", "0.01", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "cpu.json").read_text())
    assert {row for row, known in ROWS.items() if "cpu" in known.devices} == set(results["rows"])
    assert results["growth"] and results["memory"]
    assert cv2.imread(str(tmp_path / "growth_cpu.png")) is not None
