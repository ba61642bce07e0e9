"""``lightbsr upscale``: files and folders in, PNG files out."""

import os
import sys

import cv2
import numpy as np
from tqdm import tqdm

from lightbsr_compat import InputError
from lightbsr_data.images import IMAGE_SUFFIXES, decode_image

from .files import written_whole
from .upscaler import Upscaler


def find_images(inputs: list[str]) -> list[str]:
    """The files named, and the images of the folders named, sorted within each folder.

    Raises:
        InputError: a path that does not exist, or a folder without images.
    """
    files: list[str] = []
    for path in inputs:
        if os.path.isdir(path):
            names = sorted(name for name in os.listdir(path) if name.lower().endswith(IMAGE_SUFFIXES))
            if not names:
                raise InputError(f"folder {path!r} holds no image ({', '.join(IMAGE_SUFFIXES)})")
            files += [os.path.join(path, name) for name in names]
        elif os.path.isfile(path):
            files.append(path)
        else:
            raise InputError(f"no such file or folder: {path!r}")
    return files


def read_image(path: str) -> np.ndarray:
    """Read an image as (H, W, 3) uint8, RGB.

    Raises:
        InputError: no image, one that is cut off, or one of too many pixels.
    """
    with open(path, "rb") as file:
        return decode_image(file.read(), path)


def write_png(path: str, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8, RGB as a PNG, whole or not at all."""
    with written_whole(path) as temporary:
        if not cv2.imwrite(temporary, cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
            raise InputError(f"{path!r} cannot be written")


def upscale(inputs: list[str], output: str, *, weights: str, device: str | None = None) -> int:
    """Upscale every image into ``output/NAME_xS.png``; a bad one does not stop the rest.

    Returns:
        How many images failed; each is named on standard error.

    Raises:
        InputError: inputs, weights or output that cannot be used at all.
    """
    files = find_images(inputs)
    upscaler = Upscaler(weights, device=device)
    targets: dict[str, str] = {}
    for path in files:
        stem = os.path.splitext(os.path.basename(path))[0]
        target = os.path.join(output, f"{stem}_x{upscaler.scale}.png")
        if target in targets:
            raise InputError(f"{targets[target]!r} and {path!r} would both become {target!r}: upscale them one by one")
        targets[target] = path
    failed = []
    for target, path in tqdm(targets.items(), unit="image", disable=None):
        try:
            write_png(target, upscaler(read_image(path)))
        except (InputError, OSError) as error:
            failed.append(str(error))
    for sentence in failed:
        print(f"lightbsr: error: {sentence}", file=sys.stderr)
    return len(failed)
