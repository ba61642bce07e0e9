"""Memory: what a tile takes is what is reckoned with, and a large picture stays within 8 GB (slow)."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from lightbsr.upscaling import memory
from lightbsr_arch import LightBSR

GB = 10**9
# As wide as the paper's network; depth takes time, not memory.
SHALLOW = dict(num_group=1, num_block=1, layer_scale_init=0.1)


def test_tiles_go_by_the_memory_that_is_free(networks, monkeypatch):
    network, cpu = networks["lightbsr"], torch.device("cpu")
    monkeypatch.setattr(memory, "free_memory", lambda device: 40 * 2**20)
    bytes_per_pixel = memory.BYTES_PER_FEATURE * 8 * 2**2  # 8 features, x2
    assert memory.pixels_at_once(network, cpu) == 20 * 2**20 // bytes_per_pixel
    monkeypatch.setattr(memory, "free_memory", lambda device: 10**15)
    assert memory.pixels_at_once(network, cpu) <= 2**20
    assert memory.pixels_at_once(LightBSR(**SHALLOW), cpu) * memory.BYTES_PER_FEATURE * 64 * 4**2 <= 2 * 2**30


def test_free_memory_heeds_the_container(tmp_path, monkeypatch):
    cpu = torch.device("cpu")
    assert 0 < memory.free_memory(cpu) < 2**50
    monkeypatch.setattr(memory, "_free_in_container", lambda: [12_345])
    assert memory.free_memory(cpu) == 12_345
    monkeypatch.setattr(memory, "_free_in_container", lambda: [-5])
    assert memory.free_memory(cpu) == 0
    (tmp_path / "number").write_text("17\n")
    (tmp_path / "none").write_text("max\n")
    numbers = [memory._number(str(tmp_path / name)) for name in ("number", "none", "nowhere")]
    assert numbers == [17, None, None]


def peak(code: str) -> float:
    """Peak memory of a process of its own, in bytes; not getrusage's, which begins with that of the process here."""
    if not sys.platform.startswith("linux"):
        pytest.skip("a process's peak memory is read from Linux's /proc")
    tail = "\nprint(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code + tail], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return int(result.stdout.splitlines()[-1]) * 1024


@pytest.mark.slow
def test_the_largest_tile_takes_what_is_reckoned_with():
    prepare = f"import torch; from lightbsr_arch import LightBSR; n = LightBSR(**{SHALLOW}).eval()\n"
    run = "with torch.inference_mode(): n(torch.rand(1, 3, {0}, {0}).contiguous(memory_format=torch.channels_last))"
    taken = peak(prepare + run.format(256)) - peak(prepare + run.format(8))
    assert 0.4 * memory.BYTES_PER_FEATURE < taken / (256**2 * 64 * 4**2) < memory.BYTES_PER_FEATURE


@pytest.mark.slow
def test_4000x3000_stays_within_8_gb(tmp_path, photo):
    # A crop of 1000x750: tiles are those of the whole picture, and what else the whole takes is added here.
    torch.save({"params": LightBSR(**SHALLOW).state_dict()}, tmp_path / "wide.pth")
    cv2.imwrite(str(tmp_path / "crop.png"), photo(0, 750, 1000))
    words = ["upscale", str(tmp_path / "crop.png"), "-o", str(tmp_path), "--device", "cpu"]
    words += ["--weights", str(tmp_path / "wide.pth")]
    taken = peak(f"import lightbsr_cli as cli; assert cli.main({words!r}) == 0")
    image = cv2.imread(str(tmp_path / "crop_x4.png"))
    assert image.shape == (3000, 4000, 3)
    pixels = 4000 * 3000 - 1000 * 750
    canvas, lq_and_file = pixels * 4**2 * 3, pixels * 3 * 3
    assert taken + canvas + lq_and_file < 8 * GB
    assert np.ptp(image) > 0
