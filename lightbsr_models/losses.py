"""Losses of LightBSR's teacher and student, registered in BasicSR.

Source: LightBSR (ICCV 2025), Eq. 1-2 (contrast) and Eq. 5-8 (distillation); KDSR (ICLR 2023), Eq. 5 for the
temperature. L1 and L2 are BasicSR's ``L1Loss`` and ``MSELoss``.
"""

from typing import Any

import torch
import torch.nn.functional as F
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from lightbsr_compat import register
from lightbsr_data import TrainingBatch


@register(LOSS_REGISTRY)
class ContrastiveLoss(nn.Module):
    """InfoNCE over the views of each image against a queue of keys (Eq. 1-2).

    The mean over the D (D - 1) ordered pairs i != j of views, and over the batch, of the cross-entropy that picks
    q_i . k_j among itself and the products of q_i with the queue, all divided by the temperature.

    Args:
        loss_weight: factor of the result.
        temperature: tau.
    """

    def __init__(self, *, loss_weight: float = 1.0, temperature: float = 0.07) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.temperature = temperature

    def forward(self, queries: Tensor, keys: Tensor, queue: Tensor) -> Tensor:
        """Scalar loss of L2-normalised queries (B, D, C) and keys (B, D, C), D >= 2, and the queue (C, N)."""
        batch, num_views = queries.shape[:2]
        queries = queries / self.temperature
        positives = queries @ keys.transpose(1, 2)  # (B, D, D): q_i . k_j
        # One query's negatives are the same for all of its pairs: their log-sum-exp is taken once.
        negatives = torch.logsumexp(queries @ queue, dim=2, keepdim=True)  # (B, D, 1)
        # -log(e^p / (e^p + sum e^n)) = softplus(logsumexp(n) - p)
        cross_entropy = F.softplus(negatives - positives)  # (B, D, D)
        # Weights in place of a boolean mask, whose size a GPU would have to report to the CPU.
        pairs = 1 - torch.eye(num_views, device=queries.device)  # (D, D), 0 where i = j
        return self.loss_weight * (cross_entropy * pairs).sum() / (batch * num_views * (num_views - 1))


@register(LOSS_REGISTRY)
class KLDistillationLoss(nn.Module):
    """KL divergence from the teacher's to the student's softmax over channels, both at one temperature.

    No factor T^2, as in the released code; the sum over channels, the mean over the batch.

    Args:
        loss_weight: factor of the result.
        temperature: T, 0.15 in the released code (the paper prints none).
    """

    def __init__(self, *, loss_weight: float = 1.0, temperature: float = 0.15) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Scalar loss of two vectors of scores, (B, C) each."""
        log_student = F.log_softmax(student / self.temperature, dim=1)
        log_teacher = F.log_softmax(teacher / self.temperature, dim=1)
        return self.loss_weight * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


class PriorLoss(nn.Module):
    """A loss between the degradation prior and a linear readout of the channel IDR, which is trained with the network.

    Not in the papers: a student that is distilled alone can leave out what its teacher's IDR hardly shows, such as the
    blur width beside strong noise. Channels of the prior count as much as they vary; ``photo``'s lie in [-0.2, 1.4].

    Args:
        loss: of two vectors (B, P).
        num_channel_idr: length C of the channel IDR.
        num_prior: length P of the prior.
    """

    def __init__(self, loss: nn.Module, *, num_channel_idr: int, num_prior: int) -> None:
        super().__init__()
        self.loss = loss
        self.readout = nn.Linear(num_channel_idr, num_prior)

    def forward(self, channel: Tensor, prior: Tensor) -> Tensor:
        """Scalar loss of a channel IDR (B, C) and the prior (B, P)."""
        return self.loss(self.readout(channel), prior)


class ImageLoss(nn.Module):
    """A loss between SR images and a batch's HR images.

    Args:
        loss: of two images (B, 3, H, W).
        sharpened: compare with the sharpened HR images (``train: usm_targets``, as Real-ESRGAN does).
    """

    def __init__(self, loss: nn.Module, *, sharpened: bool) -> None:
        super().__init__()
        self.loss = loss
        self.sharpened = sharpened

    def forward(self, sr: Tensor, batch: TrainingBatch) -> Any:
        return self.loss(sr, batch.sharpened_gt if self.sharpened else batch.gt)
