"""Files that are read without running code, and written whole or not at all."""

import contextlib
import io
import os
import tempfile
import zipfile
from collections.abc import Iterator
from typing import Any

from .errors import InputError

_UNFINISHED = ".unfinished-"


def load_weights_file(path: str | os.PathLike[str]) -> Any:
    """Read a checkpoint onto the CPU without running pickled code: PyTorch's format, or safetensors by its suffix.

    Raises:
        InputError: the file is missing, damaged, or no checkpoint that can be read safely.
    """
    import torch

    path = os.fspath(path)
    if not os.path.isfile(path):
        raise InputError(f"no such checkpoint file: {path!r}")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        # PyTorch reads the archive without looking at its checksums.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"{damaged} is damaged (checksum)")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes provoke
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "Weights only load failed" in reason:  # PyTorch goes on to advise loading it without that
            reason = "it is no checkpoint, or holds objects that could run code when they are loaded"
        kind = "safetensors file" if path.endswith(".safetensors") else "PyTorch checkpoint"
        raise InputError(f"{path!r} cannot be read as a {kind}: {reason[:200]}") from error


def require_finite(state_dict: Any, path: str) -> None:
    """Raise InputError where a tensor of the state dict in a file holds NaN, infinity or what is that in float32."""
    for key, value in state_dict.items():
        if not value.float().isfinite().all():
            raise InputError(f"{path!r} holds weights that are not finite (NaN or infinity), in {key!r}")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give a temporary path beside ``path``; on leaving without an error it becomes ``path``, else it is removed.

    Whatever the moment of a crash, ``path`` is the whole old file or the whole new one: the data is on the disk before
    the name is. Folders above ``path`` are made. The temporary name keeps the suffix, which encoders choose the format
    by; what a kill leaves of it ``remove_unfinished`` removes.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    path = os.fspath(path)
    folder, name = os.path.split(os.path.abspath(path))
    temporary = None
    try:
        os.makedirs(folder, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=_UNFINISHED, suffix=os.path.splitext(name)[1], dir=folder)
        os.close(descriptor)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's files are private
        _sync(temporary)
        os.replace(temporary, path)
        _sync(folder)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.remove(temporary)
        if isinstance(error, OSError):
            raise InputError(f"{path!r} cannot be written: {error.strerror or error}") from error
        raise


def _sync(path: str) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and os.path.isdir(path):  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_save(content: Any, path: str | os.PathLike[str]) -> None:
    """``torch.save``, whole or not at all.

    Raises:
        InputError: the disk is full, or the folder cannot be written to.
    """
    import torch

    # In memory first: PyTorch's own writer turns a full disk into an abort of the process.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write(buffer.getbuffer())


def remove_unfinished(folder: str) -> None:
    """Remove what killed processes left of files that they were writing with ``atomic_write``."""
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if name.startswith(_UNFINISHED):
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(folder, name))
