"""The batches that a network learns from: samples drawn in an order that the rng decides, made ahead of their use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from wsss.process import own_cores
from wsss.stream import ordered_map

Sample = dict[str, Any]


class Samples(Dataset[Sample]):
    """Training samples by (epoch, position): each drawn from random numbers of its own, whoever loads it."""

    def __init__(self, ids: Sequence[str], make: Callable[[str, np.random.Generator], Sample], rng: int) -> None:
        self._ids, self._make, self._rng = ids, make, rng

    def __getitem__(self, at: tuple[int, int]) -> Sample:
        epoch, index = at
        name = self._ids[index]
        return {"id": name, **self._make(name, np.random.default_rng((self._rng, epoch, index)))}


def shuffled(length: int, batch_size: int, rng: int, epochs: range) -> Iterator[list[tuple[int, int]]]:
    """Batches of (epoch, index), in an order that depends on the rng and the epoch alone; a short last one is kept."""
    for epoch in epochs:
        order = np.random.default_rng((rng, epoch)).permutation(length)
        for start in range(0, length, batch_size):
            yield [(epoch, int(index)) for index in order[start : start + batch_size]]


def batches_of(samples: Samples, places: Iterator[list[tuple[int, int]]], device: torch.device) -> Iterator[Sample]:
    """The batches of all epochs, made ahead.

    Processes make them where the network has a GPU. On a CPU one thread does, in what the network leaves of the cores.
    """
    if device.type == "cpu":
        return ordered_map(lambda batch: _collate([samples[place] for place in batch]), places, workers=1)
    workers = max(1, own_cores() - 1)
    loader = DataLoader(samples, batch_sampler=places, num_workers=workers, pin_memory=True, collate_fn=_collate)
    return iter(loader)


def _collate(samples: list[Sample]) -> Sample:
    """A batch, or a worker's part of one, which may have nothing in it."""
    return default_collate(samples) if samples else {"id": []}
