"""Training in several processes: BatchNorm over all of their batches, and DistributedDataParallel on the CPU too."""

from typing import Any

import torch
import torch.distributed as dist
from basicsr.models.base_model import BaseModel
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

_stock_model_to_device = BaseModel.model_to_device


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose statistics in training are those of all ranks' batches, which must be equally large.

    PyTorch's ``SyncBatchNorm`` needs CUDA; this works on every backend. The gradient flows through the statistics to
    all ranks. With the mean of the ranks' losses, and of their gradients, training is that of one process with the
    whole batch.

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


def model_to_device(self: Any, net: nn.Module) -> nn.Module:
    """``BaseModel.model_to_device``, which gives DistributedDataParallel a CUDA device even where there is none."""
    if self.opt["dist"] and self.device.type == "cpu":
        return DistributedDataParallel(net, find_unused_parameters=self.opt.get("find_unused_parameters", False))
    return _stock_model_to_device(self, net)


def any_rank(model: Any, value: bool) -> bool:
    """Whether ``value`` is true in any process of the model's training; all of them must call this."""
    if not model.opt.get("dist"):
        return value
    flag = torch.tensor([int(value)], device=model.device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)
