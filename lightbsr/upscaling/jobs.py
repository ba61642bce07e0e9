"""The images to upscale, and where each result goes."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lightbsr_compat.errors import InputError
from lightbsr_compat.images import SUFFIXES_READ

from .encoding import SUFFIXES, format_of

STANDARD = "-"  # standard input or standard output
SAME = "same"
_NOT_READ = (".avif", ".cr2", ".dng", ".exr", ".gif", ".heic", ".heif", ".jxl", ".nef", ".psd", ".svg")


class FoundImage(NamedTuple):
    """An image to upscale.

    Attributes:
        path: of the file; ``-`` is standard input.
        name: below the output folder, with the input's suffix: the path from the folder that was given.
    """

    path: str
    name: str


class Job(NamedTuple):
    """An image, its result's path (``-``: standard output) and the result's format."""

    source: str
    target: str
    format: str


def find_images(inputs: Iterable[str], output: str) -> tuple[list[FoundImage], list[str]]:
    """The files named and the images in the folders named, in this order.

    Hidden files and folders, links to folders and the output folder are not looked into.

    Args:
        inputs: files, folders, or ``-`` for standard input.
        output: the folder of the results.

    Returns:
        The images, and the paths of image files in the folders whose format is not read.

    Raises:
        InputError: a path that does not exist, or a folder without images.
    """
    found: list[FoundImage] = []
    left_out: list[str] = []
    for path in inputs:
        if path == STANDARD:
            found.append(FoundImage(STANDARD, "stdin.png"))
        elif os.path.isdir(path):
            if os.path.realpath(path) == os.path.realpath(output):
                raise InputError(f"folder {path!r} is the output too: a second run would upscale the results")
            files = _files_in(path, output)
            images = [file for file in files if file.lower().endswith(SUFFIXES_READ)]
            if not images:
                raise InputError(f"folder {path!r} holds no image ({', '.join(SUFFIXES_READ)})")
            found += [FoundImage(file, os.path.relpath(file, path)) for file in images]
            left_out += [file for file in files if file.lower().endswith(_NOT_READ)]
        elif os.path.lexists(path):
            found.append(FoundImage(path, os.path.basename(path)))
        else:
            raise InputError(f"no such file or folder: {path!r}")
    return list(dict.fromkeys(found)), left_out


def _files_in(folder: str, output: str) -> list[str]:
    files: list[str] = []
    results = os.path.realpath(output)
    for parent, folders, names in os.walk(folder):
        shown = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in shown if os.path.realpath(os.path.join(parent, name)) != results]
        files += [os.path.join(parent, name) for name in sorted(names) if not name.startswith(".")]
    return files


def plan(
    inputs: Sequence[str], found: Sequence[FoundImage], output: str, *, label: str, format: str | None = None
) -> list[Job]:
    """Where each result goes, and in which format.

    Args:
        inputs, found: what ``find_images`` was given, and gave.
        output: a folder, in which the folders of the inputs are kept and results are called ``NAME_LABEL.png``; ``-``
            for standard output; or, for a single image, a file with the suffix of a format that can be written. Images
            that differ in their suffix alone are called ``NAME.SUFFIX_LABEL.png``.
        label: such as ``x4``.
        format: ``png``, ``jpg``, ``webp``, ``tiff``, ``same`` as the input; None for PNG or the output's suffix.

    Raises:
        InputError: an output or format that does not fit, or a result that would replace an input.
    """
    if STANDARD in inputs and format == SAME:
        raise InputError("format is 'same', but standard input has no name to tell its format: name one")
    is_folder = os.path.isdir(output)
    if output == STANDARD or (format_of(output) and not is_folder):
        jobs = [_single(inputs, found, output, format)]
    elif output.lower().endswith((*SUFFIXES_READ, *_NOT_READ)) and not is_folder:
        raise InputError(f"output {output!r} has the name of an image, but only {', '.join(SUFFIXES)} can be written")
    elif os.path.lexists(output) and not is_folder:
        raise InputError(f"output {output!r} is no folder, and its name is not that of a {', '.join(SUFFIXES)}")
    else:
        jobs = _in_folder(found, output, label, format)
    sources = {os.path.realpath(image.path) for image in found}
    for job in jobs:
        if job.target != STANDARD and os.path.realpath(job.target) in sources:
            raise InputError(f"output {job.target!r} is an input: name another output")
    return jobs


def _single(inputs: Sequence[str], found: Sequence[FoundImage], output: str, format: str | None) -> Job:
    if [image.path for image in found] != list(inputs) or len(found) != 1:
        what = "standard output" if output == STANDARD else f"output {output!r}"
        raise InputError(f"{what} takes one image, but the inputs are several or a folder: name a folder for them")
    source, name = found[0]
    wanted = (format_of(name) or "png") if format == SAME else format
    named = None if output == STANDARD else format_of(output)
    if wanted is not None and named is not None and wanted != named:
        raise InputError(f"output {output!r} is called {named}, but the format is {wanted}: leave one out")
    return Job(source, output, wanted or named or "png")


def _in_folder(found: Sequence[FoundImage], output: str, label: str, format: str | None) -> list[Job]:
    # Some file systems do not tell "a" from "A".
    stems = Counter(os.path.splitext(image.name)[0].casefold() for image in found)
    jobs: dict[str, Job] = {}
    for source, name in found:
        its_format = (format_of(name) or "png") if format == SAME else format or "png"
        stem = os.path.splitext(name)[0]
        stem = os.path.join(output, f"{stem if stems[stem.casefold()] == 1 else name}_{label}")
        target, number = stem + SUFFIXES[its_format], 1
        while target.casefold() in jobs:  # files of one name from several folders
            number += 1
            target = f"{stem}_{number}{SUFFIXES[its_format]}"
        jobs[target.casefold()] = Job(source, target, its_format)
    return list(jobs.values())
