"""Test sets on disk: the layouts in which people have them.

Below the data folder, for a set NAME and scale S, the first of these that exists and holds images:
``NAME/image_SRF_S/*_HR.png``, ``NAME/GTmod12/``, ``NAME/HR/``, ``NAME/`` itself.
"""

import os
import tempfile
from dataclasses import dataclass
from typing import Any

from lightbsr.files import sha256_files
from lightbsr_compat import InputError, did_you_mean
from lightbsr_data import BlindBenchmarkDataset
from lightbsr_data.images import IMAGE_SUFFIXES, HRImages

from .protocols import Protocol, Setting


def _image_files(folder: str, ending: str = "") -> tuple[str, ...]:
    if not os.path.isdir(folder):
        return ()
    names = (name for name in os.listdir(folder) if name.lower().endswith(IMAGE_SUFFIXES))
    return tuple(sorted(name for name in names if os.path.splitext(name)[0].endswith(ending)))


@dataclass(frozen=True)
class ImageSet:
    """One test set.

    Attributes:
        name: as in tables.
        folder: where its images lie.
        files: their names.
    """

    name: str
    folder: str
    files: tuple[str, ...]

    def checksum(self) -> str:
        """SHA-256 of the names and contents of all images."""
        return sha256_files(self.folder, self.files)

    def images(self) -> HRImages:
        """The images, sorted by name."""
        return self._with_meta_info(lambda path: HRImages(self.folder, meta_info_file=path))

    def dataset(self, setting: Setting, scale: int) -> BlindBenchmarkDataset:
        """The images under one degradation."""
        opt = {
            "dataroot_gt": self.folder,
            "io_backend": {"type": "disk"},
            "scale": scale,
            "degradation": setting.degradation,
        }
        return self._with_meta_info(lambda path: BlindBenchmarkDataset({**opt, "meta_info_file": path}))

    def _with_meta_info(self, make: Any) -> Any:
        # A folder can hold LR images beside the HR images: the list of files says which are meant.
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "meta_info.txt")
            with open(path, "w", encoding="utf-8") as file:
                file.write("".join(f"{name}\n" for name in self.files))
            return make(path)


def find_set(data: str, name: str, scale: int) -> ImageSet | None:
    """The set ``name`` below the folder ``data`` in one of the known layouts, or None."""
    root = os.path.join(data, name)
    layouts = [(f"image_SRF_{scale}", "_HR"), ("GTmod12", ""), ("HR", ""), ("", "")]
    for folder, ending in layouts:
        path = os.path.join(root, folder) if folder else root
        files = _image_files(path, ending)
        if files:
            return ImageSet(name, path, files)
    return None


def find_sets(data: str, protocol: Protocol, names: list[str] | None, scale: int) -> list[ImageSet]:
    """The sets to run: those named, else those of the protocol that are there.

    Args:
        data: the folder that holds the sets.
        protocol: names the sets that papers report; one that names none takes every folder with images.
        names: of the sets that the user asked for, or None.
        scale: for the layout ``image_SRF_S``.

    Raises:
        InputError: no such folder, a set that is not there or has no images, or nothing at all.
    """
    if not os.path.isdir(data):
        raise InputError(f"data folder {data!r} is no folder")
    folders = sorted(entry.name for entry in os.scandir(data) if entry.is_dir())
    if names:
        sets = []
        for name in dict.fromkeys(names):
            found = find_set(data, name, scale)
            if found is None and name in folders:
                raise InputError(
                    f"set {name!r} in {data!r} holds no image ({', '.join(IMAGE_SUFFIXES)}) in one of the known"
                    f" layouts: image_SRF_{scale}/*_HR.png, GTmod12/, HR/, or the folder itself"
                )
            if found is None:
                raise InputError(
                    f"set {name!r} is no folder in {data!r}{did_you_mean(name, folders) if folders else ''}"
                )
            sets.append(found)
        return sets
    candidates = [find_set(data, name, scale) for name in protocol.sets or folders]
    sets = [found for found in candidates if found is not None]
    if not sets and not protocol.sets:
        here = _image_files(data)
        sets = [ImageSet(os.path.basename(os.path.abspath(data)), data, here)] if here else []
    if not sets:
        wanted = f"none of the protocol's sets ({', '.join(protocol.sets)})" if protocol.sets else "no folder of images"
        others = [name for name in folders if find_set(data, name, scale)]
        hint = f"; name others with --sets: {', '.join(others)}" if others else ""
        raise InputError(f"data folder {data!r} holds {wanted}{hint}")
    return sets
