"""Two processes over gloo: one queue, the losses of one process with the whole batch, one end and one resume."""

import json
import signal

import pytest
import tiny_runs as tiny
import torch

ITERATIONS = 50


def options(images, *, batch, batch_norm, total_iter=ITERATIONS):
    opt = tiny.options(images, total_iter=total_iter, batch=batch)
    opt["datasets"]["train"].update(degradation="iso", dataset_enlarge_ratio=40)  # no noise: it is drawn by each rank
    opt["train"]["batch_norm"] = batch_norm
    return opt


@pytest.fixture(scope="module", params=["sync", "per_rank"])
def two_ranks(request, tmp_path_factory, small_images):
    """(folder, batch_norm) of a run on two processes with a batch of 4 each."""
    folder = tmp_path_factory.mktemp(request.param)
    opt = options(small_images, batch=4, batch_norm=request.param)
    done = tiny.train(folder, opt, fault="record", processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, request.param


def test_both_ranks_hold_the_same_queue(two_ranks, figures):
    folder, _ = two_ranks
    queues = [torch.load(folder / f"queue_{rank}.pt") for rank in (0, 1)]
    assert torch.equal(*queues)
    assert len(torch.unique(queues[0].T, dim=0)) == 40  # every key of either rank once
    losses = json.loads((folder / "losses_0.json").read_text())
    assert len(losses) == ITERATIONS


def test_with_sync_the_losses_are_those_of_one_process(tmp_path, two_ranks, small_images):
    folder, batch_norm = two_ranks
    if batch_norm != "sync":
        pytest.skip("per_rank: other batch statistics, so other losses")
    done = tiny.train(tmp_path, options(small_images, batch=8, batch_norm="sync"), fault="record")
    assert done.returncode == 0, done.stderr[-3000:]
    ours, whole = (json.loads((path / "losses_0.json").read_text()) for path in (folder, tmp_path))
    for iteration, (a, b) in enumerate(zip(ours, whole, strict=True), 1):
        assert a == pytest.approx(b, rel=1e-9), iteration


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_both_and_the_run_goes_on_as_if_nothing_had_happened(
    tmp_path, small_images, figures
):
    opt = options(small_images, batch=4, batch_norm="per_rank", total_iter=24)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert tiny.train(whole, opt, processes=2).returncode == 0
    done = tiny.train(stopped, opt, fault=f"signal-in-step-of-rank-1:11:{int(signal.SIGTERM)}", processes=2)
    assert done.returncode != 0 and "exitcode  : 75" in done.stderr  # torchrun's own status is 1
    assert tiny.last_iteration(stopped) == 11
    assert tiny.train(stopped, opt, "--auto_resume", processes=2).returncode == 0
    assert tiny.compare(whole, stopped, 24) == []
    figures["signals survived bit by bit"] += 1


@pytest.mark.slow
def test_a_dead_rank_ends_the_run_and_loses_nothing(tmp_path, small_images, figures):
    opt = options(small_images, batch=4, batch_norm="sync", total_iter=24)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert tiny.train(whole, opt, processes=2).returncode == 0
    done = tiny.train(broken, opt, fault="dead-rank:11", processes=2)
    assert done.returncode != 0
    assert 0 < tiny.last_iteration(broken) < 24
    assert tiny.train(broken, opt, "--auto_resume", processes=2).returncode == 0
    assert tiny.compare(whole, broken, 24) == []
    figures["faults injected: dead ranks"] += 1
