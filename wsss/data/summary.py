"""What a dataset holds, counted: images and masks by split and class, classes that occur together, sizes of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wsss.data.dataset import Dataset
from wsss.data.layout import SPLITS, TEST, mask_counts
from wsss.data.parallel import each
from wsss.errors import UserError


@dataclass(frozen=True)
class Summary:
    """Counts over the tags of a dataset; no image is read for them.

    Attributes:
        splits: their names, S of them; "test" where there is one, in which images may have no tags.
        classes: the names of the C foreground classes.
        images: the images of each split, int S.
        masked: those of them with a mask, int S.
        tagged: the images of each split whose tags name a class, int64 S x C.
        untagged: the images of each split whose tags name no class: background images, int S.
        together: the images of all splits whose tags name both of two classes, int64 C x C; the diagonal is the class's
            own count.
    """

    splits: tuple[str, ...]
    classes: tuple[str, ...]
    images: tuple[int, ...]
    masked: tuple[int, ...]
    tagged: np.ndarray
    untagged: tuple[int, ...]
    together: np.ndarray

    def frequent(self, most: int) -> list[int]:
        """The classes that occur most, from 0, in the order of the classes; equal counts by that order too."""
        order = np.argsort(-self.tagged.sum(0), kind="stable")[:most]
        return sorted(order.tolist())


def summary(dataset: Dataset) -> Summary:
    """Count what a dataset holds.

    Raises:
        UserError: an image of a split has no tag row.
    """
    C = len(dataset.classes)
    splits = (*SPLITS, *((TEST,) if TEST in dataset.splits else ()))
    tagged = {split: dataset.splits[split] for split in SPLITS}
    tagged |= {split: [id for id in dataset.splits[split] if dataset.has_tags(id)] for split in splits if split == TEST}
    tags = {split: _tags(dataset, ids) for split, ids in tagged.items()}
    # In float32 the product is the matrix library's; counts up to 2^24 are exact.
    all_tags = np.concatenate([*tags.values()]).astype(np.float32)
    return Summary(
        splits=splits,
        classes=dataset.classes.names,
        images=tuple(len(dataset.splits[split]) for split in splits),
        masked=tuple(mask_counts(dataset.root, dataset.splits, splits)),
        tagged=np.stack([tags[split].sum(0, dtype=np.int64) for split in splits]).reshape(len(splits), C),
        untagged=tuple(int((~tags[split].any(1)).sum()) for split in splits),
        together=(all_tags.T @ all_tags).astype(np.int64),
    )


@dataclass(frozen=True)
class Sizes:
    """The sizes of images.

    Attributes:
        counts: (height, width) in px to the images of that size.
        unread: the ids of images whose size can't be read.
    """

    counts: Mapping[tuple[int, int], int]
    unread: tuple[str, ...]


def sizes(dataset: Dataset) -> Sizes:
    """The sizes of all images of the splits, from the headers of their files."""
    ids = [id for split in (*SPLITS, TEST) for id in dataset.splits.get(split, ())]
    found = each(lambda id: _size(dataset, id), ids, "reading sizes")
    unread = tuple(id for id, size in zip(ids, found, strict=True) if size is None)
    return Sizes(Counter(size for size in found if size is not None), unread)


def with_class(dataset: Dataset, split: str, number: int | None) -> list[str]:
    """The ids of a split whose tags name a class, in the split's order.

    Args:
        dataset: the dataset.
        split: its name.
        number: the class, from 1; 0 for images without any class; None for all images.
    """
    ids = dataset.splits.get(split, ())
    if number is None:
        return list(ids)
    tags = _tags(dataset, ids)
    wanted = tags[:, number - 1] if number else np.logical_not(tags.any(1))
    return [id for id, there in zip(ids, wanted.tolist(), strict=True) if there]


def _tags(dataset: Dataset, ids: Sequence[str]) -> np.ndarray:
    """Bool N x C."""
    return np.array([dataset.tags(id) for id in ids], bool).reshape(len(ids), len(dataset.classes))


def _size(dataset: Dataset, id: str) -> tuple[int, int] | None:
    try:
        return dataset.size(id)
    except UserError:
        return None
