"""Images for the fault-injection tests."""

from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture(scope="session")
def small_images(tmp_path_factory) -> Path:
    """Six PNG files of random numbers, a little larger than a training patch."""
    folder = tmp_path_factory.mktemp("faults") / "images"
    folder.mkdir()
    for i in range(6):
        image = np.random.RandomState(i).randint(0, 256, (40 + i, 48, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"image_{i}.png"), image)
    return folder


@pytest.fixture(scope="session")
def small_lmdb(small_images) -> Path:
    """The same images in BasicSR's LMDB format."""
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    path = small_images.with_suffix(".lmdb")
    files = sorted(p.name for p in small_images.iterdir())
    make_lmdb_from_imgs(str(small_images), str(path), files, [Path(f).stem for f in files], map_size=2**24)
    return path
