"""The training that every teacher and student shares, on top of BasicSR's ``SRModel``.

Two stages in one run (``train: idr_pretrain_iter``) with one optimizer, and degradation on the training device. A stage
is a module whose ``forward`` takes a batch and returns its losses; DistributedDataParallel wraps it.
"""

import functools
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from basicsr.losses import build_loss
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from lightbsr_arch import use_cpu_kernels
from lightbsr_compat import InputError
from lightbsr_data import TrainingBatch, build_degrader, unsharp_mask

from .checkpoints import CheckpointedModel
from .distributed import model_to_device, synchronise_batch_norm
from .losses import ImageLoss
from .precision import Autocast, grad_scaler
from .schedules import two_stage_cosine
from .speed import checkpoint_activations, lay_out_moments, sr_blocks
from .validation import ShardedValidation

_SKIPPED_STEPS = 20  # in a row, under a gradient scaler: by then it has divided its scale by a million


class Stage(nn.Module):
    """A stage of a training: the losses of a batch, weighted, by the names that the log shows."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.network = model.net_g
        self.losses = model.losses
        self.pixel_loss = model.pixel_loss
        self.autocast = model.autocast

    def trained(self) -> list[nn.Module]:
        """The parts of the network that the stage trains."""
        raise NotImplementedError


class TwoStageModel(CheckpointedModel, ShardedValidation):
    """Base of the models.

    Class attributes:
        network_class: class of the network that it trains.
        stages: stage 1 and stage 2.
        loss_options: names of the ``train`` options that hold a loss each, besides ``pixel_opt``; ``~`` is none.
        optional_losses: names of those that may be missing, too.

    Options of ``train`` for speed and memory (docs/performance.md has their effect); all are off by default, but for
    ``fused``, and for ``channels_last`` on the CPU:
        amp: ``bf16`` or ``fp16`` run the networks, not the losses, in mixed precision; ``fp16`` scales the loss.
        channels_last: lay feature maps out channels last.
        checkpointing: checkpoint the activations of the SR network.
        compile: the SR network's blocks with ``torch.compile``.
    Of ``optim_g``: ``fused: true`` updates all weights in one pass.

    In several processes BatchNorm takes its statistics over all of them.
    """

    network_class: type[nn.Module]
    stages: tuple[type[Stage], type[Stage]]
    loss_options: tuple[str, ...] = ()
    optional_losses: tuple[str, ...] = ()
    net_g: Any
    batch: TrainingBatch

    def __init__(self, opt: dict[str, Any]) -> None:
        if opt["num_gpu"] > 1 and not opt["dist"]:
            raise InputError(
                f"num_gpu is {opt['num_gpu']}, but several GPUs need one process each (--launcher pytorch)"
            )
        self.stage_number = 0
        self.skipped_steps = 0
        super().__init__(opt)

    @classmethod
    def checks(cls, opt: dict[str, Any]) -> list[Callable[[], Any]]:
        """Checks to run before training, with options as BasicSR parses them; each raises InputError.

        Raises:
            InputError: a network of another class, which no other check need expect.
        """
        name = opt["network_g"]["type"]
        network = ARCH_REGISTRY.get(name)
        if isinstance(network, type) and not issubclass(network, cls.network_class):
            raise InputError(f"network_g: type is {name!r}, but {cls.__name__} trains a {cls.network_class.__name__}")
        return [functools.partial(build_degrader, opt)]

    def make_stage(self, number: int) -> Stage:
        return self.stages[number - 1](self)

    def make_loss(self, name: str) -> nn.Module:
        """The loss of an option of ``train``; parameters of its own are trained, and saved in the training state."""
        return build_loss(self.opt["train"][name])

    def kernel_basis(self) -> Tensor | None:
        """The basis of the degradation prior, (441, 15), or None where no network takes the prior."""
        return None

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Leave the network bare: it is the stage that is wrapped for distributed training."""
        channels_last = self.is_train and self.opt["train"].get("channels_last")
        if channels_last is None:
            channels_last = self.device.type == "cpu"
        layout = torch.channels_last if channels_last else torch.contiguous_format
        if self.device.type == "cpu":
            use_cpu_kernels(net)
        return net.to(self.device, memory_format=layout)  # type: ignore[call-overload]

    def init_training_settings(self) -> None:
        train_opt = self.opt["train"]
        for check in self.checks(self.opt):
            check()
        self.pretrain_iter: int = train_opt.get("idr_pretrain_iter") or 0
        self.degrader = build_degrader(self.opt)
        self.autocast = Autocast(train_opt.get("amp"), self.device)
        self.scaler = grad_scaler(train_opt.get("amp"), self.device)
        if train_opt.get("compile"):
            for block in sr_blocks(self.net_g):
                block.compile()
        if train_opt.get("checkpointing"):
            checkpoint_activations(self.net_g)
        if self.opt["dist"]:
            synchronise_batch_norm(self.net_g)
        self.usm_targets: list[str] = train_opt.get("usm_targets") or []
        self.sharpener = unsharp_mask().to(self.device) if self.usm_targets else None
        names = [name for name in self.loss_options if train_opt[name]]
        names += [name for name in self.optional_losses if train_opt.get(name)]
        self.losses = nn.ModuleDict({name: self.make_loss(name).to(self.device) for name in names})
        super().init_training_settings()
        self.pixel_loss = ImageLoss(self.cri_pix, sharpened="pixel_opt" in self.usm_targets)
        if self.ema_decay > 0:
            self.net_g_ema: nn.Module = self.model_to_device(self.net_g_ema)  # the layout of what is averaged

    def setup_optimizers(self) -> None:
        optim_opt = dict(self.opt["train"]["optim_g"])
        if optim_opt.get("fused") is None:
            optim_opt["fused"] = True
        parameters = [p for p in self.net_g.parameters() if p.requires_grad] + list(self.losses.parameters())
        self.optimizer_g = self.get_optimizer(optim_opt.pop("type"), parameters, **optim_opt)
        self.optimizer_g.register_load_state_dict_post_hook(lay_out_moments)
        self.optimizers.append(self.optimizer_g)

    def setup_schedulers(self) -> None:
        train_opt = self.opt["train"]
        scheduler_opt = train_opt["scheduler"]
        if scheduler_opt["type"] != "TwoStageCosine":
            super().setup_schedulers()
            return
        factor = two_stage_cosine(
            pretrain_iter=self.pretrain_iter,
            warmup_iter=scheduler_opt["warmup_iter"],
            total_iter=int(train_opt["total_iter"]),
            min_factor=scheduler_opt["eta_min"] / train_opt["optim_g"]["lr"],
        )
        self.schedulers.append(torch.optim.lr_scheduler.LambdaLR(self.optimizer_g, factor))

    def feed_data(self, data: dict[str, Any]) -> None:
        """Take a batch of a training set and degrade it, or one of a benchmark as it is."""
        if "lq" in data:
            super().feed_data(data)
            return
        self.batch = self.degrader(data, self.device, self.kernel_basis())
        if self.sharpener is not None:
            self.batch = self.batch._replace(sharpened_gt=self.sharpener(self.batch.gt))

    def optimize_parameters(self, current_iter: int) -> None:
        number = 1 if current_iter <= self.pretrain_iter else 2
        if number != self.stage_number:
            self._enter_stage(number)
        self.log_dict = self.reduce_loss_dict(self.step())
        self._stop_if_not_finite(current_iter)
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    def _enter_stage(self, number: int) -> None:
        self.stage_number, self.stage = number, self.make_stage(number)
        trained = {id(p) for module in [*self.stage.trained(), self.losses] for p in module.parameters()}
        for parameter in self.optimizer_g.param_groups[0]["params"]:
            parameter.requires_grad = id(parameter) in trained
        # DistributedDataParallel looks at requires_grad when it is made.
        self.wrapped_stage = model_to_device(self, self.stage)

    def step(self) -> dict[str, Tensor]:
        """One step of the optimizer; returns the losses."""
        self.optimizer_g.zero_grad()
        losses = self.wrapped_stage(self.batch)
        total: Any = sum(losses.values())
        self.scaler.scale(total).backward()
        self.scaler.step(self.optimizer_g)
        self.scaler.update()
        return losses

    def reduce_loss_dict(self, loss_dict: dict[str, Tensor]) -> "OrderedDict[str, float]":
        """The losses' means over all ranks, on every rank (``BaseModel``'s are on rank 0 alone)."""
        values = torch.stack([loss.detach() for loss in loss_dict.values()])
        if self.opt["dist"]:
            torch.distributed.all_reduce(values)
            values /= self.opt["world_size"]
        return OrderedDict(zip(loss_dict, values.tolist(), strict=True))

    def _stop_if_not_finite(self, current_iter: int) -> None:
        wrong = {name: value for name, value in self.log_dict.items() if not math.isfinite(value)}
        self.skipped_steps = self.skipped_steps + 1 if wrong else 0
        if wrong and (not self.scaler.is_enabled() or self.skipped_steps > _SKIPPED_STEPS):
            found = ", ".join(f"{name} is {value}" for name, value in wrong.items())
            raise InputError(
                f"training stops at iteration {current_iter}: {found}; the last checkpoint is from before"
                " (--auto_resume goes on from it, with a lower lr for instance)"
            )
