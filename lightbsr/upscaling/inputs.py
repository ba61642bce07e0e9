"""Which images are upscaled, and where each result goes."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lightbsr_compat import InputError
from lightbsr_data.images import IMAGE_SUFFIXES

from .formats import SAME, SUFFIXES, format_of, has_format

STANDARD = "-"  # standard input or standard output
SUFFIXES_READ = (*IMAGE_SUFFIXES, ".jp2", ".pbm", ".pgm", ".ppm")
_NOT_WRITTEN = (".avif", ".gif", ".heic", *(suffix for suffix in SUFFIXES_READ if not has_format("x" + suffix)))


class FoundImage(NamedTuple):
    """An image to upscale.

    Attributes:
        path: of the file; ``-`` is standard input.
        name: below the output folder, with the input's suffix: the path from the folder that was given.
    """

    path: str
    name: str


def _in_folder(folder: str, output: str | None) -> Iterator[FoundImage]:
    """Images in a folder and the folders in it, but for hidden ones and the results; no links to folders."""
    results = None if output is None else os.path.realpath(output)
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) != results
        )
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES_READ) and not name.startswith("."):
                path = os.path.join(parent, name)
                yield FoundImage(path, os.path.relpath(path, folder))


def _matching(pattern: str, output: str | None) -> Iterator[FoundImage]:
    """Images that a pattern matches, named from the last folder before its first wildcard; folders with all in them."""
    start = pattern
    while glob.has_magic(start):
        start = os.path.dirname(start)
    # Unlike glob.glob, Path.glob follows no links to folders, which may be loops.
    for path in sorted(Path(start).glob(os.path.relpath(pattern, start or "."))):
        name = path.relative_to(start)
        if any(part.startswith(".") for part in name.parts):
            continue
        if path.is_dir():
            for inside in _in_folder(str(path), output):
                yield FoundImage(inside.path, os.path.join(name, inside.name))
        elif path.name.lower().endswith(SUFFIXES_READ):
            yield FoundImage(str(path), str(name))


def find_images(inputs: Iterable[str], output: str | None = None) -> list[FoundImage]:
    """The files named, the images in the folders named and those that patterns match, in this order.

    Args:
        inputs: files, folders, patterns (``*``, ``?``, ``[...]``, ``**``), or ``-`` for standard input.
        output: the folder of the results, in which no images are looked for.

    Raises:
        InputError: a path that does not exist, or a folder or pattern without images.
    """
    found: list[FoundImage] = []
    for path in inputs:
        if path == STANDARD:
            found.append(FoundImage(STANDARD, "stdin.png"))
        elif os.path.isdir(path):
            if output is not None and os.path.realpath(path) == os.path.realpath(output):
                raise InputError(f"folder {path!r} is the output too: a second run would upscale the results")
            images = list(_in_folder(path, output))
            if not images:
                raise InputError(f"folder {path!r} holds no image ({', '.join(SUFFIXES_READ)})")
            found += images
        elif os.path.lexists(path):
            found.append(FoundImage(path, os.path.basename(path)))
        elif glob.has_magic(path):
            images = list(_matching(path, output))
            if not images:
                raise InputError(f"no image matches {path!r}")
            found += images
        else:
            raise InputError(f"no such file or folder: {path!r}")
    return list(dict.fromkeys(found))  # patterns may overlap


class Job(NamedTuple):
    """An image, its result's path (``-``: standard output) and the result's format."""

    source: str
    target: str
    format: str


def plan(
    inputs: Sequence[str], found: Sequence[FoundImage], output: str, *, scale: int, format: str | None
) -> list[Job]:
    """What becomes of what.

    Args:
        inputs, found: what ``find_images`` was given, and gave.
        output: a folder, in which the folders of the inputs are kept and results are called ``NAME_xS.png``; ``-`` for
            standard output; or, for a single file, a file with the suffix of a format that can be written.
        scale: S.
        format: ``png``, ``jpg``, ``webp``, ``tiff``, ``same`` as the input; None for PNG or what ``output`` is called.

    Raises:
        InputError: two images that would have one result, or an output or format that does not fit.
    """
    if STANDARD in inputs and format == SAME:
        raise InputError("format is 'same', but standard input has no name to tell its format: name one")
    to_file = has_format(output) and not os.path.isdir(output)
    if output == STANDARD or to_file:
        if [image.path for image in found] != list(inputs) or len(found) != 1:
            what = "standard output" if output == STANDARD else f"output {output!r}"
            raise InputError(f"{what} takes one image, but the inputs are several or a folder: name a folder for them")
        source, name = found[0]
        if to_file and os.path.realpath(source) == os.path.realpath(output):
            raise InputError(f"output {output!r} is the input")
        if format is None:
            format = format_of(output)
        return [Job(source, output, format_of(name) if format == SAME else format)]
    if output.lower().endswith(_NOT_WRITTEN) and not os.path.isdir(output):
        raise InputError(f"output {output!r} has the name of an image, but only {', '.join(SUFFIXES)} can be written")
    if os.path.lexists(output) and not os.path.isdir(output):
        raise InputError(f"output {output!r} is no folder, and its name is not that of a {', '.join(SUFFIXES)}")
    jobs: dict[str, Job] = {}
    for source, name in found:
        its_format = format_of(name) if format == SAME else format or "png"
        target = os.path.join(output, f"{os.path.splitext(name)[0]}_x{scale}{SUFFIXES[its_format]}")
        if target in jobs:
            twin = jobs[target].source
            raise InputError(f"{twin!r} and {source!r} would both become {target!r}: upscale them one by one")
        jobs[target] = Job(source, target, its_format)
    return list(jobs.values())
