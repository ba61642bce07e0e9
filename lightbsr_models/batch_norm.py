"""BatchNorm over the batches of all processes, as if they were one; on every backend (PyTorch's own needs CUDA)."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

BATCH_NORMS = ("sync", "per_rank")


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose statistics in training are those of all ranks' batches, which must be equally large.

    The gradient flows through the statistics to all ranks. With the mean of the ranks' losses, and of their gradients,
    training is that of one process with the whole batch.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        world_size = dist.get_world_size()
        mean = all_reduce(x.mean((0, 2, 3))) / world_size  # (C,)
        centred = x - mean[:, None, None]
        variance = all_reduce(centred.square().mean((0, 2, 3))) / world_size  # (C,)
        count = x.numel() // x.shape[1] * world_size
        with torch.no_grad():
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr,arg-type]
            self.running_var.lerp_(variance * count / max(1, count - 1), self.momentum)  # type: ignore[union-attr,arg-type]
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


def synchronise_batch_norm(network: nn.Module) -> None:
    """Let every BatchNorm2d of a network take its statistics over all ranks; parameters and names stay."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d  # it has the same attributes, and nothing else
