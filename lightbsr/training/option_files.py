"""Read and check option files before BasicSR sees them.

Everything that would fail later for a reason in the option file is found here, all of it at once: first every section
against its declaration, then data sets, checkpoints and what several sections must agree on.
"""

import copy
import functools
import importlib
import inspect
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch

from lightbsr_arch import network_options
from lightbsr_compat import InputError, did_you_mean, load_options, load_weights_file
from lightbsr_data.options import PairedImageOptions, RealESRGANOptions, SingleImageOptions
from lightbsr_models.checkpoints import load_training_state, pick_state_dict
from lightbsr_models.checks import check_same
from lightbsr_models.file_options import MODELS, FileOptions

from . import preflight
from .declarations import NOT_IN_FILES, Findings, SectionChecker, declaration_of, is_ours, lookup, registered_names

# BasicSR's data sets whose objects list their images in ``paths``.
_LISTING = (PairedImageOptions, SingleImageOptions, RealESRGANOptions)
_OF_THE_TAIL = ("upscale", "upsampler")  # options of our networks that change the weights of their tail alone


def import_modules(names: Any) -> None:
    """Import modules that register a user's own classes, also from the working directory.

    Raises:
        InputError: no list of module names, or a module that cannot be imported.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"import is {names!r}, but must be a list of modules, such as [my_module]")
    if names and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # a module of the user's may raise anything
            raise InputError(f"import: module {name!r} cannot be imported: {type(error).__name__}: {error}") from error


def check_options(opt: dict[str, Any], *, is_train: bool, launcher: str = "none", full: bool = False) -> Findings:
    """Everything that is wrong with the options of an option file, a sentence each; empty where nothing is.

    Args:
        opt: content of the file.
        is_train: whether it is for ``train`` or for ``test``.
        launcher: how the processes are started, as on the command line.
        full: read all images instead of a sample.
    """
    findings = Findings()
    model_type = opt.get("model_type")
    model = lookup("model", model_type) if isinstance(model_type, str) else None
    if isinstance(model_type, str) and model is None:
        findings.append(f"model_type is {model_type!r}{did_you_mean(model_type, registered_names('model'))}")
    checker = SectionChecker(model, findings)
    names = [base.__name__ for base in inspect.getmro(model)] if model else []
    declaration = next((MODELS[name] for name in names if name in MODELS), FileOptions)
    checker.check((), opt, declaration, strict=is_ours(model) and declaration is not FileOptions, reader=model)
    _check_datasets(checker, opt, is_train=is_train, full=full)
    findings.extend(_missing_sections(opt, declaration, is_train=is_train))
    if findings.options_are_right:
        _check_together(findings, opt, model, is_train=is_train, launcher=launcher)
    return findings


def _missing_sections(opt: dict[str, Any], declaration: Any, *, is_train: bool) -> list[str]:
    """Sections that are needed in training or in testing alone."""
    needed = ["train", "logger"] if is_train else ["val"]
    if is_train and "network_d" in declaration.model_fields:
        needed.append("network_d")
    findings = [f"{name} is missing" for name in needed if opt.get(name) is None]
    train_set = opt["datasets"].get("train") if isinstance(opt.get("datasets"), dict) else None
    if is_train and declaration is not FileOptions and isinstance(train_set, dict) and "degradation" not in train_set:
        findings.append("datasets: train: degradation is missing")  # a data set of BasicSR's can do without
    val = opt.get("val")
    if is_train and isinstance(val, dict) and val.get("val_freq") is None:
        findings.append("val: val_freq is missing")
    if not is_train and isinstance(val, dict) and val.get("save_img") is True and "suffix" not in val:
        findings.append("val: suffix is missing (~ for none): save_img needs it")
    return findings


# --- data sets ---


def _check_datasets(checker: SectionChecker, opt: dict[str, Any], *, is_train: bool, full: bool) -> None:
    findings, datasets = checker.findings, opt.get("datasets")
    if not isinstance(datasets, dict):
        return
    phases = ("train", "val") if is_train else ("test",)
    for phase, dataset in datasets.items():
        if phase not in phases and str(phase).split("_")[0] != phases[-1]:
            findings.append(f"datasets: {phase!r} is none of {', '.join(phases)}, {phases[-1]}_1, ...")
        elif isinstance(dataset, dict):
            _check_dataset(checker, str(phase), dataset, opt, full=full)
    if is_train and "train" not in datasets:
        findings.append("datasets: train is missing")
    names = [d.get("name") for phase, d in datasets.items() if phase != "train" and isinstance(d, dict)]
    for name, count in Counter(name for name in names if isinstance(name, str)).items():
        if count > 1:
            findings.append(f"datasets: {count} have the name {name!r}, but scores and pictures need different names")


def _check_dataset(
    checker: SectionChecker, phase: str, dataset: dict[str, Any], opt: dict[str, Any], *, full: bool
) -> None:
    """Check a data set's options and then its images."""
    findings, where = checker.findings, f"datasets: {phase}: "
    dataset_class = checker.check_typed(("datasets", phase), dataset, "dataset")
    if dataset_class is None:
        return
    declaration, _ = declaration_of("dataset", dataset_class)
    if phase == "train":
        missing = [name for name in declaration.in_training if dataset.get(name) is None]  # type: ignore[attr-defined]
        findings.extend(f"{where}{name} is missing" for name in missing)
        if dataset.get("prefetch_mode") == "cpu" and dataset.get("num_worker_per_gpu") == 0:
            # Its thread would draw from the generators that training draws from.
            findings.append(f"{where}prefetch_mode is 'cpu', but needs num_worker_per_gpu of at least 1")
        if missing:
            return
    scale = opt.get("scale")
    prepared = {**copy.deepcopy(dataset), "phase": phase.split("_")[0]}
    if scale is not None or is_ours(dataset_class):
        allowed = range(1, 5) if is_ours(dataset_class) else range(1, 65)
        prepared["scale"] = scale if scale in allowed else 1  # a wrong one has a finding of its own
    for key in ("dataroot_gt", "dataroot_lq"):
        if prepared.get(key) is not None:
            prepared[key] = os.path.expanduser(prepared[key])
    count = None
    if is_ours(dataset_class):
        made = findings.attempt(functools.partial(dataset_class, prepared), where)
        if made is not None:
            count = len(made)
            findings.extend(preflight.image_findings(made, full=full))
    elif "io_backend" in declaration.model_fields:
        found = findings.attempt(functools.partial(preflight.check_roots, prepared), where)
        if found and issubclass(declaration, _LISTING):
            images = findings.attempt(functools.partial(preflight.listed_images, dataset_class, prepared), where)
            if images:
                count = len(images)
                findings.extend(preflight.listed_image_findings(images, prepared, full=full))
    if phase == "train" and count is not None:
        items = math.ceil(count * (dataset.get("dataset_enlarge_ratio") or 1))
        if items < dataset["batch_size_per_gpu"]:
            findings.append(
                f"{where}{count} images make {items} items an epoch, fewer than batch_size_per_gpu,"
                f" {dataset['batch_size_per_gpu']}: raise dataset_enlarge_ratio"
            )


# --- what several sections must agree on ---


def _check_together(findings: Findings, opt: dict[str, Any], model: Any, *, is_train: bool, launcher: str) -> None:
    """Check sections against each other, once every section is right by itself."""
    _check_networks(findings, opt)
    _check_metrics(findings, opt)
    path = opt["path"]
    for name, file in path.items():
        if name.startswith(("pretrain_network", "resume_state")) and file is not None:
            if not os.path.isfile(os.path.expanduser(file)):
                findings.append(f"path: {name} is {file!r}, but there is no such checkpoint file")
    processes = findings.attempt(functools.partial(preflight.world_size, launcher))
    if not findings.options_are_right:
        return
    num_gpu = torch.cuda.device_count() if opt["num_gpu"] == "auto" else opt["num_gpu"]
    if is_ours(model) and num_gpu > 1 and launcher == "none":
        findings.append(
            f"num_gpu is {num_gpu} without a launcher, but several GPUs need one process each:"
            " torchrun --nproc_per_node=N -m lightbsr train -opt FILE --launcher pytorch"
        )
    if path.get("pretrain_network_g") is not None and is_ours(lookup("arch", opt["network_g"]["type"])):
        findings.attempt(functools.partial(_check_weights, opt))
    if is_train and hasattr(model, "checks"):
        parsed = {**opt, "is_train": True, "dist": launcher != "none", "rank": 0, "num_gpu": num_gpu}
        for check in findings.attempt(lambda: model.checks({**parsed, "world_size": processes})) or ():
            findings.attempt(check)
    if is_train and path.get("resume_state") is not None:
        paths = {**path, "models": os.path.join("experiments", opt["name"], "models")}
        findings.attempt(lambda: load_training_state(path["resume_state"], {**opt, "path": paths}))


def _check_networks(findings: Findings, opt: dict[str, Any]) -> None:
    for name in [name for name in opt if str(name).startswith("network_") and isinstance(opt[name], dict)]:
        network, options = lookup("arch", opt[name]["type"]), opt[name]
        if is_ours(network):
            if "upscale" in inspect.signature(network).parameters and options.get("upscale", 4) != opt.get("scale"):
                upscale = options.get("upscale", 4)
                findings.append(f"{name}: upscale is {upscale}, but scale is {opt.get('scale')}: they must be the same")
            findings.attempt(functools.partial(preflight.build_on_meta, network, options), f"{name}: ")
        for option, value in options.items():  # weights of a part: spynet_path, edvr_path, load_path
            if str(option).endswith("_path") and isinstance(value, str) and not os.path.isfile(value):
                findings.append(f"{name}: {option} is {value!r}, but there is no such file")


def _check_metrics(findings: Findings, opt: dict[str, Any]) -> None:
    metrics = (opt.get("val") or {}).get("metrics") or {}
    compare = [n for n, m in metrics.items() if "img2" in inspect.signature(lookup("metric", m["type"])).parameters]
    for phase, dataset in opt["datasets"].items():
        if phase != "train" and declaration_of("dataset", lookup("dataset", dataset["type"]))[0] is SingleImageOptions:
            findings.extend(f"val: metrics: {name} needs HR images, but datasets: {phase} has none" for name in compare)


def _check_weights(opt: dict[str, Any]) -> None:
    """Raise InputError where ``pretrain_network_g`` holds another network than the option file describes.

    With ``strict_load_g: false`` the scale may differ, and a teacher may start from its kind of student: BasicSR leaves
    out what does not fit, and names it in the log.
    """
    path, section = os.path.expanduser(opt["path"]["pretrain_network_g"]), opt["network_g"]
    state_dict = pick_state_dict(load_weights_file(path), path, opt["path"].get("param_key_g") or "params")
    try:
        network_class, stored = network_options(state_dict)
    except ValueError as error:
        raise InputError(f"path: pretrain_network_g {path!r}: {error}") from None
    may_differ, kinds = NOT_IN_FILES["arch"], {section["type"]}
    if not opt["path"].get("strict_load_g", True):
        may_differ, kinds = (*may_differ, *_OF_THE_TAIL), {section["type"], section["type"].removesuffix("Teacher")}
    if network_class.__name__ not in kinds:
        check_same("pretrain_network_g", {"type": section["type"]}, {"type": network_class.__name__}, path)
    ours = {**{name: p.default for name, p in inspect.signature(network_class).parameters.items()}, **section}
    check_same("pretrain_network_g", {n: ours[n] for n in stored if n not in may_differ}, stored, path)


def load_checked_options(
    path: str,
    forced: Iterable[str] = (),
    *,
    is_train: bool | None = None,
    launcher: str = "none",
    full: bool = False,
    modules: Iterable[str] = (),
) -> dict[str, Any]:
    """Read an option file and check it; warnings go to standard error.

    Besides ``check_options``: whether this machine has the GPUs and packages that the file asks for.

    Args:
        path: the option file.
        forced: ``--force_yml`` entries.
        is_train: whether it is for ``train`` or ``test``; None: for ``train`` where it has such a section.
        launcher: how the processes are started.
        full: read all images instead of a sample.
        modules: names of modules to import first, besides those of the file's ``import``.

    Raises:
        InputError: the findings, a line each, with the file's path.
    """
    options = load_options(path, forced)
    try:
        import_modules([*modules])
        import_modules(options.get("import") or [])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    is_train = "train" in options if is_train is None else is_train
    findings = check_options(options, is_train=is_train, launcher=launcher, full=full)
    if findings.options_are_right:
        findings.extend([*preflight.device_findings(options), *preflight.package_findings(options)])
        findings.warnings.extend([*preflight.download_warnings(options), *preflight.amp_warnings(options)])
    for warning in findings.warnings:
        print(f"lightbsr: warning: {path}: {warning}", file=sys.stderr)
    if findings:
        raise InputError("\n".join(f"{path}: {finding}" for finding in findings))
    return options
