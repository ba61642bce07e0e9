"""Write files whole or not at all."""

from lightbsr_compat import atomic_write


def write_file(path: str, content: str | bytes) -> None:
    """Write a file, whole or not at all; of a text, characters that UTF-8 does not have are escaped.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
