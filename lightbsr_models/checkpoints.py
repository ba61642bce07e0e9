"""Exact resume, atomic saving and safe loading.

The functions ``load_network``, ``save_network``, ``save_training_state``, ``resume_training`` and
``update_learning_rate`` are methods of our models in place of ``BaseModel``'s (``CheckpointedModel``). Within
``lightbsr train`` and ``lightbsr test`` all but ``resume_training`` serve every model
(``lightbsr/training/basicsr_fixes.py``).
"""

import glob
import os
import re
import warnings
from typing import Any

import pydantic
import torch
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lightbsr_compat import InputError, atomic_save, did_you_mean, load_weights_file, require_finite
from lightbsr_data.degraders import Degrader

from .distributed import any_rank
from .seeding import seed_generators, stable_seed
from .stopping import EXIT_STOPPED, stop_requested

_stock_update_learning_rate = BaseModel.update_learning_rate


# --- weights ---


def is_state_dict(checkpoint: Any) -> bool:
    """Whether a checkpoint is a bare state dict: tensors by name."""
    return isinstance(checkpoint, dict) and bool(checkpoint) and all(isinstance(v, Tensor) for v in checkpoint.values())


def pick_state_dict(checkpoint: Any, path: str, param_key: str = "params") -> dict[str, Tensor]:
    """The state dict in a checkpoint of BasicSR's form, or the checkpoint itself where it is a bare state dict.

    Raises:
        InputError: no state dict there, no such key, or weights that are not finite.
    """
    weights = checkpoint
    if not is_state_dict(checkpoint):
        weights = checkpoint.get(param_key) if isinstance(checkpoint, dict) else None
    if not is_state_dict(weights):
        known = list(checkpoint) if isinstance(checkpoint, dict) and weights is None else []
        hint = did_you_mean(param_key, map(str, known)) if known else ""
        raise InputError(f"{path!r} holds no weights under {param_key!r}{hint}")
    require_finite(weights, path)
    return weights


def load_network(
    self: Any, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = "params"
) -> None:
    """``BaseModel.load_network`` without running pickled code; also of safetensors files and bare state dicts.

    Raises:
        InputError: the file holds no such weights, or ones that do not fit.
    """
    logger, net, weights = get_root_logger(), self.get_bare_model(net), load_weights_file(load_path)
    if param_key is not None:
        if isinstance(weights, dict) and param_key not in weights and "params" in weights:
            logger.info(f"Loading: {param_key} does not exist, use params.")
            param_key = "params"
        weights = pick_state_dict(weights, load_path, param_key)
    logger.info(f"Loading {type(net).__name__} model from {load_path}, with param key: [{param_key}].")
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    self._print_different_keys_loading(net, weights, strict)
    try:
        net.load_state_dict(weights, strict=strict)
    except RuntimeError as error:
        reason = " ".join(str(error).splitlines()[1].split())
        raise InputError(f"{load_path!r} does not fit {type(net).__name__}: {reason}") from None


@master_only
def save_network(self: Any, net: Any, net_label: str, current_iter: int | str, param_key: Any = "params") -> None:
    """``BaseModel.save_network``, whole or not at all; an error of the disk is raised, not ignored.

    Raises:
        InputError: the disk is full, or the folder cannot be written to.
    """
    networks = net if isinstance(net, list) else [net]
    keys = param_key if isinstance(param_key, list) else [param_key]
    content = {}
    for network, key in zip(networks, keys, strict=True):
        weights = self.get_bare_model(network).state_dict()
        content[key] = {name.removeprefix("module."): value.cpu() for name, value in weights.items()}
    name = f"{net_label}_{'latest' if current_iter == -1 else current_iter}.pth"
    atomic_save(content, os.path.join(self.opt["path"]["models"], name))


# --- training states ---


class TrainingState(pydantic.BaseModel):
    """Types of a training state's entries, of BasicSR's own states too; see ``save_training_state``."""

    model_config = pydantic.ConfigDict(strict=True)
    epoch: int
    iter: int
    optimizers: list[dict[str, Any]]
    schedulers: list[Any]
    best_metric_results: dict[str, dict[str, dict[str, float | str]]] = {}
    rank_states: int = pydantic.Field(0, ge=0, le=2**16)
    shared: dict[str, Any] = {}


def save_training_state(self: Any, epoch: int, current_iter: int) -> None:
    """``BaseModel.save_training_state``, whole or not at all, after the weights and what every rank holds by itself.

    So a state on the disk implies all that belongs to it. All but the newest ``logger: keep_checkpoints`` are removed.
    """
    if current_iter == -1:
        return
    folder, rank = self.opt["path"]["training_states"], self.opt.get("rank", 0)
    rank_state: dict[str, Any] = self.rank_state() if hasattr(self, "rank_state") else {}
    if rank_state:
        atomic_save(rank_state, os.path.join(folder, f"{current_iter}.rank{rank}.pth"))
        any_rank(self, False)  # waits for all
    if rank != 0:
        return
    state = {
        "epoch": epoch,
        "iter": current_iter,
        "rank_states": self.opt.get("world_size", 1) if rank_state else 0,
        "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
        "best_metric_results": {
            dataset: {metric: {**best, "val": float(best["val"])} for metric, best in results.items()}
            for dataset, results in getattr(self, "best_metric_results", {}).items()
        },
        "shared": self.shared_state() if hasattr(self, "shared_state") else {},
    }
    atomic_save(state, os.path.join(folder, f"{current_iter}.state"))
    _remove_old(self.opt)


def _remove_old(opt: dict[str, Any]) -> None:
    """Remove all but the newest ``logger: keep_checkpoints`` training states and their weights, never ``latest``."""
    keep = (opt.get("logger") or {}).get("keep_checkpoints")
    if keep is None:
        return
    paths = opt["path"]
    files = {
        file: int(match[1])
        for pattern in (
            os.path.join(glob.escape(paths["training_states"]), "*.state"),  # before its weights
            os.path.join(glob.escape(paths["training_states"]), "*.rank*.pth"),
            os.path.join(glob.escape(paths["models"]), "net_*.pth"),
        )
        for file in glob.glob(pattern)
        if (match := re.search(r"(?:^|_)(\d+)\.", os.path.basename(file)))
    }
    kept = sorted(iteration for file, iteration in files.items() if file.endswith(".state"))[-keep:]
    for file, iteration in files.items():
        if iteration < kept[0]:
            os.remove(file)


def load_training_state(path: str, opt: dict[str, Any]) -> dict[str, Any]:
    """Read a training state and make sure that the weights which belong to it can be read too.

    Args:
        path: of the ``.state`` file.
        opt: parsed options; the weights are looked for in ``path: models``.

    Raises:
        InputError: no training state, or it or its weights are missing or damaged.
    """
    state = load_weights_file(path)
    try:
        TrainingState.model_validate(state)
    except pydantic.ValidationError as error:
        where, reason = ".".join(map(str, error.errors()[0]["loc"])), error.errors()[0]["msg"]
        raise InputError(
            f"resume_state {path!r} is not a training state: give the .state file from training_states/, not a .pth"
            f" ({f'{where}: ' if where else ''}{reason})"
        ) from None
    iteration, folder = state["iter"], os.path.dirname(path)
    ignored = opt["path"].get("ignore_resume_networks") or ()
    names = [name for name in opt if name.startswith("network_") and name not in ignored]
    weights = [os.path.join(opt["path"]["models"], f"net_{name[8:]}_{iteration}.pth") for name in names]
    # A network that is not net_g may be one that its model never saves.
    files = [file for name, file in zip(names, weights, strict=True) if name == "network_g" or os.path.exists(file)]
    files += [os.path.join(folder, f"{iteration}.rank{rank}.pth") for rank in range(state.get("rank_states", 0))]
    for file in files:
        try:
            load_weights_file(file)
        except InputError as error:
            raise InputError(f"resume_state {path!r} cannot be used without what belongs to it: {error}") from None
    return state


def newest_state(opt: dict[str, Any]) -> str | None:
    """The newest complete training state of an experiment, or None where there is none at all.

    A damaged one is named in a warning and passed over.

    Raises:
        InputError: there are training states, but every one is damaged.
    """
    folder = opt["path"]["training_states"]
    names = os.listdir(folder) if os.path.isdir(folder) else []
    iterations = sorted((int(m[1]) for name in names if (m := re.fullmatch(r"(\d+)\.state", name))), reverse=True)
    faults = []
    for iteration in iterations:
        path = os.path.join(folder, f"{iteration}.state")
        try:
            load_training_state(path, opt)
            return path
        except InputError as error:
            print(f"lightbsr: warning: {error}; the training state before it is used", flush=True)
            faults.append(str(error))
    if faults:
        raise InputError("\n".join(["--auto_resume found no training state that is whole", *faults]))
    return None


# --- resume ---


def resume_training(self: Any, resume_state: dict[str, Any]) -> None:
    """Go on from a training state; learning rate, schedule and optimizer are the option file's, changed or not.

    The moments of the optimizers are the state's. The schedulers are stepped up to the state's iteration, so that an
    unchanged option file gives the bits that were saved; what differs is logged.

    Raises:
        InputError: the optimizers' parameters are not those of the option file's network, or the state is damaged.
    """
    try:
        saved_groups = [saved["param_groups"] for saved in resume_state["optimizers"]]
        for optimizer, saved in zip(self.optimizers, resume_state["optimizers"], strict=True):
            groups = []
            for ours, theirs in zip(optimizer.param_groups, saved["param_groups"], strict=True):
                own = {name: value for name, value in ours.items() if name != "params"}
                for name in sorted(own.keys() & theirs.keys() - {"lr"}):
                    _log_change(name, own[name], theirs[name])
                groups.append({**theirs, **own})
            optimizer.load_state_dict({**saved, "param_groups": groups})
        if resume_state.get("shared"):
            self.load_shared_state(resume_state["shared"])
        if self.opt.get("rank", 0) < resume_state.get("rank_states", 0):
            file = f"{resume_state['iter']}.rank{self.opt.get('rank', 0)}.pth"
            folder = os.path.dirname(self.opt["path"]["resume_state"])
            self.load_rank_state(load_weights_file(os.path.join(folder, file)))
    except InputError:
        raise
    except Exception as error:  # torch raises whatever the state provokes
        raise InputError(f"resume_state does not fit the networks of the option file: {error!r:.300}") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of torch: schedulers that step before their optimizers
        for iteration in range(1, resume_state["iter"] + 1):
            _stock_update_learning_rate(self, iteration, self.opt["train"].get("warmup_iter") or -1)
    for optimizer, saved in zip(self.optimizers, saved_groups, strict=True):
        for group, theirs in zip(optimizer.param_groups, saved, strict=True):
            _log_change(f"lr of iteration {resume_state['iter']}", group["lr"], theirs.get("lr"))
    if resume_state.get("best_metric_results"):
        self.best_metric_results = resume_state["best_metric_results"]


def _log_change(name: str, new: Any, old: Any) -> None:
    new, old = (list(value) if isinstance(value, tuple) else value for value in (new, old))
    if new != old:
        get_root_logger().warning(f"Resuming: {name} is {new!r} by the option file, and was {old!r} when it was saved.")


# --- the beginning of a step ---


def update_learning_rate(self: Any, current_iter: int, warmup_iter: int = -1) -> None:
    """``BaseModel.update_learning_rate``, the first call of every step in BasicSR's loop.

    Before it training stops, saved, if a signal asked for it; after it the step's random numbers are seeded.
    """
    done = current_iter - 1
    if any_rank(self, stop_requested()):
        self.save(0, done)  # the epoch: ``lightbsr train`` counts it from the iteration
        any_rank(self, False)  # waits for all: a launcher ends every rank as soon as the first has ended
        get_root_logger().info(f"Stopped after iteration {done}; saved. --auto_resume goes on.")
        raise SystemExit(EXIT_STOPPED)
    _stock_update_learning_rate(self, current_iter, warmup_iter)
    if self.opt.get("manual_seed") is not None:
        seed_generators(stable_seed(self.opt["manual_seed"], current_iter, self.opt.get("rank", 0)))


# --- our models ---


class CheckpointedModel(SRModel):
    """``SRModel`` with the functions above for methods, and an average (EMA) that knows BatchNorm."""

    net_g: Any
    net_g_ema: Any
    scaler: torch.amp.GradScaler
    degrader: Degrader
    losses: nn.ModuleDict

    load_network = load_network
    save_network = save_network
    save_training_state = save_training_state
    resume_training = resume_training
    update_learning_rate = update_learning_rate

    def model_ema(self, decay: float = 0.999) -> None:
        """Average parameters and BatchNorm's statistics (``BaseModel`` leaves these out); copy all other buffers."""
        values = {**dict(self.net_g.named_parameters()), **dict(self.net_g.named_buffers())}
        averages = dict(self.net_g_ema.named_parameters())
        for name, average in self.net_g_ema.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                averages[name] = average
            else:  # counters, queues, constants: an average of them means nothing
                average.copy_(values[name])
        get_ema_multi_avg_fn(decay)(list(averages.values()), [values[name] for name in averages], None)

    def save(self, epoch: int, current_iter: int) -> None:
        """Save networks and training state; raises InputError where a weight is not finite."""
        for name, value in self.net_g.named_parameters():
            if not value.isfinite().all():
                raise InputError(f"the weights {name} are not finite: they are not saved, training stops")
        super().save(epoch, current_iter)

    def shared_state(self) -> dict[str, Any]:
        """State that all processes hold alike, besides BasicSR's: the gradient scaler's, and that of losses."""
        state: dict[str, Any] = {"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {}
        losses = self.losses.state_dict()
        return {**state, "losses": losses} if losses else state

    def load_shared_state(self, state: dict[str, Any]) -> None:
        """Restore ``shared_state()``."""
        if "scaler" in state and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.losses.load_state_dict(state.get("losses", {}))

    def rank_state(self) -> dict[str, Any]:
        """State of this process alone: the pair pool of the real-world setting."""
        pool = getattr(self.degrader, "pool", None)
        return {"pool": pool.state()} if pool is not None and pool.size else {}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        """Restore ``rank_state()``."""
        self.degrader.pool.load_state(state["pool"], self.device)
