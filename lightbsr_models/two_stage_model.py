"""What the training of every teacher and student has in common, on top of BasicSR's ``SRModel``.

Two stages in one run (``train: idr_pretrain_iter``) with one optimizer, degradation on the training device, one
distributed wrapper per stage over the parameters that the stage trains.
"""

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from basicsr.losses import build_loss
from basicsr.models.base_model import BaseModel
from torch import Tensor, nn

from lightbsr_compat import InputError, did_you_mean
from lightbsr_data import build_degrader, unsharp_mask

from .batch_norm import BATCH_NORMS, synchronise_batch_norm
from .precision import Autocast, check_amp, grad_scaler
from .schedules import two_stage_cosine
from .speed import check_accumulate, check_compile, checkpoint_activations, compile_blocks, micro_batch
from .validation import ShardedValidation

# Losses whose target can be sharpened (``train: usm_targets``), as in Real-ESRGAN.
_SHARPENED = ("pixel_opt", "perceptual_opt", "gan_opt")


class _Method(nn.Module):
    """A network's method as a module's ``forward``, which is all that DistributedDataParallel knows how to call."""

    def __init__(self, network: nn.Module, method: str, autocast: Autocast) -> None:
        super().__init__()
        self.network = network
        self.method = method
        self.autocast = autocast

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.autocast(getattr(self.network, self.method), *args, **kwargs)


class TwoStageModel(ShardedValidation):
    """Base of the models; a subclass says what each stage trains and what its losses are.

    Class attributes:
        loss_options: names of the ``train`` options that hold a loss each.
        optional_losses: those of them that an ablation may do without, saying so with ``~``.
        all_views: whether a step takes all views of an image, or the first alone.
        batch_attributes: attributes that hold the batch of a step, image by image.

    Options of ``train`` for speed and memory (docs/performance.md has what each gains); all are off by default, but for
    ``channels_last`` and ``fused`` on the CPU:
        amp: ``bf16`` or ``fp16`` run the networks, not the losses, in mixed precision; ``fp16`` scales the loss.
        channels_last: lay feature maps out channels last.
        accumulate: N. The batch of an iteration is cut into N equal micro-batches, one after the other through the
            network, whose gradients are added up. An iteration stays what it was: one batch of the loader, one step of
            the optimizer, of the average (EMA) and of the learning rate; the key estimator is updated once, the queue
            is what it was until all micro-batches are through, and then takes all of their keys. The losses are the
            whole batch's. BatchNorm alone sees a difference: statistics are those of a micro-batch, taken N times.
        checkpointing: keep the inputs of the SR network's parts alone, and compute them again in the backward pass.
        compile: the SR network's blocks with ``torch.compile``.
    Of ``optim_g``: ``fused: true`` updates all weights in one pass.

    Options of ``train`` for several processes: ``batch_norm: sync`` (the default) takes batch statistics over all of
    them, ``per_rank`` over each one's batch; MoCo's keys then change places between them, so that the statistics of a
    batch do not tell which keys belong to it.
    """

    loss_options: tuple[str, ...] = ()
    optional_losses: tuple[str, ...] = ()
    all_views = False
    batch_attributes: tuple[str, ...] = ("lq", "gt", "sharpened_gt", "prior")
    net_g: nn.Module

    def __init__(self, opt: dict[str, Any]) -> None:
        check_launcher(opt)
        self.stage = 0
        super().__init__(opt)

    @classmethod
    def checks(cls, opt: dict[str, Any]) -> list[Callable[[], Any]]:
        """What training with these options would be refused for, all that can be said before anything is built.

        Args:
            opt: options as BasicSR parses them.

        Returns:
            Functions that raise InputError.
        """
        checks = (check_launcher, check_batch_norm, check_amp, check_accumulate, check_compile, check_usm_targets)
        return [functools.partial(check, opt) for check in (*checks, build_degrader)]

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Leave the network bare: ``_enter_stage`` wraps it for distributed training."""
        if self.is_train and self.channels_last():
            return net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return net.to(self.device)

    def channels_last(self) -> bool:
        """Whether feature maps are laid out channels last: as the option file says, else on the CPU."""
        said = self.opt["train"].get("channels_last")
        return self.device.type == "cpu" if said is None else said

    def init_training_settings(self) -> None:
        train_opt = self.opt["train"]
        self.pretrain_iter: int = train_opt.get("idr_pretrain_iter", 0)
        for check in self.checks(self.opt):
            check()
        self.degrader = build_degrader(self.opt)
        self.autocast = Autocast(train_opt.get("amp"), self.device)
        self.scaler = grad_scaler(train_opt.get("amp"), self.device)
        self.accumulate: int = train_opt.get("accumulate") or 1
        if train_opt.get("compile"):
            compile_blocks(self.net_g)
        if train_opt.get("checkpointing"):
            checkpoint_activations(self.net_g)
        self.usm_targets: list[str] = train_opt.get("usm_targets") or []
        if self.usm_targets:
            self.sharpener = unsharp_mask().to(self.device)
        if self.opt["dist"]:
            if train_opt.get("batch_norm", "sync") == "sync":
                synchronise_batch_norm(self.net_g)
            elif hasattr(self.net_g, "shuffle_keys"):
                self.net_g.shuffle_keys = True  # type: ignore[assignment]
        given = [name for name in self.loss_options if train_opt[name] is not None]
        self.losses = {name: build_loss(train_opt[name]).to(self.device) for name in given}
        super().init_training_settings()
        if self.ema_decay > 0:
            self.net_g_ema: nn.Module = self.model_to_device(self.net_g_ema)  # the layout of what is averaged

    def setup_optimizers(self) -> None:
        optim_opt = dict(self.opt["train"]["optim_g"])
        if optim_opt.get("fused") is None:
            optim_opt["fused"] = self.device.type == "cpu"
        parameters = [p for p in self.net_g.parameters() if p.requires_grad]
        self.optimizer_g = self.get_optimizer(optim_opt.pop("type"), parameters, **optim_opt)
        self.optimizers.append(self.optimizer_g)

    def setup_schedulers(self) -> None:
        train_opt = self.opt["train"]
        scheduler_opt = dict(train_opt["scheduler"])
        if scheduler_opt.pop("type") != "TwoStageCosine":
            super().setup_schedulers()
            return
        factor = two_stage_cosine(
            pretrain_iter=self.pretrain_iter,
            warmup_iter=scheduler_opt["warmup_iter"],
            total_iter=int(train_opt["total_iter"]),
            min_factor=scheduler_opt["eta_min"] / train_opt["optim_g"]["lr"],
        )
        self.schedulers.append(torch.optim.lr_scheduler.LambdaLR(self.optimizer_g, factor))

    def stage_modules(self, stage: int) -> list[nn.Module]:
        """The parts of the network that ``stage`` (1 or 2) trains."""
        raise NotImplementedError

    def stage_method(self, stage: int) -> str:
        """The name of the network's method that a step of ``stage`` calls."""
        raise NotImplementedError

    def stage_losses(self, stage: int) -> "OrderedDict[str, Tensor]":
        """All losses of one step, weighted, by the names that the log shows."""
        raise NotImplementedError

    def pixel_loss(self, sr: Tensor) -> Tensor:
        """``pixel_opt`` of the SR images, which are kept as ``output``."""
        self.output = sr
        return self.cri_pix(sr, self.target("pixel_opt"))

    def target(self, loss: str) -> Tensor:
        """The HR images that the loss of that name is taken against, sharpened if ``usm_targets`` names it."""
        return self.sharpened_gt if loss in self.usm_targets else self.gt

    def before_step(self, stage: int) -> None:
        """What there is to do before the losses of a step, once for the whole batch."""

    def after_step(self, stage: int) -> "OrderedDict[str, Tensor]":
        """What is left to do once the network has made its step; returns what the log shows of it."""
        return OrderedDict()

    def shared_state(self) -> dict[str, Any]:
        """What all processes hold alike and need to go on exactly, besides BasicSR's training state."""
        return {"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {}

    def load_shared_state(self, state: dict[str, Any]) -> None:
        """Take up again what ``shared_state`` returned."""
        if "scaler" in state and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])

    def rank_state(self) -> dict[str, Any]:
        """What this process alone holds and needs to go on exactly: the pair pool of the real-world setting."""
        pool = getattr(self.degrader, "pool", None)
        return {"pool": pool.state()} if pool is not None and pool.size else {}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        """Take up again what ``rank_state`` returned."""
        self.degrader.pool.load_state(state["pool"], self.device)

    def _enter_stage(self, stage: int) -> None:
        self.stage = stage
        trained = {id(p) for module in self.stage_modules(stage) for p in module.parameters()}
        for parameter in self.optimizer_g.param_groups[0]["params"]:
            parameter.requires_grad = id(parameter) in trained
        # DDP looks at requires_grad when it is made, so each stage has a wrapper of its own.
        step = _Method(self.net_g, self.stage_method(stage), self.autocast)
        self.step_network = BaseModel.model_to_device(self, step)

    def feed_data(self, data: dict[str, Any]) -> None:
        """Take a batch of a training dataset and degrade it, or one of a benchmark as it is."""
        if "lq" in data:
            super().feed_data(data)
            return
        lq, self.gt, self.prior = self.degrader(data, self.device, self.kernel_basis())
        self.lq = lq if self.all_views else lq[:, 0]
        if self.usm_targets:
            self.sharpened_gt = self.sharpener(self.gt)

    def kernel_basis(self) -> Tensor | None:
        """The basis of the degradation prior, (441, 15), or None where nobody looks at the prior."""
        return None

    def optimize_parameters(self, current_iter: int) -> None:
        stage = 1 if current_iter <= self.pretrain_iter else 2
        if stage != self.stage:
            self._enter_stage(stage)
        self.optimizer_g.zero_grad()
        self.before_step(stage)
        losses = self._backward(stage)
        self.scaler.step(self.optimizer_g)
        self.scaler.update()
        losses.update(self.after_step(stage))
        self.log_dict = self.reduce_loss_dict(losses)
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    def _backward(self, stage: int) -> "OrderedDict[str, Tensor]":
        """Add up the gradients of a batch, micro-batch by micro-batch; returns the losses of the whole."""
        whole = {name: getattr(self, name) for name in self.batch_attributes if getattr(self, name, None) is not None}
        losses: OrderedDict[str, Tensor] = OrderedDict()
        outputs = []
        for number in range(self.accumulate):
            for name, value in whole.items():
                setattr(self, name, micro_batch(value, number, self.accumulate))
            with contextlib.ExitStack() as stack:
                if self.opt["dist"] and number + 1 < self.accumulate:  # the last one's backward averages over ranks
                    stack.enter_context(self.step_network.no_sync())  # type: ignore[union-attr,operator]
                parts = {name: loss / self.accumulate for name, loss in self.stage_losses(stage).items()}
                total: Tensor = sum(parts.values())  # type: ignore[assignment]
                self.scaler.scale(total).backward()
            for name, loss in parts.items():
                losses[name] = losses[name] + loss.detach() if name in losses else loss.detach()
            if self.accumulate > 1 and stage == 2:
                outputs.append(self.output.detach())
        for name, value in whole.items():
            setattr(self, name, value)
        if outputs:
            self.output = torch.cat(outputs)
        return losses


def check_launcher(opt: dict[str, Any]) -> None:
    """Raise InputError where one process is to use several GPUs."""
    if opt["num_gpu"] > 1 and not opt["dist"]:
        raise InputError(
            f"num_gpu is {opt['num_gpu']} without a launcher, but several GPUs need one process each:"
            " torchrun --nproc_per_node=N -m lightbsr train -opt FILE --launcher pytorch"
        )


def check_usm_targets(opt: dict[str, Any]) -> None:
    """Raise InputError where ``train: usm_targets`` names what is no loss with a target."""
    for name in opt["train"].get("usm_targets") or []:
        if name not in _SHARPENED:
            raise InputError(f"usm_targets names {name!r}{did_you_mean(str(name), _SHARPENED)}")


def check_batch_norm(opt: dict[str, Any]) -> None:
    """Raise InputError where ``train: batch_norm`` is not a way of taking batch statistics."""
    batch_norm = opt["train"].get("batch_norm", "sync")
    if batch_norm not in BATCH_NORMS:
        raise InputError(f"train: batch_norm is {batch_norm!r}{did_you_mean(str(batch_norm), BATCH_NORMS)}")


def check_same(what: str, ours: dict[str, Any], theirs: dict[str, Any], path: str) -> None:
    """Raise InputError where two networks that must fit together have an option that differs.

    Args:
        what: the beginning of the sentence, such as 'the teacher'.
        ours: what the option file says.
        theirs: what the checkpoint at ``path`` was made with.
    """
    for name, value in ours.items():
        if name in theirs and theirs[name] != value:
            raise InputError(f"{what} in {path!r} has {name} {theirs[name]!r}, but the option file says {value!r}")


def pick_state_dict(checkpoint: Any, path: str, param_key: str = "params") -> dict[str, Tensor]:
    """The state dict in a checkpoint of BasicSR's form, or the checkpoint itself where it is a bare state dict.

    Raises:
        InputError: no state dict there, or no such key.
    """
    if isinstance(checkpoint, dict) and checkpoint and all(isinstance(v, Tensor) for v in checkpoint.values()):
        return checkpoint
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(param_key), dict):
        known = list(checkpoint) if isinstance(checkpoint, dict) else []
        hint = did_you_mean(param_key, map(str, known)) if known else ""
        raise InputError(f"{path!r} holds no weights under {param_key!r}{hint}")
    return checkpoint[param_key]
