"""Training runs that are killed, stopped or starved, and resumed: they must end as if nothing had happened."""

import os
import random
import shutil
import signal
import subprocess
import time
import zipfile

import pytest
import tiny_runs as tiny

TOTAL_ITER = 24


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_images):
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    done = tiny.train(folder, tiny.options(small_images, total_iter=TOTAL_ITER))
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def options(images, **changes):
    return tiny.options(images, total_iter=TOTAL_ITER, **changes)


def finish(folder, opt, whole):
    """Resume to the end, and compare with the uninterrupted run."""
    done = tiny.train(folder, opt, "--auto_resume")
    assert done.returncode == 0, done.stderr[-2000:]
    assert tiny.compare(whole, folder, TOTAL_ITER) == []
    leftover = [path for path in tiny.experiment(folder).rglob(".unfinished-*")]
    assert not leftover


def kill_and_resume(folder, images, whole, total_iter, faults):
    """Run until all of the faults have killed it, then to the end; returns how many did."""
    draw = random.Random(0)
    survived = 0
    for fault in faults:
        opt = tiny.options(images, total_iter=total_iter, workers=draw.choice([0, 1, 2]))
        done = tiny.train(folder, opt, "--auto_resume", fault=fault(draw, tiny.last_iteration(folder)))
        assert done.returncode in (0, -signal.SIGKILL), done.stderr[-2000:]
        survived += done.returncode != 0
        for kind in ("models/net_*.pth", "training_states/[0-9]*.state"):
            for path in tiny.experiment(folder).glob(kind):
                tiny.torch.load(path, weights_only=True)  # no file is ever damaged
    done = tiny.train(folder, tiny.options(images, total_iter=total_iter), "--auto_resume")
    assert done.returncode == 0, done.stderr[-2000:]
    assert tiny.compare(whole, folder, total_iter) == []
    return survived


def test_killed_in_a_step_and_in_a_save(tmp_path, small_images, whole, figures):
    faults = [lambda draw, start: "kill-in-step:8:0.005", lambda draw, start: "kill-in-save:9"]
    assert kill_and_resume(tmp_path, small_images, whole, TOTAL_ITER, faults) == 2
    figures["kill -9 survived bit by bit"] += 2


@pytest.mark.slow
def test_20_kills_at_random_moments(tmp_path, small_images, figures):
    total_iter = 300
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = tiny.train(whole, tiny.options(small_images, total_iter=total_iter))
    assert done.returncode == 0, done.stderr[-2000:]
    survived = kill_and_resume(killed, small_images, whole, total_iter, [tiny.random_fault] * 20)
    assert survived == 20
    figures["kill -9 survived bit by bit"] += survived
    names = {
        p.relative_to(tiny.experiment(f)) for f in (whole, killed) for p in tiny.experiment(f).glob("*/*[0-9].[ps]*")
    }
    lost = [name for name in names if not (tiny.experiment(killed) / name).is_file()]
    assert lost == []


@pytest.mark.slow
def test_the_real_world_setting_with_its_pair_pool(tmp_path, small_lmdb, figures):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = tiny.train(whole, tiny.real_world_options(small_lmdb, total_iter=14))
    assert done.returncode == 0, done.stderr[-2000:]
    for fault in ("kill-in-step:8:0.01", "kill-in-save:7"):
        opt = tiny.real_world_options(small_lmdb, total_iter=14, workers=1)
        assert tiny.train(killed, opt, "--auto_resume", fault=fault).returncode == -signal.SIGKILL
    done = tiny.train(killed, opt, "--auto_resume")
    assert done.returncode == 0, done.stderr[-2000:]
    assert tiny.compare(whole, killed, 12) == []
    pools = [tiny.experiment(folder) / "training_states" / "12.rank0.pth" for folder in (whole, killed)]
    assert tiny.differences(*(tiny.torch.load(pool, weights_only=True) for pool in pools)) == []
    figures["kill -9 survived bit by bit"] += 2


@pytest.mark.parametrize(
    "number, workers", [(signal.SIGTERM, 1), pytest.param(signal.SIGINT, 0, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_exits_with_75(tmp_path, small_images, whole, figures, number, workers):
    opt = options(small_images, workers=workers)
    done = tiny.train(tmp_path, opt, fault=f"signal-in-step:11:{int(number)}")
    assert done.returncode == 75
    assert "Traceback" not in done.stderr
    assert tiny.last_iteration(tmp_path) == 11
    finish(tmp_path, opt, whole)
    figures["signals survived bit by bit"] += 1


@pytest.mark.slow
def test_a_signal_to_the_whole_group_leaves_the_workers_alive(tmp_path, small_images, whole, figures):
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
    figures["signals survived bit by bit"] += 1


def test_a_time_limit_saves_and_exits_with_75(tmp_path, small_images, whole):
    opt = options(small_images)
    done = tiny.train(tmp_path, opt, "--time-limit", "2", fault="slow-steps:1")
    assert done.returncode == 75
    assert "the time limit is reached" in done.stderr and "Traceback" not in done.stderr
    assert tiny.last_iteration(tmp_path) < TOTAL_ITER
    finish(tmp_path, opt, whole)


@pytest.mark.slow
def test_a_second_signal_stops_at_once(tmp_path, small_images):
    words = tiny.command(tmp_path, options(small_images), fault="slow-steps:60")
    process = subprocess.Popen(words, cwd=tmp_path, env=tiny.environment(), stderr=subprocess.PIPE)
    while not tiny.experiment(tmp_path).is_dir() and process.poll() is None:
        time.sleep(0.1)
    time.sleep(3)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize("file", [pytest.param(3, marks=pytest.mark.slow), 4])
def test_a_full_disk_is_one_sentence_and_damages_nothing(tmp_path, small_images, whole, figures, file):
    opt = options(small_images)
    done = tiny.train(tmp_path, opt, fault=f"full-disk:{file}")
    assert done.returncode == 2
    error = [line for line in done.stderr.splitlines() if line.startswith("lightbsr: error")]
    assert len(error) == 1 and "No space left on device" in error[0]
    assert "Traceback" not in done.stderr
    assert tiny.last_iteration(tmp_path) == 3
    finish(tmp_path, opt, whole)
    figures["faults injected: full disk"] += 1


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    """Flip bits of a tensor's numbers, where PyTorch itself does not look."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content[largest.header_offset + 250] ^= 4  # behind its header and padding, 192 bytes at most
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, lambda p: p.write_bytes(b""), lambda p: p.unlink()])
@pytest.mark.parametrize("file", ["models/net_g_24.pth", "training_states/24.state"])
def test_a_damaged_newest_state_is_named_and_the_one_before_is_used(tmp_path, whole, figures, damage, file):
    import basicsr.train

    shutil.copytree(tiny.experiment(whole), tiny.experiment(tmp_path))
    folder = tiny.experiment(tmp_path)
    paths = dict(training_states=str(folder / "training_states"), models=str(folder / "models"))
    opt = dict(auto_resume=True, network_g={}, path=paths | dict(resume_state=None))
    damage(folder / file)
    state = basicsr.train.load_resume_state(opt)
    assert state["iter"] == 21
    figures["faults injected: damaged checkpoints"] += 1


def test_a_damaged_state_is_named_in_a_warning(tmp_path, whole, capsys):
    import basicsr.train

    test_a_damaged_newest_state_is_named_and_the_one_before_is_used(
        tmp_path, whole, {"faults injected: damaged checkpoints": 0}, truncate, "models/net_g_24.pth"
    )
    assert basicsr.train
    assert "net_g_24.pth" in capsys.readouterr().out


def test_only_the_newest_checkpoints_are_kept(tmp_path, small_images, whole):
    opt = options(small_images, keep_checkpoints=2)
    done = tiny.train(tmp_path, opt)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tiny.experiment(tmp_path)
    assert sorted(p.name for p in (folder / "training_states").iterdir()) == ["21.state", "24.state"]
    assert sorted(p.name for p in (folder / "models").iterdir()) == [
        "net_g_21.pth",
        "net_g_24.pth",
        "net_g_best.pth",
        "net_g_latest.pth",
    ]
    assert tiny.compare(whole, tmp_path, TOTAL_ITER) == []


@pytest.mark.slow
def test_a_dead_worker_is_a_sentence(tmp_path, small_images, whole, figures):
    opt = options(small_images, workers=1)
    done = tiny.train(tmp_path, opt, fault="dead-worker:9")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "a data-loading worker died" in done.stderr
    finish(tmp_path, opt, whole)
    figures["faults injected: dead workers"] += 1
