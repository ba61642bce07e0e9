"""Contrast, queue and blur kernels against numbers that other projects' code computed.

lightly 1.6.0 and kornia 0.9.0, float64 on the CPU; neither is installed here, since both bring many packages.
"""

import math

import pytest
import tiny
import torch
import torch.nn.functional as F

from lightbsr_arch import LightBSRTeacher
from lightbsr_compat import has_basicsr
from lightbsr_data import gaussian_kernels

BATCH, CHANNELS, QUEUE = 2, 16, 6
# lightly.loss.NTXentLoss(temperature=0.07, memory_bank_size=(6, 16)).double(), its bank set to vectors(6, 0): of each
# step the mean of loss(q0, k1) and of loss(q1.requires_grad_(), k0), which enqueues view 0's keys.
LIGHTLY_LOSSES = [5.297244006358074, 5.7378574084422285, 7.350603205624283, 4.6316177372595915, 6.648932749344686]
LIGHTLY_BANK = [(3, 0), (3, 1), (4, 0), (4, 1), (2, 0), (2, 1)]  # afterwards: step and image of each key
# kornia.filters.get_gaussian_kernel2d((5, 5), torch.tensor([[1.5, 0.7]], dtype=torch.float64)), sigma of y and of x
KORNIA = [
    [0.00115516088103, 0.0246669456597, 0.0684341711617, 0.0246669456597, 0.00115516088103],
    [0.00224994617087, 0.0480446497503, 0.133291564743, 0.0480446497503, 0.00224994617087],
    [0.00280984273081, 0.0600005065023, 0.166461019877, 0.0600005065023, 0.00280984273081],
    [0.00224994617087, 0.0480446497503, 0.133291564743, 0.0480446497503, 0.00224994617087],
    [0.00115516088103, 0.0246669456597, 0.0684341711617, 0.0246669456597, 0.00115516088103],
]


def vectors(count, start):
    """(count, 16) unit vectors, the same ones on every machine."""
    places = torch.arange(count * CHANNELS, dtype=torch.float64).view(count, CHANNELS) + start
    return F.normalize(places.pow(2).sin(), dim=1)


@pytest.mark.skipif(not has_basicsr(), reason="needs BasicSR")
def test_contrast_and_queue_against_lightlys_memory_bank():
    from lightbsr_models import ContrastiveLoss

    teacher, loss = LightBSRTeacher(**tiny.LIGHTBSR_SIZES, queue_size=QUEUE).double(), ContrastiveLoss(temperature=0.07)
    teacher.queue.copy_(vectors(QUEUE, 0).T)
    losses, enqueued = [], {}
    for step in range(len(LIGHTLY_LOSSES)):  # the queue is full after three
        views = torch.stack([vectors(BATCH, 100 * (4 * step + i + 1)) for i in range(4)], dim=1)
        queries, keys = views[:, :2], views[:, 2:]  # (2, 2, 16) each
        losses.append(float(loss(queries, keys, teacher.queue)))
        teacher.enqueue(keys[:, 0])
        enqueued |= {(step, image): keys[image, 0] for image in range(BATCH)}
    assert losses == pytest.approx(LIGHTLY_LOSSES, rel=1e-12)
    assert torch.equal(teacher.queue.T, torch.stack([enqueued[place] for place in LIGHTLY_BANK]))


@pytest.mark.parametrize("sigma_x, sigma_y, degrees", [(0.7, 1.5, 0), (1.5, 0.7, 90)])
def test_kernels_against_kornias(sigma_x, sigma_y, degrees):
    parameters = torch.tensor([[sigma_x], [sigma_y], [math.radians(degrees)]], dtype=torch.float64)
    expected = torch.tensor([KORNIA], dtype=torch.float64)
    torch.testing.assert_close(gaussian_kernels(*parameters, size=5), expected, rtol=1e-11, atol=0)
