"""The benchmark's two sides, our procedures and the released ones, compute the same."""

import as_published
import cv2
import numpy as np
import pytest
import speed
import torch
from as_published import degrade, draw_kernels, gaussian_kernel, plain, project, read_views

from lightbsr_data import ClassicDegradation, DegradationPriorDataset, gaussian_kernels, kernel_basis

CPU = torch.device("cpu")


@pytest.fixture
def same_levels(monkeypatch):
    """Both sides train on our LR images: a value in the middle between two levels may be rounded either way."""
    monkeypatch.setattr(
        as_published, "degrade", lambda gt, k, noise, scale: ClassicDegradation(scale=scale)(gt, k, noise)
    )


@pytest.mark.parametrize("kind", ["teacher", "student"])
@pytest.mark.parametrize("stage", [1, 2])
def test_training_steps_have_the_same_losses(same_levels, kind, stage):
    """Of three steps: momentum, queue and optimizer are the same too."""
    pair = speed.training(kind, stage, speed.TINY, CPU)
    for step in range(3):
        assert pair.ours() == pytest.approx(pair.theirs(), rel=2e-5 if step == 0 else 1e-3), step


def test_plain_networks_compute_the_same():
    student = speed.make_student(speed.TINY).eval()
    lq = torch.rand(2, 3, 9, 7)
    with torch.no_grad():
        torch.testing.assert_close(plain(student)(lq), student(lq), rtol=1e-4, atol=1e-4)
    assert type(student.sr_network.groups[0].branch).__name__ == "ConvNeXtBranch"  # a copy was changed


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("noisy", [False, True])
def test_degradation(scale, noisy):
    """The same levels but where a value lies within rounding of the middle between two."""
    batch, views, side = 3, 2, 12 * scale
    gt = torch.rand(batch, views, 3, side, side)
    kernels = gaussian_kernels(torch.tensor([0.4, 2.0, 3.5]), torch.tensor([1.0, 2.0, 0.9]), torch.tensor([0.3, 0, 2]))
    sigma = torch.tensor([5.0, 15.0, 0.0]) if noisy else None
    ours = ClassicDegradation(scale=scale)(gt, kernels, sigma, torch.Generator().manual_seed(3))
    noise = None
    if sigma is not None:
        draws = torch.randn(batch, views * 3, 12, 12, generator=torch.Generator().manual_seed(3))
        noise = (draws * sigma[:, None, None, None]).view(batch, views, 3, 12, 12)
    levels = (degrade(gt, kernels, noise, scale=scale) - ours).abs() * 255
    assert levels.max() <= 1 + 1e-3 and (levels > 0.5).float().mean() <= 1e-3


def test_kernels_pixel_by_pixel():
    ours = gaussian_kernels(*torch.tensor([[1.7], [0.6], [0.8]], dtype=torch.float64))[0]
    np.testing.assert_allclose(gaussian_kernel(1.7**2, 0.6**2, 0.8), ours, atol=1e-12)


def test_basis_spans_the_released_procedures_kernels():
    """Its draws are others: what both span is compared by the energy of the kernels that it drew."""
    kernels = draw_kernels(40)
    for basis in (kernel_basis().double().numpy(), project(kernels)):
        energy = ((kernels @ basis) ** 2).sum(1) / (kernels**2).sum(1)
        assert energy.min() > 0.9 and energy.mean() > 0.99


def test_views_of_an_image_file(tmp_path, photo):
    """The crops that our dataset makes, at places where it makes them, without flips."""
    cv2.imwrite(str(tmp_path / "image.png"), photo(0, 64, 80)[..., ::-1])
    options = dict(dataroot_gt=str(tmp_path), io_backend=dict(type="disk"), scale=4, gt_size=32, num_views=3)
    dataset = DegradationPriorDataset(options | dict(degradation="iso", use_hflip=False, use_rot=False))
    item = dataset[0]
    image = torch.from_numpy(dataset.images.read(0)).permute(2, 0, 1)
    windows = image.unfold(1, 32, 1).unfold(2, 32, 1)  # (3, 33, 49, 32, 32)
    places = [(windows == view[:, None, None]).all(-1).all(-1).all(0).nonzero()[0].tolist() for view in item["gt"]]
    views = read_views(tmp_path / "image.png", 32, places)
    torch.testing.assert_close(views, item["gt"].float() / 255.0)
