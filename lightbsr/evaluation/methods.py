"""What a benchmark compares: bicubic interpolation, checkpoints, and folders of images that other tools made."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from basicsr.utils.matlab_functions import imresize
from torch import Tensor, nn

from lightbsr.files import sha256_file, sha256_files
from lightbsr.packaged import find_weights, packaged_weights
from lightbsr.upscaling.upscaler import load_network
from lightbsr_compat import InputError
from lightbsr_compat.images import IMAGE_SUFFIXES, read_rgb8

BICUBIC = "Bicubic"


def to_8_bit_image(image: Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] -> (H, W, 3) uint8, RGB; clamped and rounded as an image file would have it."""
    return (image.clamp(0, 1) * 255.0).round().byte().permute(1, 2, 0).cpu().numpy()


class Method:
    """Something that makes SR images.

    Attributes:
        name: as in tables.
        kind: ``bicubic``, ``weights`` or ``images``.
        path: of its weights or images, '' for bicubic.
        checksum: decides with the protocol and the images whether a finished cell is still good.
        scale: its factor, or None where it takes any.
    """

    name: str
    kind: str
    path: str = ""
    checksum: str
    scale: int | None = None

    def check(self, set_name: str, setting: str) -> None:
        """Raise InputError where it cannot give images of this set and setting at all."""

    def cell_checksum(self, set_name: str, setting: str) -> str:
        """Of what decides its images of one cell."""
        return self.checksum

    def __call__(self, lq: Tensor, *, scale: int, set_name: str, setting: str, image_name: str) -> np.ndarray:
        """One LR image (3, h, w) in [0, 1] -> (h * scale, w * scale, 3) uint8, RGB."""
        raise NotImplementedError


class BicubicMethod(Method):
    """MATLAB's imresize by BasicSR, in every table."""

    name, kind, checksum = BICUBIC, "bicubic", "bicubic: basicsr.utils.matlab_functions.imresize"

    def __call__(self, lq: Tensor, *, scale: int, set_name: str, setting: str, image_name: str) -> np.ndarray:
        return to_8_bit_image(imresize(lq.cpu(), scale))


class WeightsMethod(Method):
    """A checkpoint, of this package or of the papers' released format.

    Args:
        name: as in tables.
        path: of the checkpoint.
        device: where it runs.
    """

    kind = "weights"

    def __init__(self, name: str, path: str, device: torch.device) -> None:
        self.name, self.path, self.device = name, path, device
        self.network: nn.Module = load_network(path).to(device)
        self.scale = self.network.upscale  # type: ignore[assignment]
        self.checksum = sha256_file(path)

    @torch.inference_mode()
    def __call__(self, lq: Tensor, *, scale: int, set_name: str, setting: str, image_name: str) -> np.ndarray:
        return to_8_bit_image(self.network(lq[None].to(self.device))[0])


class ImagesMethod(Method):
    """A folder of finished images: ``SET/SETTING/IMAGE.png``, or ``SET_SETTING/IMAGE.png`` as ``lightbsr test`` has it.

    Without a degradation (protocol ``real``) also ``SET/IMAGE.png``. IMAGE is the HR image's name, with any suffix of
    an image file, and perhaps ``_SOMETHING`` behind it.

    Args:
        name: as in tables.
        path: of the folder.
    """

    kind = "images"

    def __init__(self, name: str, path: str) -> None:
        self.name, self.path = name, path
        self.checksum = f"images: {os.path.abspath(path)}"
        self._listings: dict[str, list[str]] = {}

    def _folder(self, set_name: str, setting: str) -> str:
        candidates = [os.path.join(set_name, setting), f"{set_name}_{setting}"]
        candidates += [set_name] if setting == "as_is" else []
        for candidate in candidates:
            folder = os.path.join(self.path, candidate)
            if os.path.isdir(folder):
                return folder
        raise InputError(
            f"method {self.name!r}: {self.path!r} holds no folder {' or '.join(map(repr, candidates))} with its images"
        )

    def check(self, set_name: str, setting: str) -> None:
        self._folder(set_name, setting)

    def _files(self, folder: str) -> list[str]:
        if folder not in self._listings:
            self._listings[folder] = sorted(n for n in os.listdir(folder) if n.lower().endswith(IMAGE_SUFFIXES))
        return self._listings[folder]

    def cell_checksum(self, set_name: str, setting: str) -> str:
        folder = self._folder(set_name, setting)
        return sha256_files(folder, self._files(folder))

    def __call__(self, lq: Tensor, *, scale: int, set_name: str, setting: str, image_name: str) -> np.ndarray:
        folder = self._folder(set_name, setting)
        stems = {name: os.path.splitext(name)[0] for name in self._files(folder)}
        found = [name for name, stem in stems.items() if stem == image_name]
        found = found or [name for name, stem in stems.items() if stem.startswith(f"{image_name}_")]
        if len(found) != 1:
            what = f"{len(found)} images" if found else "no image"
            raise InputError(f"method {self.name!r}: {folder!r} holds {what} named {image_name!r} or {image_name}_*")
        path = os.path.join(folder, found[0])
        image = read_rgb8(path)
        expected = (lq.shape[1] * scale, lq.shape[2] * scale)
        if image.shape[:2] != expected:
            raise InputError(
                f"method {self.name!r}: {path!r} is {image.shape[1]}x{image.shape[0]}, but x{scale} of its LR image is"
                f" {expected[1]}x{expected[0]}"
            )
        return image


def make_methods(entries: Sequence[str], device: torch.device) -> list[Method]:
    """Bicubic, and the methods of ``--method NAME=PATH`` entries: a checkpoint, or a folder of images.

    A checkpoint may be packaged weights, by their name.

    Raises:
        InputError: an entry without a name or path, a name twice, a path that is neither, or weights that do not load.
    """
    methods: list[Method] = [BicubicMethod()]
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not (name and equals and path):
            raise InputError(f"--method {entry!r} is not NAME=WEIGHTS or NAME=FOLDER")
        if any(name.lower() == method.name.lower() for method in methods):
            raise InputError(f"--method {entry!r}: there is a method {name!r} already (bicubic always is)")
        if os.path.isdir(path):
            methods.append(ImagesMethod(name, path))
        elif os.path.isfile(path) or path in packaged_weights():
            methods.append(WeightsMethod(name, find_weights(path), device))
        else:
            raise InputError(
                f"--method {entry!r}: {path!r} is neither a checkpoint, nor packaged weights"
                f" ({', '.join(packaged_weights())}), nor a folder of images"
            )
    return methods


def common_scale(methods: Sequence[Method], wanted: int | None) -> int:
    """The factor that all methods share: the weights', else the one asked for, else 4.

    Raises:
        InputError: weights of different scales, or of another one than asked for.
    """
    scales = {method.name: method.scale for method in methods if method.scale is not None}
    if wanted is not None:
        scales = {"--scale": wanted, **scales}
    if len(set(scales.values())) > 1:
        (first, scale), *others = scales.items()
        other = next(name for name, value in others if value != scale)
        raise InputError(f"{first} is x{scale}, but {other} is x{scales[other]}: one benchmark has one scale")
    return next(iter(scales.values()), 4)
