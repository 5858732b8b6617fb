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
Place = tuple[int, ...]
"""Which sample: the epoch and the image's index; and the position in the epoch, where an image may come twice."""


class Samples(Dataset[Sample]):
    """Training samples by (epoch, position): each drawn from random numbers of its own, whoever loads it."""

    def __init__(self, ids: Sequence[str], make: Callable[[str, np.random.Generator], Sample], rng: int) -> None:
        self._ids, self._make, self._rng = ids, make, rng

    def __getitem__(self, at: Place) -> Sample:
        name = self._ids[at[1]]
        return {"id": name, **self._make(name, np.random.default_rng((self._rng, *at)))}


def shuffled(
    length: int, batch_size: int, rng: int, epochs: range, groups: Sequence[np.ndarray] | None = None
) -> Iterator[list[Place]]:
    """Batches of places, in an order that depends on the rng and the epoch alone; a short last one is kept.

    Args:
        length: the number of images; an epoch has as many samples.
        batch_size: of all batches but the last.
        rng: of the order.
        epochs: which.
        groups: the indices of the images of each group, from which samples are taken in turn (`in_turn`); None takes
            every image once.
    """
    for epoch in epochs:
        draw = np.random.default_rng((rng, epoch))
        if groups is None:
            order: list[Place] = [(epoch, int(index)) for index in draw.permutation(length)]
        else:
            order = [(epoch, int(index), turn) for turn, index in enumerate(in_turn(groups, length, draw))]
        for start in range(0, length, batch_size):
            yield order[start : start + batch_size]


def in_turn(groups: Sequence[np.ndarray], length: int, draw: np.random.Generator) -> np.ndarray:
    """`length` indices, in each turn one of every group: a group's come in random order, and again when all have come.

    Args:
        groups: int arrays, none of them empty; an index may be in several.
        length: how many.
        draw: the order of the groups in a turn is random too.
    """
    turns = -(-length // len(groups))
    columns = [
        np.concatenate([draw.permutation(group) for _ in range(-(-turns // len(group)))])[:turns] for group in groups
    ]
    return draw.permuted(np.stack(columns, 1), axis=1).ravel()[:length]


def groups_by_class(tags: np.ndarray) -> list[np.ndarray]:
    """The images of each class that some image has, and those of none, if there are any.

    Args:
        tags: bool N x C.

    Returns:
        Rising indices into N; an image of several classes is in several groups.
    """
    columns = np.concatenate([tags, ~tags.any(1, keepdims=True)], 1)
    return [np.flatnonzero(column) for column in columns.T if column.any()]


def batches_of(samples: Samples, places: Iterator[list[Place]], device: torch.device) -> Iterator[Sample]:
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
