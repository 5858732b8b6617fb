"""Images of one split that are in another too: the same file, or one that looks the same.

What an image looks like is its perceptual hash: the signs of the 64 lowest frequencies of its 32 x 32 grey thumbnail.
Images whose hashes differ in few bits are compared by their thumbnails, since flat images have chance for a hash.
Source: Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.fft import dctn

from wsss.data.dataset import Dataset
from wsss.data.ids import shown
from wsss.data.layout import IMAGES, SPLITS, TEST, ids_of
from wsss.data.manifest import read_manifest
from wsss.data.parallel import each, some
from wsss.data.stored_images import UNREADABLE, source
from wsss.errors import UserError
from wsss.storage import write_bytes

BITS = 6
"""Hashes that differ in more bits are of other images: photographs differ in 10 or more, saved anew in up to 6."""
LEVELS = 6.0
"""So many levels of 256 the thumbnails of images that look the same differ at most, on average over their pixels."""
_SIDE, _LOW = 32, 8


@dataclass(frozen=True)
class Pair:
    """Two images in different splits.

    Attributes:
        first, second: their ids.
        splits: the split of each.
        equal: they are the same file; else they look the same.
    """

    first: str
    second: str
    splits: tuple[str, str]
    equal: bool


def find_alike(dataset: Dataset) -> list[Pair]:
    """The pairs of images that are equal or nearly equal, and in different splits; sorted.

    Args:
        dataset: whose images are all decoded, once.

    Raises:
        UserError: images that can't be read.
    """
    split_of = {id: split for split in (*SPLITS, TEST) for id in dataset.splits.get(split, ())}
    ids = sorted(split_of)
    entries = read_manifest(dataset.root)
    names = ids_of(entries, IMAGES)
    files = {id: entries[names[id]].sha256 for id in ids}
    by_file: dict[str, list[str]] = defaultdict(list)
    for id in ids:
        by_file[files[id]].append(id)
    # Of equal files one is compared for each split.
    kept = [id for its in by_file.values() for id in {split_of[id]: id for id in its}.values()]
    hashes = dict(zip(kept, each(lambda id: _hash(_thumbnail(dataset, id)), kept, "comparing images"), strict=True))
    pairs = [pair for its in by_file.values() for pair in combinations(its, 2)]
    near = [pair for pair in _near(hashes) if files[pair[0]] != files[pair[1]]]
    found = [(a, b, True) for a, b in pairs] + [(a, b, False) for a, b in near]
    found = [(a, b, equal) for a, b, equal in found if split_of[a] != split_of[b]]
    return [
        Pair(a, b, (split_of[a], split_of[b]), equal)
        for a, b, equal in sorted(found)
        if equal or np.abs(_thumbnail(dataset, a) - _thumbnail(dataset, b)).mean() <= LEVELS
    ]


def sentence(pairs: Sequence[Pair]) -> str:
    """What to say of the pairs; empty without any."""
    if not pairs:
        return ""
    counts: dict[tuple[str, ...], int] = defaultdict(int)
    for pair in pairs:
        counts[tuple(sorted(pair.splits))] += 1
    equal = sum(pair.equal for pair in pairs)
    where = ", ".join(f"{count:,} in {' and '.join(splits)}" for splits, count in sorted(counts.items()))
    named = [f"{shown(p.first)} ({p.splits[0]}) and {shown(p.second)} ({p.splits[1]})" for p in pairs]
    return (
        f"{len(pairs):,} pairs of images in different splits look the same ({equal:,} are equal files; {where}): "
        f"{some(named)}; figures on such splits are too good: take one of each pair away, or give --groups"
    )


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Write the pairs as a CSV file, atomically: first, first_split, second, second_split, and equal or alike."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("first", "first_split", "second", "second_split", "what"))
    rows.writerows((p.first, p.splits[0], p.second, p.splits[1], "equal" if p.equal else "alike") for p in pairs)
    write_bytes(path, text.getvalue().encode())


def _thumbnail(dataset: Dataset, id: str) -> np.ndarray:
    """The image in grey: float64 32 x 32, 0 to 255."""
    path = dataset.image_path(id)
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        return _small(Image.fromarray(dataset.image(id)))
    try:
        with Image.open(source(dataset.image_file(id))) as image:
            image.draft("L", (4 * _SIDE, 4 * _SIDE))  # decoded at a fraction of its size
            return _small(image)
    except UNREADABLE as error:
        raise UserError(f"image {path} can't be read ({error})") from None


def _small(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float64)


def _hash(thumbnail: np.ndarray) -> int:
    """64 bits: whether each of the lowest frequencies is above their median; the mean is left out."""
    low = dctn(thumbnail, norm="ortho")[:_LOW, :_LOW].ravel()
    return int.from_bytes(np.packbits(low > np.median(low[1:])).tobytes())


def _near(hashes: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """The pairs of ids whose hashes differ in `BITS` bits or fewer.

    Of `BITS` + 1 parts of two such hashes at least one is equal, so that only hashes with an equal part are compared.
    """
    width = 64 // (BITS + 1)
    seen = set()
    for part in range(BITS + 1):
        buckets: dict[int, list[str]] = defaultdict(list)
        for id, bits in hashes.items():
            buckets[bits >> part * width & (1 << width) - 1].append(id)
        for its in buckets.values():
            own = np.array([hashes[id] for id in its], np.uint64)
            for at, id in enumerate(its[:-1]):
                close = np.flatnonzero(np.bitwise_count(own[at + 1 :] ^ own[at]) <= BITS)
                seen |= {(min(id, its[at + 1 + n]), max(id, its[at + 1 + n])) for n in close}
    return iter(sorted(seen))
