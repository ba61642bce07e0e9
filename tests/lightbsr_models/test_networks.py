"""Registered networks, and the bicubic baseline against the numbers of the paper's table."""

import math

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, MODEL_REGISTRY

import lightbsr_arch
from lightbsr_data import BlindBenchmarkDataset
from lightbsr_models import Bicubic


def test_everything_is_registered():
    assert ARCH_REGISTRY.get("LightBSR") is lightbsr_arch.LightBSR
    assert ARCH_REGISTRY.get("LightBSRTeacher") is lightbsr_arch.LightBSRTeacher
    for registry, names in (
        (ARCH_REGISTRY, ["Bicubic"]),
        (MODEL_REGISTRY, ["LightBSRTeacherModel", "LightBSRStudentModel"]),
        (LOSS_REGISTRY, ["ContrastiveLoss", "KLDistillationLoss"]),
        (DATASET_REGISTRY, ["DegradationPriorDataset", "BlindBenchmarkDataset"]),
    ):
        assert all(name in registry for name in names)


def test_basicsr_builds_our_networks():
    network = build_network(
        {"type": "LightBSR", "num_feat": 8, "num_group": 1, "num_block": 1, "num_idr": 16, "upscale": 3}
    )
    assert network.eval()(torch.rand(1, 3, 4, 4)).shape == (1, 3, 12, 12)


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_bicubic_is_cubic_interpolation(upscale):
    """Output pixel x lies at input (x + 0.5) / s - 0.5; the weights are Keys' cubic with a = -0.5, written out."""
    lq = torch.rand(2, 3, 9, 10)
    sr = Bicubic(upscale=upscale)(lq)
    assert sr.shape == (2, 3, 9 * upscale, 10 * upscale)

    def weights(size):
        matrix = np.zeros((size * upscale, size))
        for i in range(size * upscale):
            centre = (i + 0.5) / upscale - 0.5
            for j in range(size):
                d = abs(j - centre)
                near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
                matrix[i, j] = near if d <= 1 else far if d < 2 else 0.0
        return torch.from_numpy(matrix).float()

    expected = weights(9) @ lq @ weights(10).T
    inner = (..., slice(2 * upscale, -2 * upscale), slice(2 * upscale, -2 * upscale))  # away from the border
    torch.testing.assert_close(sr[inner], expected[inner], rtol=0, atol=1e-4)


def psnr_y(sr: torch.Tensor, gt: torch.Tensor, shave: int) -> float:
    """PSNR on MATLAB's limited-range Y of 8-bit images, ``shave`` pixels off every side."""
    levels = [(image * 255).round().clamp(0, 255).double() for image in (sr, gt)]
    planes = [16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255 for r, g, b in levels]
    a, b = (plane[shave:-shave, shave:-shave] for plane in planes)
    return 10 * math.log10(255**2 / float((a - b).square().mean()))


@pytest.mark.parametrize(
    "name, sigma, expected",
    [
        ("Set5", 1.2, 27.6929),
        ("Set5", 2.4, 25.9939),
        ("Set5", 3.6, 24.4492),
        ("Set14", 2.4, 24.3937),
    ],
)
def test_bicubic_scores_of_the_papers_table(datasets_root, name, sigma, expected):
    """Protocol ``iso``, x4: blur, down-sampling, cropping and rounding must all be right for these to come out."""
    folder = datasets_root / "benchmark" / name
    if not folder.is_dir():
        pytest.skip(f"no {name} in LIGHTBSR_DATASETS")
    dataset = BlindBenchmarkDataset(
        {"scale": 4, "dataroot_gt": str(folder), "io_backend": {"type": "disk"}, "degradation": {"sigma": sigma}}
    )
    network = Bicubic(upscale=4)
    scores = []
    for i in range(len(dataset)):
        item = dataset[i]
        scores.append(psnr_y(network(item["lq"][None])[0], item["gt"], shave=4))
    assert np.mean(scores) == pytest.approx(expected, abs=2e-3)
