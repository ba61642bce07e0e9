"""What would fail later for a reason outside the option file: images, resources, an unusable resume state.

``option_files`` asks for it before BasicSR sees the options, and so before it renames a previous experiment's folder.
"""

import inspect
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY

from lightbsr_compat import InputError
from lightbsr_models.speed import sr_parts

SAMPLED_IMAGES = 16
_GIB = 2**30
_LARGEST_SIZE = 2**20  # of a network's option: a trillion blocks would be built for ever


def world_size(launcher: str) -> int:
    """How many processes the launcher has started."""
    variable = {"pytorch": "WORLD_SIZE", "slurm": "SLURM_NTASKS"}.get(launcher)
    return int(os.environ.get(variable, 1)) if variable else 1


def image_findings(dataset: Any, *, full: bool) -> Iterator[str]:
    """What is wrong with the images of one of our datasets: all of them, or some spread evenly over them.

    Args:
        dataset: with ``check_item(index)``, which raises InputError.
        full: look at all images.
    """
    count = len(dataset)
    step = 1 if full else max(1, math.ceil(count / SAMPLED_IMAGES))
    for index in range(0, count, step):
        try:
            dataset.check_item(index)
        except InputError as error:
            yield str(error)


def build_on_meta(network_class: Any, network_opt: dict[str, Any]) -> torch.nn.Module:
    """A network of an option file's section without any memory for its weights.

    Raises:
        InputError: options that the network refuses.
    """
    for name, value in network_opt.items():
        if isinstance(value, int) and value > _LARGEST_SIZE:
            raise InputError(f"{network_class.__name__}: {name} is {value}, but must be at most {_LARGEST_SIZE}")
    try:
        with torch.device("meta"):
            return network_class(**{name: value for name, value in network_opt.items() if name != "type"})
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{network_class.__name__} cannot be built: {reason}") from None


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _activation_bytes(network: torch.nn.Module, batch: int, size: int, *, checkpointing: bool) -> int:
    """What the layers of a network on the meta device put out for a batch of LR images: nothing is computed.

    Args:
        checkpointing: the SR network's parts keep their inputs alone, and what the largest of them puts out is there
            for the time that it is computed again.
    """
    inputs = dict(
        lq=(batch, 3, size, size),
        gt=(batch, 3, size * getattr(network, "upscale", 1), size * getattr(network, "upscale", 1)),
        degradation_prior=(batch, getattr(network, "num_prior", 15)),
    )
    parts = sr_parts(network) if checkpointing else []
    place = {layer: number for number, part in enumerate(parts) for layer in part.modules()}
    kept: Counter[int | None] = Counter()

    def count(module: Any, args: Any, output: Any) -> None:
        kept[place.get(module)] += _bytes([output]) if isinstance(output, torch.Tensor) else 0

    def count_input(module: Any, args: Any) -> None:
        kept[None] += _bytes([args[0]])

    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    for part in parts:
        part.register_forward_pre_hook(count_input)
    names = list(inspect.signature(network.forward).parameters)
    network(*(torch.empty(inputs[name], device="meta") for name in names))
    return kept.pop(None) + max(kept.values(), default=0)


def training_bytes(opt: dict[str, Any]) -> tuple[int, int]:
    """Estimates for training one of our networks: memory of a process, and disk space of one saved checkpoint.

    Memory: weights, gradients, Adam's two moments, average, and every layer's output once; in two thirds of the bytes
    under ``amp``, which leaves some layers in float32, and with ``checkpointing`` what that keeps.
    Disk: weights, average, Adam's moments. Optimizers that keep less take less.
    """
    dataset, train = opt["datasets"]["train"], opt["train"]
    network = build_on_meta(ARCH_REGISTRY.get(opt["network_g"]["type"]), opt["network_g"])
    weights = _bytes(network.state_dict().values())
    averages = weights if train.get("ema_decay") else 0
    size, batch = dataset["gt_size"] // opt["scale"], dataset["batch_size_per_gpu"]
    activations = _activation_bytes(network, batch, size, checkpointing=bool(train.get("checkpointing")))
    if train.get("amp"):
        activations = activations * 2 // 3
    return 4 * weights + averages + activations, 3 * weights + averages


def _available_memory(num_gpu: Any) -> tuple[int, str]:
    """Bytes of memory for a training process, and what it is the memory of."""
    if num_gpu != 0:
        return torch.cuda.get_device_properties(0).total_memory, "the GPU"
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "this machine"
    except (AttributeError, ValueError, OSError):  # not on Windows
        return 2**62, "this machine"


def _saves(opt: dict[str, Any]) -> int:
    """How many checkpoints a run leaves on the disk."""
    logger = opt["logger"]
    saves = opt["train"]["total_iter"] // logger["save_checkpoint_freq"]
    return min(saves, logger.get("keep_checkpoints") or saves) + 1


def resource_findings(opt: dict[str, Any], *, is_train: bool) -> list[str]:
    """Whether this machine has what a right option file asks for: GPU, memory, disk space."""
    num_gpu = opt["num_gpu"]
    if num_gpu == "auto":
        num_gpu = torch.cuda.device_count()
    if num_gpu != 0 and not torch.cuda.is_available():
        return [f"num_gpu is {num_gpu}, but PyTorch finds no GPU here (0 trains and tests on the CPU)"]
    if not is_train or not ARCH_REGISTRY.get(opt["network_g"]["type"]).__module__.startswith("lightbsr_arch"):
        return []
    findings = []
    memory, checkpoint = training_bytes(opt)
    available, owner = _available_memory(num_gpu)
    if memory > available:
        findings.append(
            f"training needs about {memory / _GIB:.1f} GiB of memory, but {owner} has {available / _GIB:.1f} GiB:"
            " lower batch_size_per_gpu or gt_size"
        )
    needed, free = checkpoint * _saves(opt), shutil.disk_usage(os.getcwd()).free
    if needed > free:
        findings.append(
            f"{_saves(opt)} checkpoints of about {checkpoint / 2**20:.0f} MiB need {needed / _GIB:.1f} GiB, but"
            f" {free / _GIB:.1f} GiB of the disk are free: set logger: keep_checkpoints, or save_checkpoint_freq higher"
        )
    if not os.access(os.getcwd(), os.W_OK):
        findings.append("the current folder cannot be written to, but experiments/ is made in it")
    return findings


def summary(opt: dict[str, Any], *, is_train: bool) -> str:
    """What ``lightbsr check`` says of an option file without findings."""
    if not is_train or not ARCH_REGISTRY.get(opt["network_g"]["type"]).__module__.startswith("lightbsr_arch"):
        return "no findings"
    memory, checkpoint = training_bytes(opt)
    disk = checkpoint * _saves(opt)
    return f"no findings; about {memory / _GIB:.2f} GiB of memory a process, {disk / _GIB:.2f} GiB of disk"
