"""``lightbsr prepare``: BasicSR's sub-images and LMDB format; a run that fails or is killed leaves no LMDB."""

import os
import random
import shutil
import signal

import cv2
import lmdb
import numpy as np
import pytest
import torch

import lightbsr_cli as cli
from lightbsr import prepare as module
from lightbsr.prepare import cut, find_images, prepare, starts
from lightbsr_compat import InputError, has_basicsr

SMALL = dict(size=48, step=24)
SIZES = {"a": (100, 130), "b": (48, 48), "c": (40, 90), "d": (77, 200), "e": (64, 60), "f": (97, 73)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photo):
    """Six images of different sizes: in a sub-folder, JPEG, grey, with alpha, of 16 bits."""
    root = tmp_path_factory.mktemp("hr")
    (root / "more").mkdir()
    images = {name: photo(i, *size)[..., ::-1] for i, (name, size) in enumerate(SIZES.items())}
    cv2.imwrite(str(root / "a.png"), images["a"])
    cv2.imwrite(str(root / "more" / "b.png"), images["b"])
    cv2.imwrite(str(root / "c.JPG"), images["c"])
    cv2.imwrite(str(root / "d.png"), images["d"][..., 0])
    cv2.imwrite(str(root / "e.png"), np.dstack([images["e"], np.full((64, 60), 255, np.uint8)]))
    cv2.imwrite(str(root / "f.png"), images["f"].astype(np.uint16) * 256)
    (root / "readme.txt").write_text("no image")
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory, folder):
    target = tmp_path_factory.mktemp("whole") / "hr.lmdb"
    prepare(str(folder), str(target), **SMALL, workers=2)
    return target


def entries(path):
    with lmdb.open(str(path), readonly=True, lock=False) as database, database.begin() as reading:
        return {key.decode(): bytes(value) for key, value in reading.cursor()}


def decoded(png):
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


def refused(capsys, *words):
    """Run a command that fails with status 2; its standard error."""
    assert cli.main(["prepare", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_starts_are_those_of_basicsrs_script():
    """Worked examples of extract_subimages.py: crop_size 480, step 240."""
    half = dict(size=480, step=240)
    assert starts(1356, **half) == [0, 240, 480, 720, 876]
    assert starts(960, **half) == [0, 240, 480]  # the last one ends at the edge by itself
    assert starts(480, **half) == starts(300, **half) == [0]
    assert starts(1236, **half, thresh=36) == [0, 240, 480, 720]  # 36 pixels are left out
    assert starts(1236, **half, thresh=35) == [0, 240, 480, 720, 756]


def test_sub_images_cover_every_pixel():
    draw = random.Random(0)
    for _ in range(100):
        size = draw.randint(1, 60)
        seen = np.zeros((draw.randint(1, 200), draw.randint(1, 200), 1), int)
        for part in cut(seen, size=size, step=draw.randint(1, size)):
            part += 1  # a view
        assert seen.all()


def test_every_entry_is_its_part_of_the_image(folder, whole):
    found = entries(whole)
    for path in find_images(str(folder)):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)  # 8 bits, three channels
        number = 0
        for top in sorted({*range(0, max(1, image.shape[0] - 47), 24), max(0, image.shape[0] - 48)}):
            for left in sorted({*range(0, max(1, image.shape[1] - 47), 24), max(0, image.shape[1] - 48)}):
                number += 1
                part = decoded(found.pop(f"{path.stem}_s{number:03d}"))
                assert part.dtype == np.uint8 and np.array_equal(part, image[top : top + 48, left : left + 48])
    assert not found


@pytest.mark.skipif(not has_basicsr(), reason="needs BasicSR")
def test_basicsr_and_our_data_set_read_it(whole, folder, tmp_path):
    from basicsr.data.data_util import paired_paths_from_lmdb
    from basicsr.utils import FileClient

    from lightbsr_data import DegradationPriorDataset

    found = entries(whole)
    # BasicSR keeps an LMDB open, which can be done once in a process: copies.
    copies = [shutil.copytree(whole, tmp_path / f"{number}.lmdb") for number in range(2)]
    pairs = paired_paths_from_lmdb([str(whole), str(whole)], ["lq", "gt"])
    assert [pair["gt_path"] for pair in pairs] == sorted(found)
    client = FileClient("lmdb", db_paths=[str(copies[0])], client_keys=["gt"])
    assert bytes(client.get("d_s003", "gt")) == found["d_s003"]

    options = dict(
        dataroot_gt=str(copies[1]), io_backend={"type": "lmdb"}, gt_size=40, num_views=2, degradation="iso", scale=4
    )
    dataset = DegradationPriorDataset(options)
    assert dataset.images.names == sorted(found)
    assert set(dataset.images.sizes) == {(48, 48), (40, 48)}
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True, num_workers=1)))
    assert batch["gt"].shape == (8, 2, 3, 40, 40)

    prepare(str(folder), str(tmp_path / "images.lmdb"), size=0)
    from_folder = DegradationPriorDataset({**options, "dataroot_gt": str(folder), "io_backend": {"type": "disk"}})
    from_lmdb = DegradationPriorDataset({**options, "dataroot_gt": str(tmp_path / "images.lmdb")})
    assert from_lmdb.images.names == ["a", "b", "c", "d", "e", "f"]  # with the one that lies in a sub-folder
    for name in from_folder.images.names:
        there, here = (d.images.read(d.images.names.index(name)) for d in (from_folder, from_lmdb))
        assert np.array_equal(there, here)


@pytest.mark.skipif(not has_basicsr(), reason="needs BasicSR")
def test_meta_info_is_the_one_that_basicsrs_tool_writes(folder, tmp_path):
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    names = ["a.png", "more/b.png"]
    (tmp_path / "hr" / "more").mkdir(parents=True)
    for name in names:
        shutil.copy(folder / name, tmp_path / "hr" / name)
    make_lmdb_from_imgs(str(tmp_path / "hr"), str(tmp_path / "stock.lmdb"), names, ["a", "b"], map_size=2**24)
    prepare(str(tmp_path / "hr"), str(tmp_path / "ours.lmdb"), size=0)
    stock, ours = ((tmp_path / name / "meta_info.txt").read_text() for name in ("stock.lmdb", "ours.lmdb"))
    assert ours == stock == "a.png (100,130,3) 1\nb.png (48,48,3) 1\n"


def test_the_content_does_not_depend_on_the_number_of_threads(folder, whole, tmp_path):
    for workers in (1,):
        target = tmp_path / f"{workers}.lmdb"
        prepare(str(folder), str(target), **SMALL, workers=workers)
        assert entries(target) == entries(whole)
        assert (target / "meta_info.txt").read_bytes() == (whole / "meta_info.txt").read_bytes()
        assert sorted(path.name for path in target.iterdir()) == ["data.mdb", "meta_info.txt"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("moment", ["third image", "meta_info", "rename"])
def test_a_killed_run_leaves_no_lmdb_and_the_next_removes_what_is_left(folder, whole, tmp_path, monkeypatch, moment):
    def kill(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    target, threads = tmp_path / "hr.lmdb", cv2.getNumThreads()
    cv2.setNumThreads(1)  # OpenCV's threads are not in the copy of the process, which would wait for them for ever
    child = os.fork()
    if child == 0:
        put, calls = module._put, iter(range(2))
        if moment == "third image":
            module._put = lambda *args: kill() if next(calls, None) is None else put(*args)
        elif moment == "meta_info":
            module.Path.write_text = kill
        else:
            module.os.replace = kill
        prepare(str(folder), str(target), **SMALL, workers=2)
        os._exit(0)
    cv2.setNumThreads(threads)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [f"hr.lmdb.unfinished-{child}"]
    prepare(str(folder), str(target), **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["hr.lmdb"]
    assert entries(target) == entries(whole)


@pytest.mark.parametrize("error", [lmdb.DiskError("No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interruption_leaves_nothing(folder, tmp_path, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(module, "_put", fail)
    with pytest.raises((InputError, KeyboardInterrupt)) as caught:
        prepare(str(folder), str(tmp_path / "hr.lmdb"), **SMALL)
    if isinstance(error, lmdb.Error):
        assert isinstance(caught.value, InputError) and "MiB of the disk are free" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_lmdb_grows_beyond_its_first_address_space(tmp_path):
    with lmdb.open(str(tmp_path), map_size=2**15, lock=False) as database:
        images = [[module.SubImage(f"{i}_s001", 1, 1, bytes([i]) * 50_000)] for i in range(20)]
        for image in images:
            module._put(database, image)
    assert entries(tmp_path) == {image[0].key: image[0].png for image in images}


def test_all_bad_images_are_named_and_nothing_is_written(folder, tmp_path, capsys):
    copy = tmp_path / "hr"
    shutil.copytree(folder, copy)
    (copy / "text.png").write_text("no image")
    (copy / "empty.jpg").touch()
    (copy / "cut.png").write_bytes((folder / "a.png").read_bytes()[:-40])
    os.mkfifo(copy / "pipe.png")
    (copy / "loop").symlink_to(".")
    (copy / "other_loop").symlink_to(copy)
    error = refused(capsys, copy, tmp_path / "x.lmdb", "--size", 48)
    for name in ("text.png", "empty.jpg", "cut.png"):
        assert f"{name}' cannot be read: " in error
    assert "pipe.png' is no regular file" in error
    assert len(error.splitlines()) == 4
    for number in range(25):
        (copy / f"{number}.png").touch()
    lines = refused(capsys, copy, tmp_path / "x.lmdb", "--size", 48).splitlines()
    assert len(lines) == 21 and lines[-1].endswith("... and 9 more")
    assert [path.name for path in tmp_path.iterdir()] == ["hr"]


def test_names_that_cannot_be_keys_are_named(tmp_path, photo, capsys):
    (tmp_path / "hr" / "more").mkdir(parents=True)
    for name in ("a.b.png", "süß.png", "same.png", "more/same.jpg"):
        cv2.imencode(".png", photo(0, 50, 50))[1].tofile(str(tmp_path / "hr" / name))
    error = refused(capsys, tmp_path / "hr", tmp_path / "x.lmdb")
    assert "a.b.png' cannot be a key" in error and "süß.png' cannot be a key" in error
    assert "more/same.jpg' shares its name" in error and "hr/same.png' shares its name" in error
    assert len(error.splitlines()) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hr", "x.lmdb", "--step", 481], "step is 481, but must be from 1 to size, 480"),
        (["hr", "x.lmdb", "--step", 0], "step is 0, but must be from 1 to size, 480"),
        (["hr", "x"], "must end with .lmdb"),
        (["nowhere", "x.lmdb"], "no such folder of images"),
        (["empty", "x.lmdb"], "holds no image"),
        (["hr", "file/x.lmdb"], "cannot be written: Not a directory"),
        (["hr", "there.lmdb"], "exists: name another, or remove it"),
        (["hr", "there.lmdb/"], "exists: name another, or remove it"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(folder, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    os.symlink(folder, "hr")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "there.lmdb").write_text("mine")
    assert message in refused(capsys, *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "hr", "there.lmdb"]
    assert (tmp_path / "there.lmdb").read_text() == "mine"
