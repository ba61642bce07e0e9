"""Validation: shares of ranks against one process and BasicSR's own, images without a score, the best kept."""

import json
import logging
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.models.sr_model import SRModel

from lightbsr_compat import InputError
from lightbsr_models import LightBSRStudentModel
from lightbsr_models.validation import better

SIZES = dict(num_feat=8, num_group=1, num_block=1, num_idr=16, num_channel_idr=4)


def options(folder, root, **val):
    metric = {"crop_border": 4, "test_y_channel": True}
    return {
        "name": "run",
        "scale": 4,
        "num_gpu": 0,
        "is_train": False,
        "dist": False,
        "rank": 0,
        "world_size": 1,
        "datasets": {},
        "network_g": {"type": "LightBSR", **SIZES},
        "path": {"visualization": str(root / "pictures"), "pretrain_network_g": None, "models": str(root)},
        "val": {
            "suffix": None,
            "metrics": {"psnr": {"type": "calculate_psnr", **metric}, "ssim": {"type": "calculate_ssim", **metric}},
            **val,
        },
        "dataset": {
            "name": "photos",
            "type": "BlindBenchmarkDataset",
            "phase": "test",
            "scale": 4,
            "dataroot_gt": str(folder),
            "io_backend": {"type": "disk"},
            "degradation": {"sigma": 1.2, "noise_sigma": 5},
        },
    }


def model_and_loader(opt):
    torch.manual_seed(0)
    model = LightBSRStudentModel(opt)
    dataset = build_dataset(opt["dataset"])
    return model, build_dataloader(dataset, opt["dataset"], num_gpu=0, dist=False, sampler=None, seed=0)


def validated(opt):
    model, loader = model_and_loader(opt)
    model.nondist_validation(loader, 1, None, opt["val"].get("save_img", False))
    return model.metric_results


def test_one_process_gives_what_basicsr_gives(image_folder, tmp_path):
    opt = options(image_folder, tmp_path)
    model, loader = model_and_loader(opt)
    SRModel.nondist_validation(model, loader, 1, None, False)
    stock = dict(model.metric_results)
    assert set(stock) == {"psnr", "ssim"} and validated(opt) == stock


def test_the_first_image_is_in_tensorboards_log(image_folder, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    opt = options(image_folder, tmp_path)
    model, loader = model_and_loader(opt)
    with SummaryWriter(str(tmp_path / "log")) as writer:
        model.nondist_validation(loader, 7, writer, True)
    log = EventAccumulator(str(tmp_path / "log")).Reload()
    assert set(log.Tags()["scalars"]) == {"metrics/photos/psnr", "metrics/photos/ssim"}
    (event,) = log.Images("photos/photo_0")
    assert log.Tags()["images"] == ["photos/photo_0"] and event.step == 7
    shown = cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(shown, cv2.imread(str(tmp_path / "pictures" / "photos" / "photo_0_run.png")))


RANK = """
import json, os, sys, torch, torch.distributed as dist
from pathlib import Path
torch.set_num_threads(1)
import lightbsr
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from test_validation import model_and_loader
from lightbsr_compat import InputError
opt = json.loads(sys.argv[2])
dist.init_process_group("gloo")
model, loader = model_and_loader(opt)
try:
    model.dist_validation(loader, 1, None, opt["val"].get("save_img", False))
    found = {name: value.hex() for name, value in model.metric_results.items()}
except InputError as error:
    found = {"error": str(error)}
Path(sys.argv[3] + str(dist.get_rank())).write_text(json.dumps(found))
dist.barrier()
dist.destroy_process_group()
"""


def on_ranks(opt, tmp_path, free_port, world_size):
    out = str(tmp_path / "found")
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port), "OMP_NUM_THREADS": "1"}
    environment["WORLD_SIZE"] = str(world_size)
    words = [sys.executable, "-W", "ignore", "-c", RANK, __file__, json.dumps({**opt, "dist": True}), out]
    ranks = [
        subprocess.Popen(words, env={**environment, "RANK": str(r)}, stderr=subprocess.PIPE) for r in range(world_size)
    ]
    errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * world_size, errors
    return [json.loads(open(out + str(r)).read()) for r in range(world_size)]


@pytest.fixture
def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_shares_of_ranks_give_the_bits_of_one_process(image_folder, tmp_path, free_port):
    opt = options(image_folder, tmp_path, save_img=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = {name: value.hex() for name, value in validated(options(image_folder, tmp_path / "alone")).items()}
    finally:
        torch.set_num_threads(threads)
    assert on_ranks(opt, tmp_path, free_port, 3) == [alone] * 3
    assert len(list((tmp_path / "pictures" / "photos").glob("photo_*_run.png"))) == 6


def test_an_error_of_one_rank_is_heard_by_all(image_folder, tmp_path, free_port):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted(image_folder.iterdir())[:2]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "a.png").write_bytes(b"no image")
    found = on_ranks(options(folder, tmp_path), tmp_path, free_port, 2)
    assert all("a.png" in rank["error"] for rank in found)
    with pytest.raises(InputError, match=r"a\.png"):
        validated(options(folder, tmp_path))


# --- what has no score ---


def one_bad_image(model, bad):
    """Let ``bad(SR image)`` replace the SR image of the second image."""
    stock, calls = model.test, []

    def test():
        stock()
        calls.append(1)
        if len(calls) == 2:
            model.output = bad(model.output)

    model.test = test


@pytest.mark.parametrize(
    "bad, reason",
    [
        (lambda sr: sr * float("nan"), "the SR image is not finite"),
        (lambda sr: torch.full_like(sr, float("inf")), "the SR image is not finite"),
        (lambda sr: sr[..., :-1], "AssertionError"),  # not the HR image's size
        (lambda sr: None, "the score is inf"),
    ],
)
def test_an_image_without_a_score_is_named_and_left_out(image_folder, tmp_path, caplog, bad, reason):
    opt = options(image_folder, tmp_path, save_img=True)
    opt["val"]["metrics"].pop("ssim")
    model, loader = model_and_loader(opt)
    one_bad_image(model, lambda sr: model.gt.clone() if bad(sr) is None else bad(sr))
    logger = logging.getLogger("basicsr")
    logger.propagate = True
    model.nondist_validation(loader, 1, None, True)
    logger.propagate = False
    (warning,) = {record.getMessage() for record in caplog.records if record.levelname == "WARNING"}
    assert "1 of 6 images have no psnr" in warning and "photo_1" in warning and reason in warning
    rest = [path for path in sorted(image_folder.iterdir()) if path.stem != "photo_1"]
    (tmp_path / "rest").mkdir()
    for path in rest:
        (tmp_path / "rest" / path.name).write_bytes(path.read_bytes())
    other = options(tmp_path / "rest", tmp_path / "other")
    other["val"]["metrics"].pop("ssim")
    assert model.metric_results == validated(other)
    written = (tmp_path / "pictures" / "photos" / "photo_1_run.png").exists()
    assert written == ("not finite" not in reason)


def test_where_no_image_has_a_score_nothing_is_best(image_folder, tmp_path):
    opt = options(image_folder, tmp_path)
    opt["val"]["metrics"]["psnr"]["crop_border"] = 40  # nothing is left
    model, loader = model_and_loader(opt)
    opt["is_train"], opt["datasets"] = True, {"val": opt["dataset"]}
    model.nondist_validation(loader, 1, None, False)
    assert list(model.metric_results) == ["ssim"]
    assert model.best_metric_results["photos"]["psnr"]["iter"] == -1
    assert not (tmp_path / "net_g_best.pth").exists()


def test_an_image_that_does_not_fit_is_a_sentence(image_folder, tmp_path):
    model, loader = model_and_loader(options(image_folder, tmp_path))

    def test():
        raise torch.cuda.OutOfMemoryError("out of memory")

    model.test = test
    with pytest.raises(InputError, match=r"photo_0.png', 12x12 LR pixels, does not fit into the GPU's memory"):
        model.nondist_validation(loader, 1, None, False)


def test_a_signal_cuts_a_validation_off(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("lightbsr_models.validation.stop_requested", lambda: True)
    model, loader = model_and_loader(options(image_folder, tmp_path))
    model.nondist_validation(loader, 1, None, False)
    assert not hasattr(model, "best_metric_results")


# --- the best ---


def test_metrics_know_their_direction():
    assert better({"type": "calculate_psnr"}) == "higher"
    assert better({"type": "calculate_niqe"}) == better({"type": "my_LPIPS"}) == "lower"
    assert better({"type": "calculate_niqe", "better": "higher"}) == "higher"


@pytest.mark.parametrize("metric, scores", [("psnr", (20.0, 19.0, 21.0)), ("niqe", (5.0, 6.0, 4.0))])
def test_the_best_is_kept(image_folder, tmp_path, metric, scores):
    opt = options(image_folder, tmp_path)
    opt["val"]["metrics"] = {metric: {"type": f"calculate_{metric}"}}
    model, _ = model_and_loader(opt)
    opt["is_train"], opt["datasets"] = True, {"val": opt["dataset"]}
    best = tmp_path / "net_g_best.pth"

    def validate(iteration):
        model._initialize_best_metric_results("photos")
        model._update_best_metric_result("photos", metric, scores[iteration - 1], iteration)
        model._save_best("photos", metric, iteration)

    validate(1)
    first = best.read_bytes()
    with torch.no_grad():
        model.net_g.sr_network.head.bias.add_(1)
    validate(2)
    assert best.read_bytes() == first
    validate(3)
    kept = torch.load(best)["params"]
    assert torch.equal(kept["sr_network.head.bias"], model.net_g.sr_network.head.bias)
