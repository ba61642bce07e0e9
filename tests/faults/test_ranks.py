"""Two processes over gloo: the same queue, the losses of one process with the whole batch, resume."""

import json
import signal

import pytest
import tiny
import torch

ITERATIONS = 20


def options(images, *, batch, total_iter=ITERATIONS):
    return tiny.options(
        "lightbsr_teacher_x4_iso",  # no noise: it is drawn by each rank
        images,
        {"datasets": {"train": {"batch_size_per_gpu": batch, "dataset_enlarge_ratio": 40}}},
        {"train": {"total_iter": total_iter, "idr_pretrain_iter": total_iter // 2}},
        {"logger": {"save_checkpoint_freq": 3}, "val": None, "datasets": {"val": None}},
    )


def test_two_ranks_train_as_one_process_with_the_whole_batch(tmp_path, small_images):
    two, one = tmp_path / "two", tmp_path / "one"
    done = tiny.train(two, options(small_images, batch=4), fault="record", processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    queues = [torch.load(two / f"queue_{rank}.pt") for rank in (0, 1)]
    assert torch.equal(*queues)
    assert len(torch.unique(queues[0].T, dim=0)) == 40  # every key of either rank once
    done = tiny.train(one, options(small_images, batch=8), fault="record")
    assert done.returncode == 0, done.stderr[-3000:]
    ours, whole = (json.loads((path / "losses_0.json").read_text()) for path in (two, one))
    assert len(ours) == ITERATIONS
    for iteration, (a, b) in enumerate(zip(ours, whole, strict=True), 1):
        assert a == pytest.approx(b, rel=1e-9), iteration


@pytest.mark.slow
@pytest.mark.parametrize("fault", [f"signal-in-step:11:{int(signal.SIGTERM)}", "dead-rank:11"])
def test_a_fault_of_one_rank_ends_the_run_and_it_is_resumed(tmp_path, small_images, fault):
    opt = options(small_images, batch=4)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert tiny.train(whole, opt, processes=2).returncode == 0
    done = tiny.train(broken, opt, fault=fault, processes=2)
    assert done.returncode != 0
    if fault.startswith("signal"):
        assert "exitcode  : 75" in done.stderr  # torchrun's own status is 1
    assert tiny.last_iteration(broken) == (11 if fault.startswith("signal") else 9)
    assert tiny.train(broken, opt, "--auto_resume", processes=2).returncode == 0
    assert tiny.compare(whole, broken, 18) == []
