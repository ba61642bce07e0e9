"""Validation: shares of ranks against one process and BasicSR's own, tiles against whole images, the best kept."""

import json
import os
import subprocess
import sys

import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.models.sr_model import SRModel

from lightbsr_compat import InputError
from lightbsr_models import LightBSRStudentModel
from lightbsr_models.validation import _spans

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
if dist.get_rank() == 1:  # rank 0's statistics are the ones that count
    for buffer in model.net_g.buffers():
        buffer.add_(1)
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


@pytest.mark.parametrize("world_size", [2, 3])
def test_shares_of_ranks_give_the_bits_of_one_process(image_folder, tmp_path, free_port, world_size):
    opt = options(image_folder, tmp_path, save_img=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = {name: value.hex() for name, value in validated(options(image_folder, tmp_path / "alone")).items()}
    finally:
        torch.set_num_threads(threads)
    assert on_ranks(opt, tmp_path, free_port, world_size) == [alone] * world_size
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


def test_spans():
    assert _spans(10, 4) == [(0, 4), (4, 8), (8, 10)] and _spans(3, 4) == [(0, 3)]


def test_tiles_make_the_whole_image(image_folder, tmp_path):
    """A network that looks less far than the tiles overlap, and knows no global average."""
    model, _ = model_and_loader(options(image_folder, tmp_path))
    model.net_g = torch.nn.Sequential(torch.nn.Conv2d(3, 48, 5, padding=2), torch.nn.PixelShuffle(4)).double()
    for height, width in ((40, 33), (5, 70)):
        model.lq, model.gt = torch.rand(1, 3, height, width).double(), torch.rand(1, 3, 4 * height, 4 * width)
        lq, gt = model.lq, model.gt
        model.test()
        whole = model.output
        model._test_tiles(8)
        assert torch.allclose(model.output, whole, rtol=0, atol=1e-12)
        assert model.lq is lq and model.gt is gt


def test_an_image_that_does_not_fit_is_tiled(image_folder, tmp_path, monkeypatch):
    opt = options(image_folder, tmp_path)
    whole, tiled = validated(opt), validated(options(image_folder, tmp_path, tile=256))
    assert whole == tiled  # the images are smaller than a tile
    stock = LightBSRStudentModel.test
    calls = []

    def scarce(self):
        calls.append(self.lq.shape)
        if len(calls) == 1:
            raise torch.cuda.OutOfMemoryError("out of memory")
        stock(self)

    monkeypatch.setattr(LightBSRStudentModel, "test", scarce)
    assert validated(opt) == whole and len(calls) == 7


def test_the_best_is_kept(image_folder, tmp_path):
    opt = options(image_folder, tmp_path)
    model, _ = model_and_loader(opt)
    opt["is_train"], opt["datasets"] = True, {"val": opt["dataset"]}
    best = tmp_path / "net_g_best.pth"

    def validate(iteration, psnr):
        model._initialize_best_metric_results("photos")
        model._update_best_metric_result("photos", "psnr", psnr, iteration)
        model._save_best("photos", "psnr", iteration)

    validate(1, 20.0)
    first = best.read_bytes()
    with torch.no_grad():
        model.net_g.sr_network.head.bias.add_(1)
    validate(2, 19.0)
    assert best.read_bytes() == first
    validate(3, 21.0)
    kept = torch.load(best)["params"]
    assert torch.equal(kept["sr_network.head.bias"], model.net_g.sr_network.head.bias)
