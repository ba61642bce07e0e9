"""Find, read and check option files before BasicSR sees them.

Everything that would fail later for a reason in the option file is found here, all of it at once.
"""

import copy
import functools
import inspect
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from basicsr.data.realesrgan_dataset import RealESRGANDataset
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

from lightbsr_arch import KDSR, KDSRTeacher, LightBSR, LightBSRTeacher, network_options
from lightbsr_compat import InputError, did_you_mean, load_options, load_weights_file
from lightbsr_data import BlindBenchmarkDataset, DegradationPriorDataset
from lightbsr_data.images import MissingImages
from lightbsr_models.adversarial_model import AdversarialModel
from lightbsr_models.checkpoints import load_training_state, pick_state_dict
from lightbsr_models.checks import check_same
from lightbsr_models.two_stage_model import TwoStageModel

from . import preflight

# Options by section: type, and whether the section needs it. None as a value is "not given" everywhere (YAML's ~).
_Spec = Mapping[str, tuple[Any, bool]]
_NUMBER = (int, float)
_TOP: _Spec = {
    "name": (str, True),
    "model_type": (str, True),
    "scale": (int, True),
    "num_gpu": ((int, str), True),
    "manual_seed": (int, False),
    "find_unused_parameters": (bool, False),
    "datasets": (dict, True),
    "path": (dict, True),
    "network_g": (dict, True),
    "train": (dict, False),
    "val": (dict, False),
    "logger": (dict, False),
    "dist_params": (dict, False),
}
_PATH: _Spec = {
    "pretrain_network_g": (str, False),
    "pretrain_network_teacher": (str, False),
    "pretrain_network_d": (str, False),
    "param_key_g": (str, False),
    "param_key_teacher": (str, False),
    "start_from_teacher": (str, False),
    "strict_load_g": (bool, False),
    "strict_load_d": (bool, False),
    "resume_state": (str, False),
    "ignore_resume_networks": (list, False),
}
_TRAIN: _Spec = {
    "total_iter": (int, True),
    "idr_pretrain_iter": (int, False),
    "warmup_iter": (int, False),
    "amp": (str, False),
    "channels_last": (bool, False),
    "checkpointing": (bool, False),
    "compile": (bool, False),
    "ema_decay": (_NUMBER, False),
    "optim_g": (dict, True),
    "scheduler": (dict, True),
    "pixel_opt": (dict, False),
    "perceptual_opt": (dict, False),
    "usm_targets": (list, False),
}
_ADVERSARIAL: _Spec = {"gan_opt": (dict, True), "optim_d": (dict, True)}
_OPTIM: _Spec = {
    "type": (str, True),
    "lr": (_NUMBER, True),
    "betas": (list, False),
    "eps": (_NUMBER, False),
    "weight_decay": (_NUMBER, False),
    "amsgrad": (bool, False),
    "fused": (bool, False),
}
_SCHEDULERS: Mapping[str, _Spec] = {
    "TwoStageCosine": {"type": (str, True), "warmup_iter": (int, True), "eta_min": (_NUMBER, True)},
    "MultiStepLR": {
        "type": (str, True),
        "milestones": (list, True),
        "gamma": (_NUMBER, False),
        "restarts": (list, False),
        "restart_weights": (list, False),
    },
    "CosineAnnealingRestartLR": {
        "type": (str, True),
        "periods": (list, True),
        "restart_weights": (list, False),
        "eta_min": (_NUMBER, False),
    },
}
_SCHEDULERS = {**_SCHEDULERS, "MultiStepRestartLR": _SCHEDULERS["MultiStepLR"]}
_VAL: _Spec = {
    "val_freq": (int, False),
    "save_img": (bool, True),
    "suffix": (str, False),
    "pbar": (bool, False),
    "metrics": (dict, False),
}
_LOGGER: _Spec = {
    "print_freq": (int, True),
    "save_checkpoint_freq": (int, True),
    "keep_checkpoints": (int, False),
    "use_tb_logger": (bool, True),
    "wandb": (dict, False),
}
_DIST: _Spec = {"backend": (str, False), "port": (int, False)}
_DATASET: _Spec = {"name": (str, True), "type": (str, True), "dataroot_gt": (str, True), "io_backend": (dict, True)}
_LOADER: _Spec = {
    "batch_size_per_gpu": (int, True),
    "num_worker_per_gpu": (int, True),
    "dataset_enlarge_ratio": (_NUMBER, False),
    "pin_memory": (bool, False),
    "persistent_workers": (bool, False),
    "prefetch_mode": (str, False),
    "num_prefetch_queue": (int, False),
}
_OUR_DATASETS: Mapping[type, _Spec] = {
    DegradationPriorDataset: {
        "meta_info_file": (str, False),
        "gt_size": (int, True),
        "num_views": (int, True),
        "degradation": (str, True),
        "use_hflip": (bool, False),
        "use_rot": (bool, False),
    },
    BlindBenchmarkDataset: {"meta_info_file": (str, False), "degradation": (dict, True)},
}


# The least value of a number, wherever an option of that name stands.
_AT_LEAST = {
    **dict.fromkeys(("batch_size_per_gpu", "total_iter", "val_freq", "queue_size", "num_prefetch_queue"), 1),
    **dict.fromkeys(("print_freq", "save_checkpoint_freq", "keep_checkpoints", "num_views", "gt_size"), 1),
    **dict.fromkeys(("num_worker_per_gpu", "num_gpu", "idr_pretrain_iter", "pool_size", "ema_decay", "lr"), 0),
    **dict.fromkeys(("eta_min", "temperature", "dataset_enlarge_ratio"), 0),
}

_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    dict: "a section",
    list: "a list",
}
_BLUR: _Spec = {
    "blur_kernel_size": (int, True),
    "kernel_list": (list, True),
    "kernel_prob": (list, True),
    "blur_sigma": (list, True),
    "betag_range": (list, True),
    "betap_range": (list, True),
    "sinc_prob": (_NUMBER, True),
}
_REAL_ESRGAN: _Spec = {
    "meta_info": (str, False),
    "degradation": (str, True),
    "gt_size": (int, True),
    "num_views": (int, False),
    "pool_size": (int, False),
    "second_order": (dict, False),
    **_BLUR,
    **{f"{name}2": spec for name, spec in _BLUR.items()},
    "final_sinc_prob": (_NUMBER, True),
    "use_hflip": (bool, True),
    "use_rot": (bool, True),
}


def _type_name(types: Any) -> str:
    if types == _NUMBER:
        return "a number"
    return " or ".join(_TYPE_NAMES[t] for t in (types if isinstance(types, tuple) else (types,)))


def _fits(value: Any, types: Any) -> bool:
    allowed = types if isinstance(types, tuple) else (types,)
    return isinstance(value, allowed) and (not isinstance(value, bool) or bool in allowed)


def _registered(registry: Any, name: str) -> Any:
    """What ``name`` is in a registry of BasicSR, which may know it with a suffix of its own; None if nothing."""
    return next((registry.get(n) for n in (name, f"{name}_basicsr") if n in registry), None)


class Findings(list[str]):
    """Sentences about one option file.

    Attributes:
        lacking: those about images that are not there, which leave the rest of the options to be checked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lacking: list[str] = []

    @property
    def options_are_right(self) -> bool:
        """Whether nothing is wrong but that images are not there."""
        return len(self) == len(self.lacking)

    def section(self, where: str, options: Any, spec: _Spec, *, others: bool = False) -> bool:
        """Check a section's names and types; returns whether it can be looked into further."""
        if not isinstance(options, dict):
            self.append(f"{where} is {options!r}, but must be a section")
            return False
        good = True
        prefix = f"{where}: " if where else ""
        for name, value in options.items():
            if name not in spec:
                if not others:
                    self.append(f"{prefix}unknown option {name!r}{did_you_mean(name, spec)}")
                continue
            if value is not None and not _fits(value, spec[name][0]):
                self.append(f"{prefix}{name} is {value!r}, but must be {_type_name(spec[name][0])}")
                good = False
            least = _AT_LEAST.get(name)
            if least is not None and _fits(value, _NUMBER) and not least <= value < math.inf:
                self.append(f"{prefix}{name} is {value}, but must be a number from {least} up")
                good = False
        for name, (_, required) in spec.items():
            if required and options.get(name) is None:
                self.append(f"{prefix}{name} is missing")
                good = False
        return good

    def registered(self, where: str, options: Any, registry: Any, skip: tuple[str, ...] = (), extra: _Spec = {}) -> Any:  # noqa: B006
        """Check a section whose ``type`` is a registered class or function against its signature; returns that."""
        if not isinstance(options, dict) or not isinstance(options.get("type"), str):
            self.append(f"{where}: type is missing")
            return None
        name = options["type"]
        made = _registered(registry, name)
        if made is None:
            self.append(f"{where}: type is {name!r}{did_you_mean(name, registry.keys())}")
            return None
        spec = {"type": (str, True), **extra, **_signature_spec(made, skip)}
        return made if self.section(where, options, spec) else None

    def attempt(self, check: Callable[[], Any]) -> Any:
        """Run a check that raises InputError; the sentence becomes a finding."""
        try:
            return check()
        except InputError as error:
            self.append(str(error))
            return None

    def lack(self, sentence: str) -> None:
        """Name images that are not there, once, whichever sections name them."""
        if sentence not in self.lacking:
            self.append(sentence)
            self.lacking.append(sentence)

    def attempt_data(self, make: Callable[[], Any]) -> Any:
        """Open a data set of ours, which looks at its other options before it looks for images."""
        try:
            return make()
        except MissingImages as error:
            self.lack(str(error))
        except InputError as error:
            self.append(str(error))
        return None


def _signature_spec(made: Any, skip: tuple[str, ...]) -> _Spec:
    """Names, types and necessity of the options of a class or function, as its signature says."""
    by_annotation = {int: int, float: _NUMBER, bool: bool, str: str}
    everything = (int, float, str, bool, list, dict)
    spec = {}
    for name, parameter in inspect.signature(made).parameters.items():
        if name in skip or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        types = by_annotation.get(parameter.annotation, everything)
        spec[name] = (types, parameter.default is parameter.empty)
    return spec


# The teacher model gives the network these itself: they follow from the degradation.
_NOT_IN_FILES = ("num_prior", "kernel_basis", "setting")
_OUR_NETWORKS = tuple(network.__name__ for network in (KDSR, KDSRTeacher, LightBSR, LightBSRTeacher))


def _check_dataset(findings: Findings, phase: str, dataset: Any, opt: dict[str, Any], full: bool) -> None:
    where = f"datasets: {phase}"
    if not isinstance(dataset, dict) or not isinstance(dataset.get("type"), str):
        findings.append(f"{where}: type is missing")
        return
    dataset_class = _registered(DATASET_REGISTRY, dataset["type"])
    if dataset_class is None:
        findings.append(f"{where}: type is {dataset['type']!r}{did_you_mean(dataset['type'], DATASET_REGISTRY.keys())}")
        return
    loader = _LOADER if phase == "train" else {name: (types, False) for name, (types, _) in _LOADER.items()}
    if dataset_class is RealESRGANDataset and phase == "train":
        _check_real_esrgan(findings, where, dataset, loader)
        return
    if dataset_class not in _OUR_DATASETS:  # BasicSR's own check their options themselves
        findings.section(where, dataset, {"name": (str, True), **loader}, others=True)
        return
    spec = {**_DATASET, **loader, **_OUR_DATASETS[dataset_class]}
    good = findings.section(where, dataset, spec)
    if good and findings.section(f"{where}: io_backend", dataset["io_backend"], {"type": (str, True)}):
        scale = opt["scale"] if opt["scale"] in (1, 2, 3, 4) else 1  # a wrong one has its own finding
        prepared = {**copy.deepcopy(dataset), "scale": scale, "phase": phase.split("_")[0]}
        prepared["dataroot_gt"] = os.path.expanduser(prepared["dataroot_gt"])
        made = findings.attempt_data(lambda: dataset_class(prepared))
        if made is not None:
            findings.extend(preflight.image_findings(made, full=full))
        if dataset.get("prefetch_mode") == "cpu" and not dataset.get("num_worker_per_gpu"):
            # Its thread would draw from the generators that training draws from.
            findings.append(f"{where}: prefetch_mode is 'cpu', but needs num_worker_per_gpu of at least 1")
        if made is not None and phase == "train":
            items = math.ceil(len(made) * (dataset.get("dataset_enlarge_ratio") or 1))
            if items < dataset["batch_size_per_gpu"]:
                findings.append(
                    f"{where}: {len(made)} images make {items} items an epoch, fewer than batch_size_per_gpu,"
                    f" {dataset['batch_size_per_gpu']}: raise dataset_enlarge_ratio"
                )


def _check_real_esrgan(findings: Findings, where: str, dataset: dict[str, Any], loader: _Spec) -> None:
    """BasicSR's ``RealESRGANDataset``, which itself names neither the option nor the file that is missing."""
    spec = {**_DATASET, **loader, **_REAL_ESRGAN}
    if not findings.section(where, dataset, spec):
        return
    root, on_disk = os.path.expanduser(dataset["dataroot_gt"]), dataset["io_backend"].get("type") == "disk"
    if not os.path.isdir(root):
        findings.lack(f"dataroot_gt {root!r} is no folder")
    elif on_disk and not os.path.isfile(dataset.get("meta_info") or ""):
        findings.append(
            f"{where}: meta_info is {dataset.get('meta_info')!r}, but must be a file with the name of an image on every"
            " line: io_backend disk needs it"
        )
    elif not on_disk and not os.path.isfile(os.path.join(root, "meta_info.txt")):
        findings.append(f"{where}: dataroot_gt {root!r} is no LMDB: it holds no meta_info.txt")


def _check_weights(findings: Findings, opt: dict[str, Any]) -> None:
    """Whether the checkpoints that the file names exist and fit the network."""
    path = opt["path"].get("pretrain_network_g")
    if path is None:
        return

    def check() -> None:
        state_dict = pick_state_dict(load_weights_file(path), path, opt["path"].get("param_key_g") or "params")
        try:
            network_class, stored = network_options(state_dict)
        except ValueError as error:
            raise InputError(f"pretrain_network_g {path!r}: {error}") from None
        check_same("pretrain_network_g", {"type": opt["network_g"]["type"]}, {"type": network_class.__name__}, path)
        defaults = {n: p.default for n, p in inspect.signature(network_class).parameters.items()}
        ours = {**defaults, **opt["network_g"]}
        check_same("pretrain_network_g", {n: ours[n] for n in stored if n not in _NOT_IN_FILES}, stored, path)

    if opt["network_g"]["type"] in _OUR_NETWORKS:
        findings.attempt(check)
    elif not os.path.isfile(path):
        findings.append(f"no such checkpoint file: {path!r}")


def _check_train(findings: Findings, opt: dict[str, Any], model: Any) -> None:
    said: Any = opt.get("train") or {}
    optional = [name for name in getattr(model, "optional_losses", ()) if name in said]  # ~ says it, silence does not
    losses = {name: (dict, name not in optional) for name in getattr(model, "loss_options", ())}
    if issubclass(model, TwoStageModel):
        losses["pixel_opt"] = (dict, True)
    if issubclass(model, AdversarialModel):
        losses.update(_ADVERSARIAL)
        if opt.get("network_d") is None:
            findings.append("network_d is missing: adversarial training needs a discriminator")
    train = opt.get("train")
    if train is None:
        findings.append("train is missing: a train option file needs this section")
        return
    if not findings.section("train", train, {**_TRAIN, **losses}, others=not issubclass(model, TwoStageModel)):
        return
    for name in {"optim_g", "optim_d"} & train.keys():
        findings.section(f"train: {name}", train[name], _OPTIM)
    scheduler = str(train["scheduler"].get("type"))
    if scheduler not in _SCHEDULERS:
        findings.append(f"train: scheduler: type is {scheduler!r}{did_you_mean(scheduler, _SCHEDULERS)}")
    else:
        findings.section("train: scheduler", train["scheduler"], _SCHEDULERS[scheduler])
    for name in [n for n in train if n.endswith("_opt") and train[n] is not None]:
        findings.registered(f"train: {name}", train[name], LOSS_REGISTRY)
    if (train.get("idr_pretrain_iter") or 0) > train["total_iter"]:
        findings.append(f"train: idr_pretrain_iter is {train['idr_pretrain_iter']}, but must be at most total_iter")
    if opt.get("logger") is None:
        findings.append("logger is missing")
    else:
        findings.section("logger", opt["logger"], _LOGGER)
    if opt.get("val") is not None and opt["val"].get("val_freq") is None:
        findings.append("val: val_freq is missing")


def check_options(opt: dict[str, Any], *, is_train: bool, launcher: str = "none", full: bool = False) -> Findings:
    """All that is wrong with the options of an option file, a sentence each; empty where nothing is.

    Names and types of every section of ours are checked against what they build, then paths, datasets, checkpoints and
    the arithmetic of batch and queue.

    Args:
        opt: what stands in the file.
        is_train: whether it is for ``train`` or for ``test``.
        launcher: how the processes are started, as on the command line.
        full: read all images instead of a sample.
    """
    findings = Findings()
    networks = {name: (dict, False) for name in opt if str(name).startswith("network_")}
    if not findings.section("", opt, {**networks, **_TOP}):
        return findings
    if opt["model_type"] not in MODEL_REGISTRY:
        findings.append(f"model_type is {opt['model_type']!r}{did_you_mean(opt['model_type'], MODEL_REGISTRY.keys())}")
        return findings
    if isinstance(opt["num_gpu"], str) and opt["num_gpu"] != "auto":
        findings.append(f"num_gpu is {opt['num_gpu']!r}, but must be a whole number or auto")
    if opt["scale"] not in (1, 2, 3, 4):
        findings.append(f"scale is {opt['scale']}, but must be 2, 3 or 4")
    model = MODEL_REGISTRY.get(opt["model_type"])
    for name in networks:
        network = findings.registered(name, opt[name], ARCH_REGISTRY, skip=_NOT_IN_FILES)
        if network is not None and network.__module__.startswith("lightbsr"):
            upscale = opt[name].get("upscale", 4)
            if not findings:
                findings.attempt(functools.partial(preflight.build_on_meta, network, opt[name]))
            if upscale != opt["scale"]:
                findings.append(f"{name}: upscale is {upscale}, but scale is {opt['scale']}: they must be the same")
    findings.section("path", opt["path"], _PATH, others=not issubclass(model, TwoStageModel))
    if opt.get("val") is not None and findings.section("val", opt["val"], _VAL):
        for name, metric in (opt["val"].get("metrics") or {}).items():
            better: _Spec = {"better": (str, False)}
            findings.registered(f"val: metrics: {name}", metric, METRIC_REGISTRY, skip=("img", "img2"), extra=better)
        if not is_train and opt["val"]["save_img"] and "suffix" not in opt["val"]:
            findings.append("val: suffix is missing (~ for none): save_img needs it")
    if opt.get("dist_params") is not None:
        findings.section("dist_params", opt["dist_params"], _DIST)
    phases = ("train", "val") if is_train else ("test",)
    for phase, dataset in opt["datasets"].items():
        if str(phase).split("_")[0] not in phases:
            findings.append(f"datasets: {phase!r} is none of {', '.join(phases)}, {phases[-1]}_1, ...")
        else:
            _check_dataset(findings, phase, dataset, opt, full)
    if is_train and "train" not in opt["datasets"]:
        findings.append("datasets: train is missing")
    if is_train:
        _check_train(findings, opt, model)
    elif opt.get("val") is None:
        findings.append("val is missing: a test option file needs this section")
    if findings.options_are_right:
        parsed = {**opt, "is_train": is_train, "dist": launcher != "none", "rank": 0}
        parsed["world_size"] = preflight.world_size(launcher)
        if opt["num_gpu"] == "auto":
            parsed["num_gpu"] = torch.cuda.device_count()
        _check_together(findings, parsed, model, is_train=is_train)
    return findings


def _check_together(findings: Findings, opt: dict[str, Any], model: Any, *, is_train: bool) -> None:
    """What only makes sense once every section is right by itself."""
    _check_weights(findings, opt)
    if not is_train:
        return
    for check in model.checks(opt) if issubclass(model, TwoStageModel) else []:
        findings.attempt(check)
    if opt["path"].get("resume_state") is not None:
        models = os.path.join("experiments", opt["name"], "models")
        paths = {**opt["path"], "models": models}
        findings.attempt(lambda: load_training_state(opt["path"]["resume_state"], {**opt, "path": paths}))


def load_checked_options(
    path: str, forced: list[str], *, is_train: bool, launcher: str = "none", full: bool = False
) -> dict[str, Any]:
    """Read an option file and check it, and whether this machine has what it asks for; arguments as above.

    Raises:
        InputError: the findings, a line each, with the file's path.
    """
    options = load_options(path, forced)
    findings = check_options(options, is_train=is_train, launcher=launcher, full=full)
    if findings.options_are_right:
        findings += preflight.resource_findings(options, is_train=is_train)
    if findings:
        raise InputError("\n".join(f"{path}: {finding}" for finding in findings))
    return options
