"""The released procedures, written from the facts: oracle of the tests and yardstick of ``speed.py``.

Float32, contiguous layout, view by view, pair by pair, and whole networks also where a part of them would do: student
and teacher are run whole in both stages, view 0 passes the query estimator twice in the teacher's stage 2.
"""

import copy
import itertools
import math
import random
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import multivariate_normal
from torch import Tensor, nn

from lightbsr_arch import LightBSR, LightBSRTeacher
from lightbsr_arch.idr import join_prior
from lightbsr_arch.layers import ConvNeXtBranch

BETAS = (0.9, 0.99)


# --- networks ---


class PlainConvNeXtBranch(ConvNeXtBranch):
    """ConvNeXt's residual branch, layer by layer; linear layers see channels that were moved to the end."""

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        kernels, bias = self.depthwise.weight, self.depthwise.bias
        x = F.conv2d(x, kernels, bias, padding=3, groups=len(kernels)).permute(0, 2, 3, 1)  # (B, h, w, n)
        x = F.linear(self.norm(x), self.expand.weight, self.expand.bias)
        x = self.layer_scale * F.linear(self.act(x), self.reduce.weight, self.reduce.bias)
        return shortcut + x.permute(0, 3, 1, 2)


def plain(network: nn.Module) -> nn.Module:
    """A copy of a network with plain branches and contiguous weights; its state dict has the same keys."""
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for module in network.modules():
        if isinstance(module, ConvNeXtBranch):
            module.__class__ = PlainConvNeXtBranch  # it has the same attributes
    return network


# --- training steps ---


def contrastive_loss(queries: Sequence[Tensor], keys: Sequence[Tensor], queue: Tensor, temperature: float) -> Tensor:
    """Eq. 1-2, pair by pair: queries and keys (B, C) of each view, and the queue (C, N)."""
    losses = []
    for i, j in itertools.permutations(range(len(queries)), 2):
        positive = (queries[i] * keys[j]).sum(1, keepdim=True)  # (B, 1)
        negative = queries[i] @ queue  # (B, N)
        logits = torch.cat([positive, negative], dim=1) / temperature
        losses.append(F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)))
    return torch.stack(losses).mean()


class TeacherTraining:
    """The teacher's training (Eq. 1-4); ``step`` takes lq (B, D, 3, h, w), gt (B, 3, H, W) of view 0, prior (B, P)."""

    def __init__(self, teacher: LightBSRTeacher, *, lr: float, temperature: float = 0.07) -> None:
        self.teacher = plain(teacher).train()
        self.temperature = temperature
        trained = [p for p in self.teacher.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr, BETAS)

    def step(self, lq: Tensor, gt: Tensor, prior: Tensor, *, stage: int) -> dict[str, float]:
        teacher = self.teacher
        with torch.no_grad():
            for query, key in (
                (teacher.query_estimator, teacher.key_estimator),
                (teacher.query_projector, teacher.key_projector),
            ):
                for q, k in zip(query.parameters(), key.parameters(), strict=True):
                    k.copy_(k * teacher.momentum + q * (1 - teacher.momentum))
        queries, keys = [], []
        for view in lq.unbind(1):
            x = join_prior(view, prior)
            with torch.no_grad():
                keys.append(self._embed(teacher.key_projector, teacher.key_estimator(x)))
            queries.append(self._embed(teacher.query_projector, teacher.query_estimator(x)))
        losses = {"l_contrast": contrastive_loss(queries, keys, teacher.queue.clone(), self.temperature)}
        start = int(teacher.queue_ptr)
        teacher.queue[:, start : start + len(lq)] = keys[0].T
        teacher.queue_ptr[0] = (start + len(lq)) % teacher.queue.shape[1]
        if stage == 2:
            sr = teacher(lq[:, 0], prior)  # the query estimator sees view 0 once more
            losses["l_pix"] = 255.0 * F.l1_loss(sr, gt)
        return _descend(self.optimizer, losses)

    @staticmethod
    def _embed(projector: nn.Module, features: Tensor) -> Tensor:
        return F.normalize(projector(features.mean((2, 3))), dim=1)


class StudentTraining:
    """The student's training (Eq. 4-8); ``step`` takes lq (B, 3, h, w), gt (B, 3, H, W), prior (B, P)."""

    def __init__(self, student: LightBSR, teacher: LightBSRTeacher, *, lr: float, temperature: float = 0.15) -> None:
        self.student = plain(student).train()
        self.teacher = plain(teacher).eval()
        self.temperature = temperature
        self.optimizer = torch.optim.Adam(self.student.parameters(), lr, BETAS)

    def step(self, lq: Tensor, gt: Tensor, prior: Tensor, *, stage: int) -> dict[str, float]:
        with torch.no_grad():
            _, target = self.teacher.forward_with_idr(lq, prior)
        sr, idr = self.student.forward_with_idr(lq)
        log_student = F.log_softmax(idr.channel / self.temperature, dim=1)
        teacher = F.softmax(target.channel / self.temperature, dim=1)
        losses = {
            "l_spatial": F.mse_loss(idr.spatial, target.spatial),
            "l_channel_kl": F.kl_div(log_student, teacher, reduction="batchmean"),
            "l_channel_l1": 0.1 * F.l1_loss(idr.channel, target.channel),
        }
        if stage == 2:
            losses["l_pix"] = 255.0 * F.l1_loss(sr, gt)
        return _descend(self.optimizer, losses)


def _descend(optimizer: torch.optim.Optimizer, losses: dict[str, Tensor]) -> dict[str, float]:
    optimizer.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    return {name: float(loss.detach()) for name, loss in losses.items()}


# --- degradation ---


def _cubic(x: float) -> float:
    """Keys' cubic with a = -0.5."""
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def _resampling_table(length: int, scale: int) -> tuple[Tensor, Tensor]:
    """Weights and (clamped) source pixels of each output pixel: (length / scale, taps) both."""
    weights, sources = [], []
    for i in range(length // scale):
        centre = (i + 0.5) * scale - 0.5
        taps = range(math.floor(centre - 2 * scale), math.ceil(centre + 2 * scale) + 1)
        row = [_cubic((tap - centre) / scale) for tap in taps]
        weights.append([weight / sum(row) for weight in row])
        sources.append([min(max(tap, 0), length - 1) for tap in taps])
    return torch.tensor(weights), torch.tensor(sources)


def _bicubic(images: Tensor, scale: int) -> Tensor:
    """(B, C, H, W) -> (B, C, H / scale, W / scale): every output pixel gathers its taps, rows first."""
    rows, row_sources = (t.to(images.device) for t in _resampling_table(images.shape[2], scale))
    columns, column_sources = (t.to(images.device) for t in _resampling_table(images.shape[3], scale))
    x = (images[:, :, row_sources] * rows[..., None]).sum(3)  # (B, C, h, taps, W) -> (B, C, h, W)
    return (x[..., column_sources] * columns).sum(4)  # (B, C, h, w, taps) -> (B, C, h, w)


def degrade(gt: Tensor, kernel: Tensor, noise: Tensor | None, *, scale: int) -> Tensor:
    """Eq. 9, view by view: a convolution with a group for every channel of every image, then gathered bicubic weights.

    Args:
        gt: (B, D, 3, H, W) in [0, 1].
        kernel: (B, k, k).
        noise: (B, D, 3, h, w) on the 0-255 scale, or None.

    Returns:
        (B, D, 3, H / scale, W / scale) in [0, 1].
    """
    batch, num_views, channels, height, width = gt.shape
    size = kernel.shape[-1]
    views = []
    for d in range(num_views):
        padded = F.pad(gt[:, d] * 255.0, [size // 2] * 4, mode="reflect")
        weight = kernel[:, None].expand(-1, channels, -1, -1).reshape(batch * channels, 1, size, size)
        blurred = F.conv2d(padded.reshape(1, -1, *padded.shape[2:]), weight, groups=batch * channels)
        lq = _bicubic(blurred.view(batch, channels, height, width), scale)
        if noise is not None:
            lq = lq + noise[:, d]
        views.append(lq.round().clamp(0, 255) / 255.0)
    return torch.stack(views, dim=1)


# --- kernel basis ---


def gaussian_kernel(variance_1: float, variance_2: float, theta: float, size: int = 21) -> np.ndarray:
    """One kernel (size, size), summing to 1, pixel by pixel from SciPy's density."""
    rotation = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    covariance = rotation @ np.diag([variance_1, variance_2]) @ rotation.T
    kernel = np.zeros((size, size))
    for row in range(size):
        for column in range(size):
            offset = (column - size // 2, row - size // 2)
            kernel[row, column] = multivariate_normal.pdf(offset, mean=(0, 0), cov=covariance)
    return kernel / kernel.sum()


def draw_kernels(count: int, seed: int = 0) -> np.ndarray:
    """``count`` anisotropic kernels to compute the basis from: (count, 441)."""
    draw = random.Random(seed)
    kernels = []
    for _ in range(count):
        variance_1 = draw.uniform(0.1, 10.1)
        kernels.append(gaussian_kernel(variance_1, draw.uniform(0.1, variance_1), draw.uniform(0, math.pi)).ravel())
    return np.stack(kernels)


def project(kernels: np.ndarray, components: int = 15) -> np.ndarray:
    """The leading left singular vectors of the kernels: (441, components)."""
    return np.linalg.svd(kernels.T, full_matrices=False)[0][:, :components]


# --- data ---


def read_views(path: Path, gt_size: int, places: Sequence[tuple[int, int]]) -> Tensor:
    """Crops of a whole image file, (D, 3, gt_size, gt_size) in [0, 1]: decoded and made float whole, then cropped."""
    image = cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB).astype(np.float32) / 255.0
    views = [image[top : top + gt_size, left : left + gt_size].transpose(2, 0, 1) for top, left in places]
    return torch.from_numpy(np.stack(views))
