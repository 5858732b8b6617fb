"""Which images are looked at together: training pairs that share a tag, references for inference, and their tags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from wsss.data import Dataset


@dataclass(frozen=True)
class Pool:
    """Images that may be paired, of one dataset or of several.

    Attributes:
        tags: key to tags (bool C).
        sources: key to the dataset and the id in it.
    """

    tags: Mapping[str, np.ndarray]
    sources: Mapping[str, tuple[Dataset, str]]

    @classmethod
    def of(cls, dataset: Dataset) -> Pool:
        """The training images of a dataset, or its references where it has such a split, under their ids."""
        ids = dataset.splits.get("references", dataset.splits["train"])
        return cls({i: dataset.tags(i) for i in ids}, {i: (dataset, i) for i in ids})

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all images, in order."""
        return tuple(self.tags)

    def image(self, key: str) -> np.ndarray:
        """An image, uint8 H x W x 3."""
        dataset, image_id = self.sources[key]
        return dataset.image(image_id)

    @cached_property
    def by_class(self) -> list[list[str]]:
        """For each class (0..C-1), the keys of the images that are tagged with it."""
        classes = len(next(iter(self.tags.values()))) if self.tags else 0
        return [[key for key, tags in self.tags.items() if tags[number]] for number in range(classes)]

    def with_class(self, number: int, but: str) -> list[str]:
        """The images tagged with class `number`, without the image `but`."""
        return [key for key in self.by_class[number] if key != but]

    def partner(self, key: str, draw: np.random.Generator) -> str:
        """A random image that shares a randomly chosen tag with the image; itself where no image shares any."""
        shared = self._shared(key)
        if not shared:
            return key
        others = self.with_class(shared[int(draw.integers(len(shared)))], key)
        return others[int(draw.integers(len(others)))]

    def references(self, key: str, tagged: int, count: int, draw: np.random.Generator) -> list[str]:
        """Up to `count` different random images with class `tagged` (0..C-1), never the image itself; may be empty."""
        others = self.with_class(tagged, key)
        return [others[i] for i in draw.permutation(len(others))[:count]]

    @property
    def lonely(self) -> list[str]:
        """The images whose tags share nothing with any other image: they are paired with themselves."""
        return [key for key in self.tags if not self._shared(key)]

    def _shared(self, key: str) -> list[int]:
        """The tags of an image that another image has too."""
        return [int(number) for number in np.flatnonzero(self.tags[key]) if len(self.by_class[number]) > 1]


def intersection(first: Tensor, second: Tensor) -> Tensor:
    """The tags that both images have: float B x C of 0 and 1, from such tags."""
    return first * second


def difference(first: Tensor, second: Tensor) -> Tensor:
    """The tags of the first image that the second does not have: float B x C."""
    return first * (1 - second)
