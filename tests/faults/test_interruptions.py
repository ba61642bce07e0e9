"""Training runs that are interrupted and resumed end with the weights of an uninterrupted run, bit by bit."""

import os
import random
import shutil
import signal
import subprocess
import time
import zipfile

import pytest
import tiny
import torch

TOTAL_ITER = 14


def options(images, *changes, total_iter=TOTAL_ITER, workers=0):
    """LightBSR's teacher, five iterations an epoch and two items left over, a checkpoint of every third iteration."""
    return tiny.options(
        "lightbsr_teacher_x4_aniso_noise",
        images,
        {"datasets": {"train": {"num_worker_per_gpu": workers, "dataset_enlarge_ratio": 3.6}}},
        {"train": {"total_iter": total_iter, "idr_pretrain_iter": total_iter // 2}},
        {"logger": {"save_checkpoint_freq": 3}, "val": {"val_freq": 10}},
        *changes,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_images):
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    done = tiny.train(folder, options(small_images))
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def finish(folder, opt, whole, last_state=12):
    """Resume to the end, and compare with the uninterrupted run."""
    done = tiny.train(folder, opt, "--auto_resume")
    assert done.returncode == 0, done.stderr[-2000:]
    assert tiny.compare(whole, folder, last_state) == []
    assert not list(tiny.experiment(folder).rglob(".unfinished-*"))


def kill(folder, opt, fault):
    done = tiny.train(folder, opt, "--auto_resume", fault=fault)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    for pattern in ("models/net_*.pth", "training_states/[0-9]*.state"):
        for path in tiny.experiment(folder).glob(pattern):
            torch.load(path, weights_only=True)  # no file is ever damaged


def test_killed_in_a_step_and_in_a_save(tmp_path, small_images, whole):
    kill(tmp_path, options(small_images), "kill-in-step:8:0.005")
    kill(tmp_path, options(small_images, workers=1), "kill-in-save:9")
    finish(tmp_path, options(small_images), whole)


@pytest.mark.slow
def test_20_kills_at_random_moments(tmp_path, small_images):
    whole, killed, draw = tmp_path / "whole", tmp_path / "killed", random.Random(0)
    done = tiny.train(whole, options(small_images, total_iter=300))
    assert done.returncode == 0, done.stderr[-2000:]
    for _ in range(20):
        start = tiny.last_iteration(killed) + draw.randint(1, 9)
        faults = (f"kill-in-step:{start}:{draw.uniform(0, 0.05):.4f}", f"kill-in-save:{draw.randint(1, 16)}")
        kill(killed, options(small_images, total_iter=300, workers=draw.choice([0, 1, 2])), draw.choice(faults))
    finish(killed, options(small_images, total_iter=300), whole, 300)
    names = {p.relative_to(tiny.experiment(whole)) for p in tiny.experiment(whole).glob("*/*[0-9].[ps]*")}
    assert all((tiny.experiment(killed) / name).is_file() for name in names)


@pytest.mark.slow
def test_the_real_world_setting_with_its_pair_pool(tmp_path, small_lmdb):
    changes = {
        "datasets": {"train": {"pool_size": 6, "batch_size_per_gpu": 2, "num_worker_per_gpu": 1}},
        "train": {"total_iter": 14, "scheduler": {"milestones": [8]}},
        "logger": {"save_checkpoint_freq": 3},
    }
    opt = tiny.options("kdsr_teacher_x4_real_world", small_lmdb, changes)
    del opt["val"], opt["datasets"]["val"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = tiny.train(whole, opt)
    assert done.returncode == 0, done.stderr[-2000:]
    for fault in ("kill-in-step:8:0.01", "kill-in-save:7"):
        kill(killed, opt, fault)
    finish(killed, opt, whole)
    pools = [tiny.experiment(folder) / "training_states" / "12.rank0.pth" for folder in (whole, killed)]
    assert tiny.differences(*(torch.load(pool, weights_only=True) for pool in pools)) == []


@pytest.mark.parametrize(
    "number, workers", [(signal.SIGTERM, 1), pytest.param(signal.SIGINT, 0, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_exits_with_75_and_old_checkpoints_are_removed(
    tmp_path, small_images, whole, number, workers
):
    opt = options(small_images, {"logger": {"keep_checkpoints": 2}}, workers=workers)
    done = tiny.train(tmp_path, opt, fault=f"signal-in-step:11:{int(number)}")
    assert done.returncode == 75
    assert "Traceback" not in done.stderr
    assert tiny.last_iteration(tmp_path) == 11
    finish(tmp_path, opt, whole)
    folder = tiny.experiment(tmp_path)
    assert sorted(p.name for p in folder.glob("training_states/[0-9]*.state")) == ["11.state", "12.state"]
    assert sorted(p.name for p in folder.glob("models/net_g_[0-9]*.pth")) == ["net_g_11.pth", "net_g_12.pth"]


@pytest.mark.slow
def test_a_signal_to_the_whole_group_leaves_the_workers_alive(tmp_path, small_images, whole):
    """As a terminal's Ctrl-C, and SLURM's SIGTERM, reach the data-loading workers too."""
    opt = options(small_images, workers=2)
    words = tiny.command(tmp_path, opt, fault="slow-steps:0.2")
    process = subprocess.Popen(
        words, cwd=tmp_path, env=tiny.environment(), stderr=subprocess.PIPE, start_new_session=True
    )
    while tiny.last_iteration(tmp_path) < 3 and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 75
    assert b"Traceback" not in process.stderr.read()
    finish(tmp_path, opt, whole)


@pytest.mark.slow
def test_a_second_signal_stops_at_once_and_a_time_limit_in_order(tmp_path, small_images, whole):
    words = tiny.command(tmp_path / "signals", options(small_images), fault="slow-steps:60")
    process = subprocess.Popen(words, cwd=tmp_path / "signals", env=tiny.environment(), stderr=subprocess.PIPE)
    while not list(tmp_path.glob("signals/experiments/*/*.log")) and process.poll() is None:
        time.sleep(0.1)
    time.sleep(5)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert b"Traceback" not in process.stderr.read()

    opt = options(small_images)
    done = tiny.train(tmp_path / "limit", opt, "--time-limit", "2", fault="slow-steps:1")
    assert done.returncode == 75
    assert "the time limit is reached" in done.stderr and "Traceback" not in done.stderr
    assert tiny.last_iteration(tmp_path / "limit") < TOTAL_ITER
    finish(tmp_path / "limit", opt, whole)


def the_error(done):
    errors = [line for line in done.stderr.splitlines() if line.startswith("lightbsr: error")]
    assert done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    return errors[0]


def test_a_full_disk_is_one_error_and_damages_no_file(tmp_path, small_images, whole):
    opt = options(small_images)
    assert "No space left on device" in the_error(tiny.train(tmp_path, opt, fault="full-disk:4"))
    assert tiny.last_iteration(tmp_path) == 3
    finish(tmp_path, opt, whole)


def test_a_loss_that_is_not_finite_stops_training_and_is_not_saved(tmp_path, small_images):
    error = the_error(tiny.train(tmp_path, options(small_images), fault="not-finite:8"))
    assert "iteration 8" in error and "l_contrast is nan" in error
    assert tiny.last_iteration(tmp_path) == 6


@pytest.mark.slow
def test_a_dead_worker_is_one_error(tmp_path, small_images, whole):
    opt = options(small_images, workers=1)
    done = tiny.train(tmp_path, opt, fault="dead-worker:9")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "a data-loading worker died" in done.stderr
    finish(tmp_path, opt, whole)


# --- states on the disk ---


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    """Flip a bit of a tensor's values, which PyTorch's reader does not check."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content[largest.header_offset + 250] ^= 4  # behind its header and padding, 192 bytes at most
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, lambda p: p.write_bytes(b""), lambda p: p.unlink()])
@pytest.mark.parametrize("file", ["models/net_g_12.pth", "training_states/12.state"])
def test_a_damaged_newest_state_is_named_and_the_previous_one_is_used(tmp_path, whole, capsys, damage, file):
    from lightbsr_models.checkpoints import newest_state

    folder = tmp_path / "run"
    shutil.copytree(tiny.experiment(whole), folder)
    paths = dict(training_states=str(folder / "training_states"), models=str(folder / "models"))
    gone = damage.__code__.co_names == ("unlink",) and file.endswith(".state")
    damage(folder / file)
    assert newest_state(dict(network_g={}, path=paths)).endswith("9.state")
    assert gone or file.split("/")[1] in capsys.readouterr().out
