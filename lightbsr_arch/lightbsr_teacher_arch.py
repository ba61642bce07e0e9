"""LightBSRTeacher: the network that sees the degradation and learns the IDR by MoCo-style contrast.

Source: LightBSR (ICCV 2025), Sec. 3.2.1 and Fig. 3; MoCo (CVPR 2020), Algorithm 1. As in the released code every view
passes the estimators as a batch of its own, with its own BatchNorm statistics. Unlike it, the keys of all ranks are
gathered, so that every rank holds the same queue.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .idr import IDR, IDRConverter, IDREstimator
from .layers import BlindSRNetwork, decode_setting, encode_setting
from .lightbsr_arch import IDRGuidedSRNetwork, LightBSRSizes


class ContrastOutput(NamedTuple):
    """Outputs of a training step of the teacher.

    Attributes:
        queries: (B, D, num_idr), L2-normalised, one per view, of the query estimator.
        keys: (B, D, num_idr), L2-normalised, of the key estimator, without gradient.
        sr: (B, 3, h * upscale, w * upscale), the SR image of view 0, or None where it was not asked for.
    """

    queries: Tensor
    keys: Tensor
    sr: Tensor | None


def _gather(x: Tensor) -> Tensor:
    """The batches of all ranks, one after the other; without gradient."""
    if not (dist.is_available() and dist.is_initialized()):
        return x
    gathered = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, x.contiguous())
    return torch.cat(gathered)


def _projector(num_idr: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(num_idr, num_idr), nn.LeakyReLU(0.1), nn.Linear(num_idr, num_idr))


class LightBSRTeacher(BlindSRNetwork):
    """LightBSR's teacher: its estimator sees the LR image and the degradation prior.

    Args:
        num_prior: channels P of the degradation prior (15, or 18 with noise).
        kernel_basis: (kernel_size ** 2, K) basis that the blur kernels were projected on, kept as a buffer so that it
            travels with the weights; None leaves an empty one.
        setting: name of the degradation setting that the teacher is trained for, kept as a buffer for the same reason.
        use_prior: whether the estimators see the prior; False is an ablation (Table 1) in which ``num_prior`` does not
            matter and the prior that the methods are given is ignored.
        num_feat, num_group, num_block, upscale, upsampler, num_idr, num_channel_idr, layer_scale_init,
            spatial_modulation, channel_modulation, idr_correction: as in ``LightBSR``.
        queue_size: keys in the queue.
        momentum: m of the key estimator's update, k <- m k + (1 - m) q.

    Raises:
        ValueError: sizes that do not fit together.
    """

    queue: Tensor
    queue_ptr: Tensor
    kernel_basis: Tensor
    setting_code: Tensor

    def __init__(
        self,
        *,
        num_prior: int = 15,
        kernel_basis: Tensor | None = None,
        setting: str = "",
        use_prior: bool = True,
        num_feat: int = 64,
        num_group: int = 8,
        num_block: int = 8,
        upscale: int = 4,
        upsampler: str = "pixelshuffle",
        num_idr: int = 128,
        num_channel_idr: int = 48,
        layer_scale_init: float = 1e-6,
        spatial_modulation: bool = True,
        channel_modulation: bool = True,
        idr_correction: bool = True,
        queue_size: int = 8192,
        momentum: float = 0.999,
    ) -> None:
        super().__init__()
        sizes = LightBSRSizes.from_arguments(locals())
        if num_prior < 0 or queue_size < 1:
            raise ValueError(f"num_prior is {num_prior} and queue_size {queue_size}, but must be at least 0 and 1")
        self.upscale = upscale
        self.momentum = momentum
        self.use_prior = use_prior
        num_in_ch = 3 + num_prior if use_prior else 3
        self.query_estimator = IDREstimator(num_in_ch=num_in_ch, num_idr=num_idr)
        self.query_projector = _projector(num_idr)
        self.key_estimator = IDREstimator(num_in_ch=num_in_ch, num_idr=num_idr)
        self.key_projector = _projector(num_idr)
        for query, key in self._query_key_parameters():
            key.data.copy_(query.data)
            key.requires_grad = False
        self.converter = IDRConverter(num_idr=num_idr, num_channel_idr=num_channel_idr)
        self.sr_network = IDRGuidedSRNetwork(sizes)
        self.register_buffer("queue", F.normalize(torch.randn(num_idr, queue_size), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
        self.register_buffer("kernel_basis", torch.empty(0, 0) if kernel_basis is None else kernel_basis.clone())
        self.register_buffer("setting_code", encode_setting(setting))

    @property
    def setting(self) -> str:
        """Name of the degradation setting, as stored beside the weights ('' if unknown)."""
        return decode_setting(self.setting_code)

    def estimate_idr(self, lq: Tensor, degradation_prior: Tensor) -> IDR:
        """The IDR: lq (B, 3, h, w) in [0, 1], prior (B, P) -> channel (B, C), spatial (B, S, h, w)."""
        h, w = lq.shape[-2:]
        return self.converter(self.query_estimator(lq, degradation_prior if self.use_prior else None), (h, w))

    def contrast(self, views: Tensor, degradation_prior: Tensor, *, super_resolve: bool) -> ContrastOutput:
        """Queries and keys of all views, and the SR image of view 0 if asked for.

        The caller updates the key estimator before (``update_key_estimator``) and enqueues view 0's keys after the
        loss was taken (``enqueue``).

        Args:
            views: (B, D, 3, h, w) in [0, 1]: D views of B images; the views of an image share their degradation.
            degradation_prior: (B, P), one per image.
            super_resolve: stage 2; stage 1 trains estimator and projector alone.
        """
        prior = degradation_prior if self.use_prior else None
        with torch.no_grad():
            keys = [self._embed(self.key_projector, self.key_estimator(view, prior)) for view in views.unbind(1)]
        features = [self.query_estimator(view, prior) for view in views.unbind(1)]
        queries = [self._embed(self.query_projector, f) for f in features]
        sr = None
        if super_resolve:
            h, w = views.shape[-2:]
            sr = self.sr_network(views[:, 0], self.converter(features[0], (h, w)))
        return ContrastOutput(torch.stack(queries, 1), torch.stack(keys, 1), sr)

    @torch.no_grad()
    def update_key_estimator(self) -> None:
        """Momentum update (Eq. 3) of the key estimator's parameters; its BatchNorm keeps statistics of its own."""
        for query, key in self._query_key_parameters():
            key.mul_(self.momentum).add_(query.detach(), alpha=1 - self.momentum)

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Put keys (B, num_idr) of every rank into the queue, the oldest out.

        Raises:
            ValueError: the batch of all ranks does not divide the queue.
        """
        keys = _gather(keys)
        batch, size = keys.shape[0], self.queue.shape[1]
        if size % batch:
            raise ValueError(f"queue_size is {size}, but must be a multiple of the batch of all ranks, {batch}")
        # The pointer stays on the device: int(queue_ptr) would make the CPU wait for a GPU in every step.
        columns = (self.queue_ptr + torch.arange(batch, device=keys.device)) % size
        self.queue.index_copy_(1, columns, keys.T.to(self.queue.dtype))
        self.queue_ptr.add_(batch).remainder_(size)

    def _query_key_parameters(self):
        for query, key in (
            (self.query_estimator, self.key_estimator),
            (self.query_projector, self.key_projector),
        ):
            yield from zip(query.parameters(), key.parameters(), strict=True)

    @staticmethod
    def _embed(projector: nn.Module, features: Tensor) -> Tensor:
        return F.normalize(projector(features.mean((2, 3))), dim=1)  # (B, num_idr)
