"""Large pictures in overlapping tiles: each tile is worked on by itself, and only its middle is kept.

What is computed at a place is the same as without tiles where it depends on nothing further away than the overlap.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from wsss.stream import ordered_map

Tile = TypeVar("Tile")
Made = TypeVar("Made")

LARGE = 1 << 24
"""Pixels above which a picture is worked on in tiles; 4,096 x 4,096 are worked on whole."""
TILE = 2048
"""Side of a tile in px, its overlap included: 1.5 times the kept pixels are worked on. No tile is large."""
OVERLAP = 192
"""So many px at each inner side of a tile are there for its middle alone."""
_ONE_PICTURE = threading.Lock()


@dataclass(frozen=True)
class Window:
    """One tile.

    Attributes:
        seen: its rows and columns in the whole.
        kept: those that it fills.
        middle: where these are in the tile.
    """

    seen: tuple[slice, slice]
    kept: tuple[slice, slice]
    middle: tuple[slice, slice]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the tile."""
        rows, columns = self.seen
        return rows.stop - rows.start, columns.stop - columns.start


def is_large(height: int, width: int) -> bool:
    """Whether a picture is worked on in tiles."""
    return height * width > LARGE


def windows(
    height: int, width: int, tile: int | None = None, overlap: int | None = None, step: int = 1
) -> Iterator[Window]:
    """Tiles of equal sizes whose kept parts cover height x width once; lengths in px, or in cells.

    Args:
        height, width: of the whole.
        tile: side of a tile, `TILE` by default; more than twice the overlap.
        overlap: what is not kept at each inner side, at least; `OVERLAP` by default.
        step: tiles begin at its multiples, but for the last, which ends where the whole does.
    """
    tile, overlap = TILE if tile is None else tile, OVERLAP if overlap is None else overlap
    if tile < 2 * overlap + step:
        raise ValueError(f"a tile of {tile} has no middle with an overlap of {overlap}")
    for rows in _spans(height, tile, overlap, step):
        for columns in _spans(width, tile, overlap, step):
            seen, kept, middle = zip(rows, columns, strict=True)
            yield Window(seen, kept, middle)


def _spans(length: int, tile: int, overlap: int, step: int) -> Iterator[tuple[slice, slice, slice]]:
    side, first = min(tile, length), 0
    while first < length:
        start = min(max(first - overlap, 0) // step * step, length - side)
        stop = start + side
        last = length if stop == length else stop - overlap
        yield slice(start, stop), slice(first, last), slice(first - start, last - start)
        first = last


def each_tile(
    tiles: Sequence[Tile], work: Callable[[Tile], Made], keep: Callable[[Tile, Made], None], workers: int | None = None
) -> None:
    """Work on the tiles of a picture on all cores, of one picture at a time in this process.

    Memory is bounded by the tiles that are worked on together, however many pictures other threads have at hand.

    Args:
        tiles: of the picture.
        work: may be called from several threads at once.
        keep: called in this thread, for each tile in their order with what was made of it.
        workers: how many threads instead; 0 is this thread alone.
    """
    with _ONE_PICTURE:
        made = map(work, tiles) if workers == 0 else ordered_map(work, tiles, workers)
        for tile, each in zip(tiles, made, strict=True):
            keep(tile, each)


def labels_in_tiles(height: int, width: int, label: Callable[[slice, slice], np.ndarray]) -> np.ndarray:
    """A label map, tile by tile: uint8 H x W.

    Args:
        height, width: of the picture.
        label: from the rows and columns of a tile to its labels, uint8; may be called from several threads at once.
    """
    labels = np.empty((height, width), np.uint8)

    def keep(window: Window, made: np.ndarray) -> None:
        labels[window.kept] = made

    each_tile([*windows(height, width)], lambda window: label(*window.seen)[window.middle], keep)
    return labels


def part_at_size(maps: np.ndarray, size: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    """A part of maps that are resized to a size, bilinear from corner to corner: float32 K x rows x columns.

    Args:
        maps: float K x h x w.
        size: H, W.
        rows, columns: of the part, within H and W.
    """
    found = maps.astype(np.float32)
    for axis, (span, length) in enumerate(zip((rows, columns), size, strict=True), 1):
        position = np.arange(span.start, span.stop) * ((found.shape[axis] - 1) / max(length - 1, 1))
        below = np.minimum(position.astype(np.int64), max(found.shape[axis] - 2, 0))
        above = np.minimum(below + 1, found.shape[axis] - 1)
        share = (position - below).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        found = np.take(found, below, axis) * (1 - share) + np.take(found, above, axis) * share
    return found
