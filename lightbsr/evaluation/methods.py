"""Methods of a benchmark: bicubic interpolation, networks, and folders of images that other tools made."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from basicsr.utils.matlab_functions import imresize
from torch import Tensor, nn

from lightbsr.upscaling.upscaler import load_network
from lightbsr_compat import InputError
from lightbsr_compat.images import read_rgb8

from .image_sets import image_files, stem
from .protocols import AS_IS

BICUBIC = "Bicubic"


def to_8_bit_image(image: Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] -> (H, W, 3) uint8, RGB; clamped and rounded as an image file would have it.

    Raises:
        InputError: a value is not finite.
    """
    if not image.isfinite().all():
        raise InputError("the image has values that are not finite (NaN or infinity)")
    return (image.clamp(0, 1) * 255.0).round().byte().permute(1, 2, 0).cpu().numpy()


@dataclass
class Method:
    """A network, a folder of finished images, or with neither bicubic interpolation (BasicSR's ``imresize``).

    The folder holds ``SET/SETTING/IMAGE.png``, or ``SET_SETTING/IMAGE.png`` as ``lightbsr test`` writes them; where
    nothing is degraded ``SET/IMAGE.png`` will do. IMAGE is the HR image's name, perhaps with ``_SOMETHING`` added.
    """

    name: str
    network: nn.Module | None = None
    folder: str | None = None

    @torch.inference_mode()
    def __call__(self, lq: Tensor, *, scale: int, set_name: str, setting: str, image_name: str) -> np.ndarray:
        """One LR image (3, h, w) in [0, 1] -> (h * scale, w * scale, 3) uint8, RGB.

        Raises:
            InputError: the network's output is not finite, or no finished image fits.
        """
        if self.network is not None:
            device = next(self.network.parameters()).device
            return to_8_bit_image(self.network(lq[None].to(device))[0])
        if self.folder is None:
            return to_8_bit_image(imresize(lq, scale))
        folder = self.find_folder(set_name, setting)
        names = {path: stem(path) for path in image_files(folder)}
        found = [path for path, name in names.items() if name == image_name]
        found = found or [path for path, name in names.items() if name.startswith(f"{image_name}_")]
        if len(found) != 1:
            raise InputError(f"{folder!r} holds {len(found) or 'no'} images named {image_name!r} or {image_name}_*")
        image = read_rgb8(found[0])
        size, expected = "{1}x{0}".format(*image.shape), f"{lq.shape[2] * scale}x{lq.shape[1] * scale}"
        if size != expected:
            raise InputError(f"{found[0]!r} is {size}, but x{scale} of its LR image is {expected}")
        return image

    def find_folder(self, set_name: str, setting: str) -> str:
        """The folder of a set's finished images under a setting; raises InputError where there is none."""
        assert self.folder is not None
        names = [os.path.join(set_name, setting), f"{set_name}_{setting}", *([set_name] if setting == AS_IS else [])]
        for name in names:
            if os.path.isdir(path := os.path.join(self.folder, name)):
                return path
        raise InputError(f"method {self.name!r}: {self.folder!r} holds no folder {' or '.join(map(repr, names))}")


def make_methods(entries: Sequence[str], device: torch.device) -> list[Method]:
    """Bicubic, and the methods of ``--method NAME=PATH`` entries: a checkpoint, packaged weights or a folder of images.

    Raises:
        InputError: an entry without name or path, a name twice, no such file or folder, or weights that do not load.
    """
    methods = [Method(BICUBIC)]
    for entry in entries:
        name, _, path = entry.partition("=")
        if not (name and path):
            raise InputError(f"--method {entry!r} is not NAME=WEIGHTS or NAME=FOLDER")
        if any(name.lower() == method.name.lower() for method in methods):
            raise InputError(f"--method {entry!r}: there is a method {name!r} already (bicubic always is)")
        if os.path.isdir(path):
            methods.append(Method(name, folder=path))
        else:
            methods.append(Method(name, network=load_network(path).to(device)))
    return methods


def common_scale(methods: Sequence[Method], wanted: int | None) -> int:
    """The factor that all methods share: the weights', else the one asked for, else 4.

    Raises:
        InputError: weights of different scales, or of another one than asked for.
    """
    scales: list[tuple[str, int]] = [] if wanted is None else [("--scale", wanted)]
    scales += [(method.name, int(method.network.upscale)) for method in methods if method.network is not None]  # type: ignore[arg-type]
    for name, scale in scales:
        if scale != scales[0][1]:
            raise InputError(f"{scales[0][0]} is x{scales[0][1]}, but {name} is x{scale}: one benchmark has one scale")
    return scales[0][1] if scales else 4
