"""Write files whole or not at all, and tell them apart by their contents."""

import hashlib
import os
from collections.abc import Iterable

from lightbsr_compat import atomic_write

__all__ = ["atomic_write", "sha256_file", "sha256_files"]


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
