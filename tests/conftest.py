"""Fixtures of all tests: golden numbers, small synthetic photographs, and the folder of the data sets.

The golden numbers come from the papers' released implementations (float32, CPU). There are no released weights here:
every tensor of a released state dict is made from its key (``released_state_dict``), and the numbers belong to those.
"""

import functools
import gzip
import json
import logging
import os
import signal
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from lightbsr_compat import has_basicsr

# BasicSR 1.4.2 cannot be built on Python 3.13 and newer: what needs it is not collected there.
collect_ignore = (
    []
    if has_basicsr()
    else ["lightbsr_models", "data/test_images.py", "data/test_datasets.py", "test_lightbsr_compat.py"]
)

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_works():
    """A shell's background job ignores Ctrl-C, and so would the processes that tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def two_threads():
    """Keep torch to two threads: the networks here are small."""
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers, whichever tests ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def fresh_logger():
    """BasicSR sets its logger up once a process, log file and all: take it down, so that each test has its own."""
    yield
    if has_basicsr():
        from basicsr.utils.logger import initialized_logger

        for name in initialized_logger:
            logger = logging.getLogger(name)
            logger.setLevel(logging.NOTSET)
            for handler in list(logger.handlers):
                logger.removeHandler(handler)
                handler.close()
        initialized_logger.clear()


@functools.cache
def _golden(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


@functools.cache
def _released_state_dict(name: str) -> dict[str, Tensor]:
    shapes = json.loads(gzip.decompress((GOLDEN / f"{name}.keys.json.gz").read_bytes()))
    return {key: _tensor_from_key(key, tuple(shape)) for key, shape in shapes.items()}


def _tensor_from_key(key: str, shape: tuple[int, ...]) -> Tensor:
    if key.endswith(("num_batches_tracked", "queue_ptr")):
        return torch.zeros(shape, dtype=torch.long)
    n = np.asarray(np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape))
    if key.endswith("running_var"):
        n = 1 + 0.1 * np.abs(n)
    elif key.endswith("running_mean"):
        n = 0.1 * n
    elif key.endswith("queue"):
        n = n / np.linalg.norm(n, axis=0, keepdims=True)
    elif key.endswith("gamma"):
        n = 0.5 + 0.1 * n
    elif len(shape) == 1:
        n = 1 + 0.1 * n if key.endswith("weight") else 0.1 * n
    else:
        n = n / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(n.astype(np.float32))


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Tensor]]:
    """The arrays of ``golden/NAME.npz`` as tensors, by name."""
    return _golden


@pytest.fixture(scope="session")
def released_state_dict() -> Callable[[str], dict[str, Tensor]]:
    """A state dict of the released format whose keys and shapes are in ``golden/NAME.keys.json.gz``."""
    return lambda name: dict(_released_state_dict(name))


@pytest.fixture(scope="session")
def relative_error() -> Callable[[Tensor, Tensor], float]:
    """The largest deviation, relative to the largest expected value."""

    def error(actual: Tensor, expected: Tensor) -> float:
        assert actual.shape == expected.shape
        return float(((actual - expected).abs().max() / expected.abs().max()).detach())

    return error


@pytest.fixture(scope="session")
def photo() -> Callable[[int, int, int], np.ndarray]:
    """``photo(seed, height, width)``: a smooth random RGB picture with an edge in it, uint8."""

    def make(seed: int, height: int, width: int) -> np.ndarray:
        random = np.random.RandomState(seed)
        image = cv2.resize(random.uniform(0, 255, (6, 6, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
        image[height // 3 :, : width // 2] += 60
        image += random.normal(0, 8, image.shape)
        return image.clip(0, 255).astype(np.uint8)

    return make


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory, photo) -> Path:
    """Six PNG files of different sizes, all at least 48 pixels wide and high."""
    folder = tmp_path_factory.mktemp("images")
    for i, (height, width) in enumerate([(48, 48), (52, 64), (70, 50), (49, 81), (64, 64), (57, 53)]):
        cv2.imwrite(str(folder / f"photo_{i}.png"), photo(i, height, width)[..., ::-1])
    return folder


@pytest.fixture(scope="session")
def image_lmdb(tmp_path_factory, image_folder) -> Path:
    """The images of ``image_folder`` as BasicSR's own tool packs them."""
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    path = tmp_path_factory.mktemp("lmdb") / "images.lmdb"
    files = sorted(p.name for p in image_folder.iterdir())
    # Backwards, so that the order must come from the names and not from the file.
    files.reverse()
    stems = [name.removesuffix(".png") for name in files]
    make_lmdb_from_imgs(str(image_folder), str(path), files, stems, map_size=2**24)
    return path


@pytest.fixture(scope="session")
def datasets_root() -> Path:
    """The folder of the big data sets (``$LIGHTBSR_DATASETS``, or beside the repository); skips where it is absent."""
    beside = Path(__file__).parents[2] / "shared" / "datasets"
    root = Path(os.environ.get("LIGHTBSR_DATASETS", beside))
    if not root.is_dir():
        pytest.skip("no data sets: set LIGHTBSR_DATASETS to the folder that holds benchmark/Set5")
    return root
