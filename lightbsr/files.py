"""Write files whole or not at all, and tell them apart by their contents."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator

from lightbsr_compat import InputError


@contextlib.contextmanager
def written_whole(path: str) -> Iterator[str]:
    """Give a temporary path beside ``path``; on leaving without an error it becomes ``path``, else it is removed.

    Folders above ``path`` are made. The temporary name keeps the suffix, which encoders choose the format by.

    Raises:
        InputError: the folder cannot be written to.
    """
    folder, name = os.path.split(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=os.path.splitext(name)[1], dir=folder)
    except OSError as error:
        raise InputError(f"{path!r} cannot be written: {error.strerror}") from None
    os.close(descriptor)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's files are private
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise


def sha256_file(path: str) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def sha256_files(folder: str, names: Iterable[str]) -> str:
    """SHA-256 of the names and contents of files in a folder, in hexadecimal."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{sha256_file(os.path.join(folder, name))}\0".encode())
    return digest.hexdigest()
