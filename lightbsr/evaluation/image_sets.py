"""Test sets on disk.

Below the data folder, for a set NAME and scale S, HR images are looked for in ``NAME/image_SRF_S/*_HR.png``,
``NAME/GTmod12/``, ``NAME/HR/`` and ``NAME/``: the first that holds images. Pairs are ``NAME/LR/`` and ``NAME/HR/``.
"""

import os
import re
from typing import NamedTuple

from lightbsr_compat import InputError, did_you_mean
from lightbsr_compat.images import IMAGE_SUFFIXES

from .protocols import Protocol

# Images of the sets that papers report on, and other names of these sets.
SIZES = {"Set5": 5, "Set14": 14, "B100": 100, "Urban100": 100, "Manga109": 109, "RealSR": 100}
SIZES |= {"NTIRE2020": 100, "AIM2019": 100}
_ALIASES = {"bsd100": "B100", "bsds100": "B100", "ntire20": "NTIRE2020", "aim19": "AIM2019"}
_PAIR_SUFFIX = re.compile(r"_?(LR|HR|GT)\d*$|x\d$")  # Canon_001_LR4.png and Canon_001_HR.png are a pair


def canonical(name: str) -> str:
    """The papers' name of a set, whatever its upper and lower case; other names as they are, escaped for printing."""
    known = {key.lower(): key for key in SIZES} | _ALIASES
    return known.get(name.lower(), name.encode("utf-8", "backslashreplace").decode())


def image_files(folder: str, ending: str = "") -> list[str]:
    """Paths of the images in a folder, sorted; `ending` is of their names without suffix. Empty without the folder."""
    if not os.path.isdir(folder):
        return []
    names = [name for name in os.listdir(folder) if name.lower().endswith(IMAGE_SUFFIXES)]
    paths = [os.path.join(folder, name) for name in sorted(names) if os.path.splitext(name)[0].endswith(ending)]
    return [path for path in paths if os.path.isfile(path)]


def stem(path: str) -> str:
    """The name of an image: without folder and suffix, escaped for printing."""
    return os.path.splitext(os.path.basename(path))[0].encode("utf-8", "backslashreplace").decode()


class SetImage(NamedTuple):
    """One image of a set: its name without folder, suffix and ``_HR``, and the paths of its files, None without one."""

    name: str
    hr: str | None
    lr: str | None


class ImageSet(NamedTuple):
    """One test set, its images sorted by name."""

    name: str
    images: list[SetImage]

    @property
    def is_partial(self) -> bool:
        """Whether images of a set that papers report on are missing, so that their figures do not compare."""
        return len(self.images) != SIZES.get(self.name, len(self.images))

    @property
    def title(self) -> str:
        """The name, and how many images there are of how many where some are missing."""
        return f"{self.name} ({len(self.images)} of {SIZES[self.name]} images)" if self.is_partial else self.name


def find_images(folder: str, kind: str, scale: int) -> list[SetImage]:
    """The images of a set.

    Args:
        folder: of the set.
        kind: ``Protocol.images``.
        scale: for the layout ``image_SRF_S``.

    Raises:
        InputError: of pairs, an image of one folder without its partner.
    """
    if kind == "pairs":
        lr, hr = (
            {_PAIR_SUFFIX.sub("", stem(path)): path for path in image_files(os.path.join(folder, side))}
            for side in ("LR", "HR")
        )
        if lr and hr and (alone := sorted(lr.keys() ^ hr.keys())):
            raise InputError(f"{(lr | hr)[alone[0]]!r} has no partner in {'HR' if alone[0] in lr else 'LR'}/")
        return [SetImage(name, hr[name], lr[name]) for name in sorted(lr.keys() & hr.keys())]
    for subfolder, ending in ((f"image_SRF_{scale}", "_HR"), ("GTmod12", ""), ("HR", ""), ("", "")):
        if paths := image_files(os.path.join(folder, subfolder), ending):
            names = [stem(path).removesuffix("_HR") for path in paths]
            files = zip(names, paths, strict=True)
            return [SetImage(n, p, None) if kind == "degraded" else SetImage(n, None, p) for n, p in files]
    return []


def find_sets(data: str, protocol: Protocol, names: list[str] | None, scale: int) -> tuple[list[ImageSet], list[str]]:
    """The sets to run, and names of the protocol's sets that are not there.

    Args:
        data: the folder that holds the sets.
        protocol: names the sets that papers report; one that names none takes every folder with images, or ``data``.
        names: sets that the user asked for, or None; upper and lower case are the same.
        scale: for the layout ``image_SRF_S``.

    Raises:
        InputError: no such folder, a set that was asked for and has no images, or no set at all.
    """
    if not os.path.isdir(data):
        raise InputError(f"data folder {data!r} is no folder")
    folders = {canonical(entry.name): entry.path for entry in os.scandir(data) if entry.is_dir()}
    there = {name.lower(): find_images(path, protocol.images, scale) for name, path in sorted(folders.items())}
    wanted = list(dict.fromkeys(map(canonical, names or protocol.sets or sorted(folders))))
    sets = [ImageSet(name, there[name.lower()]) for name in wanted if there.get(name.lower())]
    missing = [name for name in wanted if not there.get(name.lower())]
    if names and missing:
        where = {"pairs": "LR/ and HR/"}.get(protocol.images, f"image_SRF_{scale}/*_HR.png, GTmod12/, HR/ or itself")
        hint = (
            f"no image in {where}"
            if missing[0].lower() in there
            else f"no such folder{did_you_mean(missing[0], folders)}"
        )
        raise InputError(f"set {missing[0]!r} in {data!r}: {hint}")
    if not sets and not protocol.sets and (images := find_images(data, protocol.images, scale)):
        sets = [ImageSet(canonical(os.path.basename(os.path.abspath(data))), images)]
    if not sets:
        what = f"none of the protocol's sets ({', '.join(protocol.sets)})" if protocol.sets else "no folder of images"
        others = ", ".join(name for name in sorted(folders) if there[name.lower()])
        raise InputError(f"data folder {data!r} holds {what}{f'; name others with --sets: {others}' if others else ''}")
    return sets, missing if protocol.sets else []
