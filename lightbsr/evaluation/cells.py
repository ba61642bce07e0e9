"""Compute the cells of a benchmark's table: one method on one set under one setting. Finished cells are kept.

A cell's key is made of the method's checksum, of what the protocol says of the setting, and of the images' contents:
while these are the same, the cell is not computed again. A score is a function of image and setting alone; neither the
order of images nor the number of processes matters.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.metrics import calculate_niqe, calculate_psnr, calculate_ssim
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from lightbsr.files import atomic_write
from lightbsr_compat import InputError

from .image_sets import ImageSet
from .methods import Method, to_8_bit_image
from .protocols import Protocol, Setting

PICTURE_SIDE = 256  # pixels of the pictures that the report shows
_SSIM_WINDOW = 11
_NIQE_BLOCK = 96


@dataclass
class Cell:
    """One method on one set under one setting.

    Attributes:
        images: name and scores of every image.
        failures: sentences about the images that failed; such a cell has no score and is computed again next time.
    """

    key: str
    method: str
    set_name: str
    setting: str
    device: str
    images: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def score(self, metric: str) -> float | None:
        """The mean over the images, or None where one failed."""
        if self.failures or not self.images:
            return None
        return math.fsum(image[metric] for image in self.images) / len(self.images)


class CellStore:
    """Finished cells on disk: ``cells/KEY.json``, and pictures for the report in ``cells/KEY/``."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.join(folder, "cells")

    def load(self, key: str, *, with_pictures: bool) -> Cell | None:
        """The finished cell of that key, or None; a file that cannot be read, or lacks its pictures, counts as none."""
        if with_pictures and not os.path.isdir(os.path.join(self.folder, key)):
            return None
        try:
            with open(os.path.join(self.folder, f"{key}.json"), encoding="utf-8") as file:
                return Cell(**json.load(file))
        except (OSError, ValueError, TypeError):
            return None

    def save(self, cell: Cell) -> None:
        with atomic_write(os.path.join(self.folder, f"{cell.key}.json")) as path:
            with open(path, "w", encoding="utf-8") as file:
                json.dump(asdict(cell), file, indent=1)

    def picture_path(self, key: str, index: int) -> str:
        """Where the picture of the cell's image number ``index`` is."""
        return os.path.join(self.folder, key, f"{index}.jpg")


def picture(image: np.ndarray) -> bytes:
    """The middle of (H, W, 3) uint8, RGB, at most PICTURE_SIDE pixels high and wide, as a JPEG file."""
    height, width = (min(side, PICTURE_SIDE) for side in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    crop = image[top : top + height, left : left + width, ::-1]
    return cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def picture_setting(protocol: Protocol, scale: int) -> Setting:
    """The setting that the report shows pictures of: the middle one."""
    settings = protocol.settings(scale)
    return settings[len(settings) // 2]


def score_image(metric: str, sr: np.ndarray, gt: np.ndarray | None, scale: int) -> float:
    """One of BasicSR's scores on Y of (H, W, 3) uint8, RGB images, ``scale`` pixels shaved on every side.

    Raises:
        InputError: the image is too small for the score.
    """
    needed = (_NIQE_BLOCK if metric == "niqe" else _SSIM_WINDOW) + 2 * scale
    if min(sr.shape[:2]) < needed:
        raise InputError(
            f"its SR image is {sr.shape[1]}x{sr.shape[0]}, but {metric} needs at least {needed} pixels a side"
        )
    bgr = sr[..., ::-1]
    if metric == "niqe":
        return float(calculate_niqe(bgr, crop_border=scale))
    assert gt is not None
    calculate = {"psnr": calculate_psnr, "ssim": calculate_ssim}[metric]
    return float(calculate(bgr, gt[..., ::-1], crop_border=scale, test_y_channel=True))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run with one thread, as a data loader's process does: the same sums in the same order everywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class BenchmarkItems(Dataset):
    """The images of a set under a setting, each as a dict of ``name``, ``lq`` and perhaps ``gt``, or of ``error``."""

    def __init__(self, image_set: ImageSet, setting: Setting, scale: int) -> None:
        self._degraded = image_set.dataset(setting, scale) if setting.degradation is not None else None
        self._images = image_set.images() if self._degraded is None else self._degraded.images

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        """The name of an image, without reading it."""
        return self._images.names[index]

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = self._images.names[index]
        try:
            if self._degraded is None:
                lq = torch.from_numpy(self._images.read(index)).permute(2, 0, 1).float() / 255.0
                return {"index": index, "name": name, "lq": lq}
            with _one_thread():
                item = self._degraded[index]
            return {"index": index, "name": name, "lq": item["lq"], "gt": to_8_bit_image(item["gt"])}
        except InputError as error:
            return {"index": index, "name": name, "error": str(error)}


@dataclass
class _Job:
    """The unfinished cells of one set under one setting."""

    image_set: ImageSet
    setting: Setting
    cells: list[tuple[Method, Cell]]


class CellRunner:
    """Runs all cells of methods x sets x settings.

    Args:
        store: where finished cells are looked for and kept.
        device: written beside the scores.
        workers: processes that degrade images beside this one.
    """

    def __init__(self, protocol: Protocol, scale: int, store: CellStore, *, device: str, workers: int = 0) -> None:
        self.protocol, self.scale, self.store = protocol, scale, store
        self.device, self.workers = device, workers

    def key(self, method: Method, image_set: ImageSet, set_checksum: str, setting: Setting) -> str:
        """The key of a cell."""
        parts = [
            method.cell_checksum(image_set.name, setting.label),
            self.protocol.checksum(self.scale, (setting,)),
            set_checksum,
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def run(self, methods: Sequence[Method], sets: Sequence[ImageSet]) -> list[Cell]:
        """All cells, in the order sets, settings, methods; the unfinished ones are computed.

        Raises:
            InputError: before anything is computed, where a folder of finished images lacks a set or setting.
        """
        cells: list[Cell] = []
        jobs: list[_Job] = []
        pictured = picture_setting(self.protocol, self.scale)
        for image_set in sets:
            set_checksum = image_set.checksum()
            for setting in self.protocol.settings(self.scale):
                job = _Job(image_set, setting, [])
                for method in methods:
                    method.check(image_set.name, setting.label)
                    key = self.key(method, image_set, set_checksum, setting)
                    cell = self.store.load(key, with_pictures=setting == pictured)
                    if cell is None:
                        cell = Cell(key, method.name, image_set.name, setting.label, self.device)
                        job.cells.append((method, cell))
                    cell.method, cell.set_name = method.name, image_set.name  # a finished cell may have been renamed
                    cells.append(cell)
                jobs.append(job)
        total = sum(len(job.image_set.files) * len(job.cells) for job in jobs)
        with tqdm(total=total, unit="image", disable=None if total else True) as bar:
            for job in jobs:
                if job.cells:
                    bar.set_description(f"{job.image_set.name} {job.setting.label}")
                    self._run_job(job, bar)
        return cells

    def _run_job(self, job: _Job, bar: Any) -> None:
        items = BenchmarkItems(job.image_set, job.setting, self.scale)
        with_pictures = job.setting == picture_setting(self.protocol, self.scale)
        for item in DataLoader(items, batch_size=None, num_workers=self.workers):  # type: ignore[arg-type]
            for method, cell in job.cells:
                self._run_image(job, item, method, cell, with_pictures=with_pictures)
                bar.update()
        for _, cell in job.cells:
            if not cell.failures:
                self.store.save(cell)

    def _run_image(self, job: _Job, item: dict[str, Any], method: Method, cell: Cell, *, with_pictures: bool) -> None:
        where = f"{job.image_set.name} {job.setting.label}, image {item['name']!r}, {method.name}"
        if "error" in item:
            cell.failures.append(f"{where}: {item['error']}")
            return
        try:
            sr = method(
                item["lq"],
                scale=self.scale,
                set_name=job.image_set.name,
                setting=job.setting.label,
                image_name=item["name"],
            )
            gt = np.asarray(item["gt"]) if "gt" in item else None
            scores = {metric: score_image(metric, sr, gt, self.scale) for metric in self.protocol.metrics}
        except (InputError, OSError, RuntimeError) as error:  # RuntimeError: an image that does not fit into memory
            cell.failures.append(f"{where}: {' '.join(str(error).split())[:300]}")
            return
        cell.images.append({"name": item["name"], **scores})
        if with_pictures:
            with atomic_write(self.store.picture_path(cell.key, item["index"])) as path:
                with open(path, "wb") as file:
                    file.write(picture(sr))
