"""Data preparation: the LMDB holds what it should, whatever happened on the way; nothing else is called finished."""

import json
import os
import random
import shutil
import signal
import time

import cv2
import lmdb
import numpy as np
import pytest
import torch

import lightbsr_cli as cli
from lightbsr import prepare, sub_images
from lightbsr.sub_images import Cutting
from lightbsr_compat import InputError, has_basicsr

SMALL = Cutting(size=48, step=24)
SIZES = {"a": (100, 130), "b": (48, 48), "c": (40, 90), "d": (77, 200), "e": (64, 60), "f": (97, 73)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photo):
    """Six images of different sizes: in a sub-folder, as JPEG, grey, with transparency, with 16 bits."""
    root = tmp_path_factory.mktemp("hr")
    (root / "more").mkdir()
    images = {name: photo(i, *size)[..., ::-1] for i, (name, size) in enumerate(SIZES.items())}
    cv2.imwrite(str(root / "a.png"), images["a"])
    cv2.imwrite(str(root / "more" / "b.png"), images["b"])
    cv2.imwrite(str(root / "c.JPG"), images["c"])
    cv2.imwrite(str(root / "d.png"), images["d"][..., 0])
    cv2.imwrite(str(root / "e.png"), np.dstack([images["e"], np.full((64, 60), 9, np.uint8)]))
    cv2.imwrite(str(root / "f.png"), images["f"].astype(np.uint16) * 256)
    (root / "readme.txt").write_text("no image")
    return root


def make(folder, target, **changes):
    options = dict(cutting=SMALL, min_side=40, workers=2) | changes
    return prepare.prepare(str(folder), str(target), **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, folder):
    """An LMDB that was made in one go."""
    target = tmp_path_factory.mktemp("whole") / "hr.lmdb"
    make(folder, target)
    return target


def entries(path):
    with lmdb.open(str(path), readonly=True, lock=False) as database, database.begin() as reading:
        return {key.decode(): bytes(value) for key, value in reading.cursor()}


def same(one, other):
    assert entries(one) == entries(other)
    for name in ("meta_info.txt", "manifest.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert sorted(p.name for p in other.iterdir()) == ["data.mdb", "manifest.json", "meta_info.txt"]
    return True


def refused(capsys, *words):
    """The sentences that the command line refuses with."""
    assert cli.main(["prepare", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_sub_images_overlap_as_asked_and_reach_the_edges():
    assert Cutting().starts(1356) == [0, 240, 480, 720, 876]
    assert Cutting().starts(960) == [0, 240, 480]  # the last one ends at the edge by itself
    assert Cutting().starts(480) == Cutting().starts(300) == [0]
    assert Cutting(thresh=36).starts(1236) == [0, 240, 480, 720]  # 36 pixels are left over, and left out
    assert Cutting(thresh=35).starts(1236) == [0, 240, 480, 720, 756]
    assert Cutting(size=0).starts(5000) == [0]
    draw = random.Random(0)
    for _ in range(200):
        size = draw.randint(1, 60)
        step, side = draw.randint(1, size), draw.randint(1, 300)
        seen = np.zeros(side, int)
        for start in Cutting(size=size, step=step).starts(side):
            seen[start : start + size] += 1
        assert seen.all() and len(seen) == side


def test_every_sub_image_is_its_part_of_the_image(folder, whole):
    found = entries(whole)
    for name, file in [("a", "a.png"), ("b", "more/b.png"), ("c", "c.JPG"), ("d", "d.png"), ("e", "e.png")]:
        image = cv2.imread(str(folder / file), cv2.IMREAD_COLOR)
        number = 0
        for top in sorted({*range(0, max(1, image.shape[0] - 47), 24), max(0, image.shape[0] - 48)}):
            for left in sorted({*range(0, max(1, image.shape[1] - 47), 24), max(0, image.shape[1] - 48)}):
                number += 1
                part = cv2.imdecode(np.frombuffer(found.pop(f"{name}_s{number:03d}"), np.uint8), cv2.IMREAD_UNCHANGED)
                assert np.array_equal(part, image[top : top + 48, left : left + 48])
    sixteen = cv2.imread(str(folder / "f.png"), cv2.IMREAD_UNCHANGED)  # 97 = 48 + 24 + 24 + 1 rows, 73 columns
    assert sixteen.dtype == np.uint16
    assert sorted(found) == [f"f_s{number:03d}" for number in range(1, 13)]
    part = cv2.imdecode(np.frombuffer(found["f_s012"], np.uint8), cv2.IMREAD_UNCHANGED)
    assert part.dtype == np.uint8 and np.array_equal(part, sixteen[-48:, -48:] // 256)


@pytest.mark.skipif(not has_basicsr(), reason="needs BasicSR")
def test_basicsr_and_our_data_set_read_it(whole, folder, tmp_path):
    from basicsr.data.data_util import paired_paths_from_lmdb
    from basicsr.utils import FileClient

    from lightbsr.training import preflight
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
    assert list(preflight.image_findings(dataset, full=True)) == []
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True, num_workers=1)))
    assert batch["gt"].shape == (8, 2, 3, 40, 40)

    make(folder, tmp_path / "images.lmdb", cutting=Cutting(size=0))
    from_folder = DegradationPriorDataset({**options, "dataroot_gt": str(folder), "io_backend": {"type": "disk"}})
    from_lmdb = DegradationPriorDataset({**options, "dataroot_gt": str(tmp_path / "images.lmdb")})
    assert from_lmdb.images.names == ["a", "b", "c", "d", "e", "f"]  # with the one that lies in a sub-folder
    for name in from_folder.images.names:
        there, here = (d.images.read(d.images.names.index(name)) for d in (from_folder, from_lmdb))
        assert np.array_equal(there, here)


def test_the_content_does_not_depend_on_the_number_of_threads(folder, whole, tmp_path):
    for workers in (1, 5):
        make(folder, tmp_path / f"{workers}.lmdb", workers=workers)
        assert same(whole, tmp_path / f"{workers}.lmdb")


def fork(run):
    """Run in a process of its own; returns its process id."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # ends OpenCV's threads: they would not be in the copy, which would wait for them for ever
    pid = os.fork()
    if pid == 0:
        try:
            run()
        finally:
            os._exit(0)
    cv2.setNumThreads(threads)
    return pid


def killed(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def kill_before(owner, name, calls=1):
    """Make the function send SIGKILL to its own process the n-th time that it is called."""
    stock, left = getattr(owner, name), iter(range(calls - 1, -1, -1))

    def function(*args, **kwargs):
        if next(left, 1) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return stock(*args, **kwargs)

    setattr(owner, name, function)


MOMENTS = [
    ("the first image is looked at", prepare, "inspect_image", 1),
    ("the manifest is written", prepare, "_write_manifest", 1),
    ("the manifest gets its name", os, "replace", 1),
    ("the LMDB is made", prepare, "_fill", 1),
    ("the first transaction", prepare, "_write_some", 1),
    ("a sub-image of the third image is encoded", sub_images.SubImage, "encoded", 17),
    ("the second transaction", prepare, "_write_some", 2),
    ("the last transaction but one", prepare, "_write_some", 3),
    ("the checksum", prepare, "_content_sha256", 1),
    ("meta_info.txt is written", prepare, "atomic_write", 1),
    ("meta_info.txt gets its name", os, "replace", 1),
    ("the manifest is written again", prepare, "_write_manifest", 1),
    ("what is left over is removed", prepare, "remove_unfinished", 1),
    ("the LMDB gets its name", os, "replace", 3),
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_every_step_and_gone_on(folder, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "_COMMIT_BYTES", 1)  # a transaction an image
    target = tmp_path / "hr.lmdb"
    for moment, owner, name, calls in MOMENTS:

        def run(owner=owner, name=name, calls=calls):
            kill_before(owner, name, calls)
            make(folder, target)

        assert killed(fork(run)), moment
        assert not target.exists(), moment
    make(folder, target)
    assert same(whole, target)
    assert [p.name for p in tmp_path.iterdir()] == ["hr.lmdb"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments_and_gone_on(folder, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "_COMMIT_BYTES", 1)
    draw, kills, done = random.Random(0), 0, []
    for _ in range(60):
        calls, delay = draw.randint(1, 3), draw.uniform(0, 0.01)

        def run(calls=calls, delay=delay):
            stock, left = prepare._write_some, iter(range(calls - 1))

            def write_some(*args):
                if next(left, None) is None:
                    time.sleep(delay)  # the other threads go on
                    os.kill(os.getpid(), signal.SIGKILL)
                return stock(*args)

            prepare._write_some = write_some
            make(folder, tmp_path / "hr.lmdb")

        kills += killed(fork(run))
        work = tmp_path / "hr.lmdb.unfinished"
        done.append(len(entries(work)) if (work / "data.mdb").is_file() and (work / "data.mdb").stat().st_size else 0)
        if (tmp_path / "hr.lmdb").exists():
            break
    else:
        make(folder, tmp_path / "hr.lmdb")
    assert kills >= 2 and len(set(done)) > 1  # some were killed with a part of the images written
    assert same(whole, tmp_path / "hr.lmdb")


def interrupt(folder, target, monkeypatch, after=2):
    """Leave an LMDB with a part of the images behind."""
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_COMMIT_BYTES", 1)
        stock, calls = prepare._write_some, iter(range(after))

        def stop(*args):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return stock(*args)

        patch.setattr(prepare, "_write_some", stop)
        with pytest.raises(KeyboardInterrupt):
            make(folder, target)


def test_what_is_there_is_not_made_again(folder, whole, tmp_path, monkeypatch):
    interrupt(folder, tmp_path / "hr.lmdb", monkeypatch)
    written = set(entries(tmp_path / "hr.lmdb.unfinished"))
    assert {key[0] for key in written} == {"a", "b"}
    stock, made = sub_images.SubImage.encoded, []
    monkeypatch.setattr(
        sub_images.SubImage, "encoded", lambda part, *args: (made.append(part.key), stock(part, *args))[1]
    )
    make(folder, tmp_path / "hr.lmdb")
    assert sorted(made) == sorted(entries(whole).keys() - written)
    assert same(whole, tmp_path / "hr.lmdb")


def test_going_on_with_something_else_is_refused(folder, tmp_path, monkeypatch, photo, capsys):
    copy, target = tmp_path / "hr", tmp_path / "hr.lmdb"
    shutil.copytree(folder, copy)
    interrupt(copy, target, monkeypatch)
    before = entries(f"{target}.unfinished")
    words = [copy, target, "--size", 48, "--min-side", 40]
    assert "was begun with step 24, but now it is 12" in refused(capsys, *words, "--step", 12)
    assert "was begun with compression 1, but now it is 3" in refused(capsys, *words, "--compression", 3)
    cv2.imwrite(str(copy / "new.png"), photo(9, 50, 50))
    assert "image 'new.png' of " in refused(capsys, *words)
    (copy / "new.png").unlink()
    (copy / "a.png").rename(copy / "gone")
    assert "image 'a.png' of " in refused(capsys, *words)
    cv2.imwrite(str(copy / "a.png"), photo(9, 100, 130))
    assert "image 'a.png' of " in refused(capsys, *words)
    assert entries(f"{target}.unfinished") == before and not target.exists()


def test_an_image_that_changes_meanwhile_is_refused(folder, tmp_path, monkeypatch, photo):
    copy = tmp_path / "hr"
    shutil.copytree(folder, copy)
    stock = prepare._fill

    def change(*args):
        cv2.imwrite(str(copy / "d.png"), photo(9, 77, 200))
        stock(*args)

    monkeypatch.setattr(prepare, "_fill", change)
    with pytest.raises(InputError, match=r"d\.png' was changed while"):
        make(copy, tmp_path / "hr.lmdb")
    assert not (tmp_path / "hr.lmdb").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_at_once_are_refused(folder, tmp_path, monkeypatch):
    target = tmp_path / "hr.lmdb"
    interrupt(folder, target, monkeypatch)
    with prepare._alone(f"{target}.unfinished"), pytest.raises(InputError, match="another process"):
        make(folder, target)
    make(folder, target)


def test_nothing_is_overwritten(folder, whole, tmp_path, capsys):
    before = entries(whole)
    assert "exists and is not overwritten" in refused(capsys, folder, whole)
    assert "exists and is not overwritten" in refused(capsys, folder, f"{whole}/")
    assert entries(whole) == before
    (tmp_path / "file.lmdb").write_text("mine")
    assert "exists and is not overwritten" in refused(capsys, folder, tmp_path / "file.lmdb")
    (tmp_path / "other.lmdb.unfinished").mkdir()
    (tmp_path / "other.lmdb.unfinished" / "data.mdb").write_text("of another tool")
    assert "no manifest of lightbsr prepare" in refused(capsys, folder, tmp_path / "other.lmdb", "--min-side", 40)
    assert (tmp_path / "other.lmdb.unfinished" / "data.mdb").read_text() == "of another tool"


@pytest.mark.parametrize(
    "place",
    ["X4/0001x4.png", "DIV2K_train_LR_bicubic/0001.png", "LRbicx3/p.png", "lr/p.png", "0001x4.png", "p_LR.png"],
)
def test_scales_are_not_mixed(tmp_path, photo, capsys, place):
    for name in ("0001.png", "p_HR.png", place):
        (tmp_path / "hr" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "hr" / name), photo(0, 50, 50))
    error = refused(capsys, tmp_path / "hr", tmp_path / "x.lmdb", "--min-side", 40)
    assert f"low-resolution images, such as {place!r}" in error
    assert [p.name for p in tmp_path.iterdir()] == ["hr"]


def test_a_folder_of_low_resolution_images_is_refused(tmp_path, photo, capsys):
    (tmp_path / "hr").mkdir()
    for name in ("0001x4.png", "0002x4.png"):
        cv2.imwrite(str(tmp_path / "hr" / name), photo(0, 50, 50))
    assert "such as '0001x4.png'" in refused(capsys, tmp_path / "hr", tmp_path / "x.lmdb")


@pytest.mark.parametrize("name", ["matrix2/lroom_4.png", "scale_x4_photo.png", "max4.png", "LRish/hr.png"])
def test_names_that_only_look_alike_are_taken(tmp_path, photo, name):
    for file in ("0001.png", name):
        (tmp_path / "hr" / file).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "hr" / file), photo(0, 50, 50))
    assert len(sub_images.find_images(str(tmp_path / "hr"))) == 2


def test_all_bad_images_are_named_before_anything_is_written(folder, tmp_path, photo, capsys):
    copy = tmp_path / "hr"
    shutil.copytree(folder, copy)
    (copy / "text.png").write_text("no image")
    (copy / "empty.jpg").touch()
    (copy / "cut.png").write_bytes((folder / "a.png").read_bytes()[:-40])
    cv2.imwrite(str(copy / "tiny.png"), photo(0, 39, 200))
    error = refused(capsys, copy, tmp_path / "x.lmdb", "--size", 48, "--min-side", 40)
    assert "text.png' cannot be read: it is no image" in error
    assert "empty.jpg' cannot be read: it is missing or empty" in error
    assert "cut.png' cannot be read: it is cut off or damaged" in error
    assert "tiny.png' is 200x39, but both sides must be at least min-side, 40" in error
    assert len(error.splitlines()) == 4
    assert [p.name for p in tmp_path.iterdir()] == ["hr"]


def test_many_bad_images_are_counted(tmp_path, capsys):
    (tmp_path / "hr").mkdir()
    for number in range(25):
        (tmp_path / "hr" / f"{number}.png").touch()
    lines = refused(capsys, tmp_path / "hr", tmp_path / "x.lmdb").splitlines()
    assert len(lines) == 21 and lines[-1].endswith("... and 5 more")


def test_names_that_cannot_be_keys_are_named(tmp_path, photo, capsys):
    (tmp_path / "hr" / "more").mkdir(parents=True)
    for name in ("a.b.png", "süß.png", "same.png", "more/same.jpg"):
        cv2.imencode(".png", photo(0, 50, 50))[1].tofile(str(tmp_path / "hr" / name))
    error = refused(capsys, tmp_path / "hr", tmp_path / "x.lmdb")
    assert "image 'a.b.png' of" in error and "image 'süß.png' of" in error
    assert "images 'more/same.jpg' and 'same.png' of" in error
    assert len(error.splitlines()) == 3


def test_links_into_a_circle_are_followed_once(folder, tmp_path):
    (tmp_path / "hr").mkdir()
    os.symlink(folder, tmp_path / "hr" / "linked")
    os.symlink(tmp_path / "hr", tmp_path / "hr" / "again")
    assert len(sub_images.find_images(str(tmp_path / "hr"))) == len(SIZES)


def test_a_disk_that_is_too_small_is_refused_beforehand(folder, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50_000))
    words = [folder, tmp_path / "deep" / "x.lmdb", "--size", 48, "--min-side", 40]
    assert "GiB of the disk are free: make room" in refused(capsys, *words)
    assert list(tmp_path.iterdir()) == []


def test_the_estimate_of_the_disk_is_near(folder, whole):
    content = json.loads((whole / "manifest.json").read_text())
    assert (whole / "data.mdb").stat().st_size == pytest.approx(content["estimated_bytes"], rel=0.3)


def test_a_disk_that_fills_up_is_a_sentence_and_it_goes_on(folder, whole, tmp_path, monkeypatch, capsys):
    stock, calls = prepare._write_some, iter(range(2))

    def full(*args):
        if next(calls, None) is None:
            raise lmdb.DiskError("mdb_txn_commit: No space left on device")
        return stock(*args)

    monkeypatch.setattr(prepare, "_COMMIT_BYTES", 1)
    monkeypatch.setattr(prepare, "_write_some", full)
    words = [str(folder), str(tmp_path / "hr.lmdb"), "--size", "48", "--min-side", "40"]
    error = refused(capsys, *words)
    assert "cannot be written" in error and "No space left" in error and len(error.splitlines()) == 1
    monkeypatch.setattr(prepare, "_write_some", stock)
    assert cli.main(["prepare", *words]) == 0
    assert same(whole, tmp_path / "hr.lmdb")


def test_a_missing_target_is_named(folder, capsys):
    assert cli.main(["prepare", str(folder)]) == 2
    assert "needs a second path: the .lmdb to make" in capsys.readouterr().err


def test_verify_finds_every_change(folder, whole, tmp_path, photo, capsys):
    assert cli.main(["prepare", "--verify", str(whole)]) == 0
    assert cli.main(["prepare", str(folder), str(whole), "--verify"]) == 0
    said = capsys.readouterr().out
    assert said.count("as it was written") == 2 and "entries of 6 images" in said

    def damaged(name, damage):
        copy = tmp_path / f"{name}.lmdb"
        shutil.copytree(whole, copy)
        damage(copy)
        return refused(capsys, "--verify", copy)

    def flip(copy):
        content = bytearray((copy / "data.mdb").read_bytes())
        content[content.index(b"IDAT") + 20] ^= 1
        (copy / "data.mdb").write_bytes(content)

    def without(copy):
        with lmdb.open(str(copy), map_size=2**26) as database, database.begin(write=True) as writing:
            writing.delete(b"b_s001")

    def swap(copy):
        with lmdb.open(str(copy), map_size=2**26) as database, database.begin(write=True) as writing:
            writing.put(b"b_s001", writing.get(b"a_s001"))

    assert "is damaged" in damaged("flipped", flip)
    assert "is damaged" in damaged("swapped", swap)
    assert "entries, but its manifest" in damaged("without", without)
    assert "is cut off" in damaged("cut", lambda copy: os.truncate(copy / "data.mdb", 2**14))
    assert "meta_info.txt' is not what" in damaged("meta", lambda copy: (copy / "meta_info.txt").write_text("a.png"))
    assert "no manifest of lightbsr" in damaged("bare", lambda copy: (copy / "manifest.json").unlink())
    assert "no manifest of lightbsr" in damaged("broken", lambda copy: (copy / "manifest.json").write_text("[]"))
    assert "no such LMDB" in refused(capsys, "--verify", tmp_path / "nowhere.lmdb")
    shutil.copytree(folder, tmp_path / "hr")
    cv2.imwrite(str(tmp_path / "hr" / "a.png"), photo(9, 100, 130))
    assert "image 'a.png' of" in refused(capsys, tmp_path / "hr", whole, "--verify")


def test_an_unfinished_one_is_not_verified(folder, tmp_path, monkeypatch, capsys):
    interrupt(folder, tmp_path / "hr.lmdb", monkeypatch)
    assert "is not finished" in refused(capsys, "--verify", tmp_path / "hr.lmdb.unfinished")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--step", 481], "step is 481, but must be from 1 to size, 480"),
        (["--size", 200], "size is 200, but must be at least min-side, 256"),
        (["--compression", 10], "compression is 10, but PNG's levels are 0 to 9"),
    ],
)
def test_options_that_make_no_sense_are_refused(folder, tmp_path, capsys, options, sentence):
    assert sentence in refused(capsys, folder, tmp_path / "x.lmdb", *options)
    assert list(tmp_path.iterdir()) == []


def test_paths_that_cannot_be_used_are_refused(folder, tmp_path, capsys):
    assert "must end with .lmdb" in refused(capsys, folder, tmp_path / "x")
    assert "no such folder of images" in refused(capsys, tmp_path / "nowhere", tmp_path / "x.lmdb")
    (tmp_path / "empty").mkdir()
    assert "holds no image" in refused(capsys, tmp_path / "empty", tmp_path / "x.lmdb")
    (tmp_path / "file").touch()
    assert "cannot be made" in refused(capsys, folder, tmp_path / "file" / "x.lmdb", "--size", 48, "--min-side", 40)
