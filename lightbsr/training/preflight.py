"""Checks of what lies outside an option file: images, devices, packages, the launcher's environment, downloads.

``option_files`` calls them before BasicSR sees the options, and so before it renames a previous experiment's folder.
"""

import copy
import importlib.util
import inspect
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import lmdb
import torch

from lightbsr_compat import InputError
from lightbsr_compat.images import decode_rgb8
from lightbsr_data.images import MissingImages, check_lmdb

SAMPLED_IMAGES = 16
_MAX_BLOCKS = 1024  # of one of our networks; building it takes milliseconds a block
_NEED_GPU = ("RealESRNetModel", "RealESRGANModel")
_LAUNCHERS = {
    "pytorch": (("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"), "WORLD_SIZE"),
    "slurm": (("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST"), "SLURM_NTASKS"),
}


def world_size(launcher: str) -> int:
    """Number of processes that the launcher has started.

    Raises:
        InputError: a variable that the launcher sets is missing, or is no number.
    """
    if launcher == "none":
        return 1
    variables, size = _LAUNCHERS[launcher]
    for name in variables:
        value = os.environ.get(name)
        if value is None:
            starter = "torchrun" if launcher == "pytorch" else "srun"
            raise InputError(f"--launcher {launcher} needs the environment variable {name}, which {starter} sets")
        if name not in ("MASTER_ADDR", "SLURM_NODELIST") and not (value.isascii() and value.isdigit()):
            raise InputError(f"--launcher {launcher}: environment variable {name} is {value!r}, but must be a number")
    return max(1, int(os.environ[size]))


def _sample(count: int, *, full: bool) -> range:
    return range(0, count, 1 if full else max(1, math.ceil(count / SAMPLED_IMAGES)))


def image_findings(dataset: Any, *, full: bool) -> Iterator[str]:
    """Faults of the images of one of our data sets: of all, or of some spread evenly over them.

    Args:
        dataset: with ``check_item(index)``, which raises InputError.
        full: look at all images.
    """
    for index in _sample(len(dataset), full=full):
        try:
            dataset.check_item(index)
        except InputError as error:
            yield str(error)


# --- BasicSR's data sets ---


def check_roots(options: dict[str, Any]) -> bool:
    """Check that the folders, LMDBs and meta_info files of a data set are there; returns True.

    Raises:
        MissingImages: a folder is not there.
        InputError: an LMDB or a meta_info file cannot be used.
    """
    is_lmdb = options["io_backend"]["type"] == "lmdb"
    for key in sorted(key for key in options if key.startswith("dataroot") and options[key] is not None):
        root = options[key]
        if not os.path.isdir(root):
            raise MissingImages(f"{key} {root!r} is no folder")
        if is_lmdb:
            files = ("data.mdb", "meta_info.txt")
            missing = [name for name in files if not os.path.isfile(os.path.join(root, name))]
            if missing:
                raise InputError(f"{key} {root!r} is no LMDB: it holds no {missing[0]}")
            if not root.endswith(".lmdb"):
                raise InputError(f"{key} is {root!r}, but BasicSR wants an LMDB's name to end with .lmdb")
            check_lmdb(root, f"{key} {root!r}")
    for key in ("meta_info", "meta_info_file"):
        if options.get(key) is not None and not os.path.isfile(options[key]):
            raise InputError(f"{key} is {options[key]!r}, but there is no such file")
    return True


def listed_images(dataset_class: Any, options: dict[str, Any]) -> list[dict[str, str]]:
    """The images of a data set of BasicSR's with ``paths``, as it lists them itself: path or key by ``gt`` and ``lq``.

    Raises:
        InputError: the data set refuses its options, or names images that are not there.
    """
    try:
        paths = dataset_class(copy.deepcopy(options)).paths
    except (AssertionError, ValueError, LookupError, TypeError, OSError) as error:
        raise InputError(str(error).splitlines()[0] if str(error) else type(error).__name__) from None
    only = "lq" if "dataroot_gt" not in options else "gt"
    images = [
        {key.removesuffix("_path"): path for key, path in entry.items()} if isinstance(entry, dict) else {only: entry}
        for entry in paths
    ]
    if not images:
        raise InputError(f"dataroot_{only} {options[f'dataroot_{only}']!r} holds no image")
    if options["io_backend"]["type"] == "disk":
        missing = [path for entry in images for path in entry.values() if not os.path.isfile(path)]
        if missing:
            raise InputError(_missing_sentence(missing, options))
    return images


def _missing_sentence(missing: Sequence[str], options: dict[str, Any]) -> str:
    first = missing[0]
    meta_info = options.get("meta_info_file") or options.get("meta_info")
    if meta_info is None:
        return f"images are missing ({len(missing)}), the first is {first!r}"
    reason = ""
    if "\ufeff" in first:
        reason = ": the file begins with a byte-order mark"
    elif os.path.isdir(first) or not os.path.basename(first):
        reason = ": the file has an empty line"
    elif " " in open(meta_info, encoding="utf-8", errors="replace").read().split("(")[0].strip():
        reason = ": BasicSR ends a name at its first space"
    return f"meta_info {meta_info!r} names images that are not there ({len(missing)}), the first is {first!r}{reason}"


def _read(path_or_key: str, root: str, *, is_lmdb: bool) -> bytes | None:
    if not is_lmdb:
        with open(path_or_key, "rb") as file:
            return file.read()
    with lmdb.open(root, readonly=True, lock=False, readahead=False) as database, database.begin() as transaction:
        return transaction.get(path_or_key.encode("ascii"))


def listed_image_findings(images: list[dict[str, str]], options: dict[str, Any], *, full: bool) -> Iterator[str]:
    """Faults of images of a data set of BasicSR's: unreadable, too small, LR and GT that do not fit.

    Args:
        images: as ``listed_images`` returns them.
        options: of the data set, with ``scale`` and ``phase``.
        full: decode all images, not a sample.
    """
    is_lmdb = options["io_backend"]["type"] == "lmdb"
    for index in _sample(len(images), full=full):
        sizes = {}
        for kind, path in images[index].items():
            try:
                data = _read(path, options[f"dataroot_{kind}"], is_lmdb=is_lmdb)
                height, width = decode_rgb8(data, path).shape[:2]
                sizes[kind] = (width, height)
            except (InputError, OSError, lmdb.Error, UnicodeEncodeError) as error:
                yield str(error)
        if len(sizes) == len(images[index]):
            yield from _size_findings(sizes, images[index], options)


def _size_findings(sizes: dict[str, tuple[int, int]], paths: dict[str, str], options: dict[str, Any]) -> Iterator[str]:
    """Sizes (width, height) of one item against the scale and ``gt_size``."""
    is_train, scale = options["phase"] == "train", options.get("scale") or 1
    if "lq" in sizes and "gt" in sizes:
        expected = tuple(scale * side for side in sizes["lq"])
        fits = sizes["gt"] == expected if is_train else all(a >= b for a, b in zip(sizes["gt"], expected, strict=True))
        if not fits:
            gt, lq = ("{}x{}".format(*sizes[kind]) for kind in ("gt", "lq"))
            yield f"image {paths['gt']!r} is {gt}, but must be {scale} times {paths['lq']!r}, which is {lq}"
            return
        gt_size = options.get("gt_size")
        if is_train and gt_size and min(sizes["gt"]) < gt_size:
            gt = "{}x{}".format(*sizes["gt"])
            yield f"image {paths['gt']!r} is {gt}, but both sides must be at least gt_size, {gt_size}"


# --- this machine ---


def device_findings(opt: dict[str, Any]) -> Iterator[str]:
    """GPUs that are asked for and not there."""
    has_gpu = torch.cuda.is_available()
    if opt["num_gpu"] not in (0, "auto") and not has_gpu:
        yield f"num_gpu is {opt['num_gpu']}, but PyTorch finds no GPU here (0 trains and tests on the CPU)"
    if opt["model_type"].removesuffix("_basicsr") in _NEED_GPU and (not has_gpu or opt["num_gpu"] == 0):
        yield f"model_type is {opt['model_type']!r}, which needs a GPU: BasicSR computes its JPEG on one"
    for phase, dataset in opt["datasets"].items():
        if dataset.get("prefetch_mode") == "cuda" and (not has_gpu or opt["num_gpu"] == 0):
            yield f"datasets: {phase}: prefetch_mode is 'cuda', but needs a GPU"


def package_findings(opt: dict[str, Any]) -> Iterator[str]:
    """Packages and compilers that are asked for and not there."""
    logger = opt.get("logger") or {}
    with_tensorboard = logger.get("use_tb_logger")
    if with_tensorboard and importlib.util.find_spec("tensorboard") is None:
        yield "logger: use_tb_logger is true, but the package tensorboard is not installed"
    if (logger.get("wandb") or {}).get("project") is not None:
        if not with_tensorboard:
            yield "logger: wandb is given, but needs use_tb_logger: true, whose log it sends"
        if importlib.util.find_spec("wandb") is None:
            yield "logger: wandb is given, but the package wandb is not installed (pip install wandb)"
    if not (opt.get("train") or {}).get("compile"):
        return
    if opt["num_gpu"] == 0 or not torch.cuda.is_available():
        if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "c++", "clang++", "cl"))):
            yield "train: compile is true, but no C++ compiler is found, which it needs on the CPU"
    elif importlib.util.find_spec("triton") is None:
        yield "train: compile is true, but the package triton is not installed, which it needs on a GPU"


def download_warnings(opt: dict[str, Any]) -> Iterator[str]:
    """Weights that BasicSR downloads at the start, and the paths where it looks for them."""
    from basicsr.archs.vgg_arch import VGG_PRETRAIN_PATH
    from torchvision.models import get_model_weights

    with_vgg = {
        f"train: {name}": loss for name, loss in (opt.get("train") or {}).items() if _is(loss, "PerceptualLoss")
    }
    with_vgg |= {name: network for name, network in opt.items() if _is(network, "DFDNet")}
    for where, section in with_vgg.items():
        try:
            url = get_model_weights(str(section.get("vgg_type", "vgg19"))).DEFAULT.url  # type: ignore[attr-defined]
        except ValueError:  # no such network, which BasicSR says
            continue
        cached = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(url))
        if not os.path.exists(VGG_PRETRAIN_PATH) and not os.path.exists(cached):
            yield (
                f"{where}: the weights of its VGG network are neither {VGG_PRETRAIN_PATH!r} nor {cached!r}: they are"
                " downloaded at the start"
            )


def _has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16, which PyTorch's convolutions need to be fast."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def amp_warnings(opt: dict[str, Any]) -> Iterator[str]:
    """Mixed precision that is slower than float32 on this machine."""
    on_cpu = opt["num_gpu"] == 0 or not torch.cuda.is_available()
    if on_cpu and (opt.get("train") or {}).get("amp") == "bf16" and not _has_bfloat16():
        yield (
            "train: amp is 'bf16', but this CPU has no bfloat16 instructions: a step takes about 15 times as long as in"
            " float32 (amp: ~)"
        )


def _is(section: Any, type_name: str) -> bool:
    return isinstance(section, dict) and section.get("type") == type_name


def build_on_meta(network_class: Any, network_opt: dict[str, Any]) -> None:
    """Build a network of an option file's section without any memory for its weights.

    Raises:
        InputError: options that the network refuses.
    """
    accepted = inspect.signature(network_class).parameters
    blocks = math.prod(network_opt[name] for name in ("num_group", "num_block", "num_resblock") if name in network_opt)
    if blocks > _MAX_BLOCKS:
        raise InputError(f"{network_class.__name__} would have {blocks:,} blocks, but may have {_MAX_BLOCKS:,}")
    try:
        with torch.device("meta"):
            network_class(**{name: value for name, value in network_opt.items() if name in accepted})
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{network_class.__name__} cannot be built: {reason}") from None
