"""``lightbsr convert``: checkpoints of the papers' released format into ours, and ours into another kind of file."""

import argparse
import os
from typing import TYPE_CHECKING, Any

from lightbsr_compat import InputError, atomic_save, atomic_write, did_you_mean, load_weights_file

if TYPE_CHECKING:
    from torch import Tensor


def _read_basis_file(path: str) -> Any:
    if path.endswith(".npy"):
        import numpy as np

        return np.load(path, allow_pickle=False)
    if path.endswith(".mat"):  # the released trainer's: scipy.io.savemat, key p
        from scipy.io import loadmat

        return loadmat(path)["p"]

    return load_weights_file(path)


def load_kernel_basis(path: str) -> "Tensor":
    """Read a kernel basis from a ``.mat`` (key ``p``), ``.npy`` or PyTorch file: 441x15, or 15x441.

    Returns:
        (441, 15) float32.

    Raises:
        InputError: unreadable, or of another shape.
    """
    import torch

    from lightbsr_data.settings import KERNEL_SIZE, NUM_KERNEL_COMPONENTS

    if not os.path.isfile(path):
        raise InputError(f"no such file of a kernel basis: {path!r}")
    try:
        basis = torch.as_tensor(_read_basis_file(path))
    except InputError:
        raise
    except Exception as error:  # the readers raise whatever the bytes provoke
        reason = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"kernel basis {path!r} cannot be read: {reason:.200}") from None
    wanted = (KERNEL_SIZE**2, NUM_KERNEL_COMPONENTS)
    if tuple(basis.shape) not in (wanted, wanted[::-1]):
        raise InputError(f"kernel basis {path!r} is {tuple(basis.shape)}, but must be {wanted[0]}x{wanted[1]}")
    return (basis if basis.shape == wanted else basis.T).float().contiguous()


def convert_file(source: str, target: str, *, kernel_basis_path: str | None = None, setting: str | None = None) -> str:
    """Convert a checkpoint into a ``.pth`` with BasicSR's ``params`` key, or safetensors.

    Args:
        source: a checkpoint of the released format, or of ours (in float32 then), or the name of packaged weights.
        target: the file to write, ``.pth`` or ``.safetensors``; replaced whole or not at all.
        kernel_basis_path: for LightBSR's teacher, the basis that it was trained with.
        setting: for KDSR's teacher, the name of its degradation setting.

    Returns:
        A sentence that says what was recognised.

    Raises:
        InputError: no known network, values that are not finite, or a target that cannot be written.
    """
    from pathlib import Path

    import safetensors.torch
    import torch

    from lightbsr_arch import build_from_state_dict, find_state_dict
    from lightbsr_data import REAL_WORLD, SETTINGS

    from .packaged import find_weights
    from .released import convert_state_dict, recognise

    known = (*SETTINGS, REAL_WORLD)
    if setting is not None and setting not in known:
        raise InputError(f"setting is {setting!r}, but must be the name of one{did_you_mean(setting, known)}")
    basis = None if kernel_basis_path is None else load_kernel_basis(kernel_basis_path)
    checkpoint = load_weights_file(find_weights(source))
    try:
        state_dict = find_state_dict(checkpoint)
        released = recognise(state_dict) is not None
        if released:
            _, state_dict = convert_state_dict(state_dict, kernel_basis=basis, setting=setting or "")
        network = build_from_state_dict(state_dict)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{source!r} cannot be converted: {' '.join(str(error).split())[:300]}") from None
    name, converted = type(network).__name__, network.state_dict()
    for key, value in converted.items():
        if not value.isfinite().all():
            raise InputError(f"{source!r} cannot be converted: {key!r} holds values that are not finite")
    if target.endswith(".safetensors"):
        content = safetensors.torch.save(
            {key: value.clone(memory_format=torch.contiguous_format) for key, value in converted.items()}
        )
        with atomic_write(target) as temporary:
            Path(temporary).write_bytes(content)
    else:
        atomic_save({"params": converted}, target)
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    sentence = f"{name}, x{network.upscale}, {parameters:,} trainable parameters: written to {target}"
    if name.endswith("Teacher"):
        sentence += f"; setting {network.setting or 'unknown'}"
    missing = {"LightBSRTeacher": ("--kernel-basis", basis), "KDSRTeacher": ("--setting", setting)}.get(name)
    if released and missing is not None and missing[1] is None:
        sentence += f"; without {missing[0]} it can super-resolve, but no student can be trained from it"
    return sentence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("source", help="the checkpoint, or the name of packaged weights")
    parser.add_argument("target", help="the .pth or .safetensors to write")
    parser.add_argument(
        "--kernel-basis", metavar="FILE", help="for LightBSR's teacher: its basis (PCA_matrix.mat, .npy or .pth)"
    )
    parser.add_argument("--setting", metavar="NAME", help="for KDSR's teacher: its degradation, such as iso")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    print(convert_file(args.source, args.target, kernel_basis_path=args.kernel_basis, setting=args.setting))
    return 0
