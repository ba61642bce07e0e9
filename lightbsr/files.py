"""Write files whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

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
