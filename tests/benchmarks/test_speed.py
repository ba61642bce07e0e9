"""The benchmark's table at tiny sizes, its arithmetic, and the forward passes of an iteration on both sides."""

from collections import Counter

import pytest
import speed
import torch
from torch.nn.modules.module import register_module_forward_hook

from lightbsr_arch.idr import IDRConverter, IDREstimator
from lightbsr_arch.lightbsr_arch import IDRGuidedSRNetwork
from lightbsr_compat import InputError

PARTS = {IDREstimator: "estimator", IDRConverter: "converter", IDRGuidedSRNetwork: "SR network"}
VIEWS = 4


@pytest.fixture
def passes():
    """``passes(iterate)``: forward passes of each part of all networks in one iteration."""

    def count(iterate):
        iterate()  # enters the stage
        calls = Counter()
        hook = register_module_forward_hook(lambda module, *_: calls.update([PARTS.get(type(module))]))
        iterate()
        hook.remove()
        del calls[None]
        return dict(calls)

    return count


def pair(kind, stage):
    return speed.training(kind, stage, speed.TINY, torch.device("cpu"))


def test_forward_passes_of_the_teachers_iteration(passes):
    contrast = {"estimator": 2 * VIEWS}  # queries and keys
    assert passes(pair("teacher", 1).ours) == contrast
    assert passes(pair("teacher", 2).ours) == contrast | {"converter": 1, "SR network": 1}


def test_forward_passes_of_the_students_iteration(passes):
    distillation = {"estimator": 2, "converter": 2}  # the student's and the teacher's
    assert passes(pair("student", 1).ours) == distillation
    assert passes(pair("student", 2).ours) == distillation | {"SR network": 1}


def test_forward_passes_of_the_released_procedure(passes):
    """The teacher's view 0 passes the query estimator twice; the student's stage 1 runs whole networks."""
    assert passes(pair("teacher", 2).theirs) == {"estimator": 2 * VIEWS + 1, "converter": 1, "SR network": 1}
    assert passes(pair("student", 1).theirs) == {"estimator": 2, "converter": 2, "SR network": 2}


def test_whole_training_weighs_the_stages_by_the_papers_iterations():
    times = {"teacher-1": [(1, 2)], "teacher-2": [(3, 6)], "student-1": [(0, 1)], "student-2": [(2, 4)]}
    ours, theirs = speed.whole_training(times)[0]
    assert ours == pytest.approx((97_000 * (1 + 0) + 582_000 * (3 + 2)) / 3600)
    assert theirs == pytest.approx((97_000 * (2 + 1) + 582_000 * (6 + 4)) / 3600)


def test_the_ratio_is_the_median_of_the_rounds_ratios():
    row = speed.table_row("work", [(1.0, 2.0), (3.0, 4.0), (8.0, 8.0)], "s")
    assert row == "| work | 3 s | 4 s | 0.75 (0.5-1) |"


def test_table(monkeypatch, capsys):
    monkeypatch.setattr(speed, "keep_freed_memory", lambda: None)  # it would hold for all tests
    rows = [
        row for row in speed.ROWS if not row.startswith(("onnx", "openvino", "compile"))
    ]  # which take long to start
    speed.main(["--quick", "--rows", *rows, "--threads", str(torch.get_num_threads())])
    printed = capsys.readouterr().out
    assert "not measured" not in printed and f"{torch.get_num_threads()} threads" in printed
    lines = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("|")]
    titles = [speed.ROWS[row][0] for row in rows]
    assert [line[0].strip() for line in lines[2:-1]] == titles and "whole training" in lines[-1][0]
    assert all(len(line) == 4 and float(line[3].split()[0]) > 0 for line in lines[2:])


def test_a_row_that_cannot_be_measured_says_why(monkeypatch, capsys):
    def refuse(*args, **options):
        raise InputError("no exporter")

    monkeypatch.setattr(speed, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(speed, "to_onnx", refuse)
    speed.main(["--quick", "--rows", "onnx-256", "kernel-basis"])
    lines = capsys.readouterr().out.splitlines()
    assert "ONNX Runtime | not measured: no exporter" in lines[-2] and lines[-1].startswith("| kernel basis")
