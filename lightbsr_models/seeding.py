"""Randomness as a function of counters, so that an interrupted run goes on exactly.

No state of a random number generator is saved. Every draw is a function of counters instead: of an item of the training
set, of (manual_seed, epoch, position in the epoch); of a training step, of (manual_seed, iteration, rank). So a resumed
run draws what the uninterrupted one would have drawn, whatever the moment of the interruption and the number of
workers.
"""

import hashlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from basicsr.data.data_sampler import EnlargedSampler
from torch.utils.data import Dataset


def stable_seed(*counters: int) -> int:
    """A seed of 63 bits that depends on the counters alone, on every machine and in every version."""
    digest = hashlib.blake2b(",".join(map(str, counters)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_generators(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators, the GPUs' too."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class SeededDataset(Dataset):
    """A training set whose items draw from generators that were seeded for them; ``ResumableSampler`` gives the seeds.

    In the main process too: training steps, which come between items, seed the generators themselves.

    Args:
        dataset: any; it may draw from ``random``, ``numpy.random`` and torch's generators.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index_and_seed: tuple[int, int]) -> Any:
        index, seed = index_and_seed
        seed_generators(seed)
        return self.dataset[index]


class ResumableSampler(EnlargedSampler):
    """BasicSR's sampler, with a seed for every item, which can start within an epoch.

    The seed follows from ``seed``, the epoch and the item's position among those of all ranks.

    Attributes:
        start: (epoch, items of this rank that it has already used up).
    """

    def __init__(self, dataset: Any, num_replicas: int, rank: int, ratio: int = 1, *, seed: int) -> None:
        super().__init__(dataset, num_replicas, rank, ratio)
        self.seed = seed
        self.start = (0, 0)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        used = self.start[1] if epoch == self.start[0] else 0
        for i, index in enumerate(super().__iter__()):
            if i >= used:
                yield index, stable_seed(self.seed, epoch, self.rank + i * self.num_replicas)
