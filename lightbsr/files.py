"""Write files whole or not at all, and tell them apart by their contents."""

import hashlib

from lightbsr_compat import atomic_write

__all__ = ["atomic_write", "sha256_file", "write_text"]


def write_text(path: str, text: str) -> None:
    """Write a text file, whole or not at all; characters that UTF-8 does not have are escaped."""
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)


def sha256_file(path: str) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
