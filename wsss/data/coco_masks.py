"""Masks from the polygons and run lengths of COCO's annotations.

Where objects overlap, the smaller lies on top; a crowd is ignored (255) where no object lies on it. What is in no
object is background, or in a dataset without one ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from skimage.draw import polygon

from wsss.classes import BACKGROUND, IGNORE, Classes
from wsss.data.coco import listing
from wsss.data.ids import shown
from wsss.data.parallel import each, some
from wsss.errors import UserError

COCO = "coco"
"""What `--masks` says for these."""


@dataclass(frozen=True)
class DrawnMasks:
    """Masks that are drawn when they are read; a `wsss.data.mask_values.MaskReader`.

    Attributes:
        objects: image file to its size H, W and its objects: label-map index (255 of a crowd) and segmentation.
        classes: the foreground classes, and whether there is a background.
        pixels: how many pixels of all masks have each index that occurs.
    """

    objects: Mapping[Path, tuple[tuple[int, int], Sequence[tuple[int, Any]]]]
    classes: Classes
    pixels: Mapping[int, int]

    def read(self, path: Path) -> np.ndarray:
        """The label map of an image file: uint8 H x W."""
        size, objects = self.objects[path]
        mask = np.full(size, 0 if self.classes.background else IGNORE, np.uint8)
        drawn = [(index, drawing(segmentation, size)) for index, segmentation in objects]
        for index, inside in sorted(drawn, key=lambda each: (each[0] != IGNORE, -int(each[1].sum()))):
            mask[inside] = index
        return mask

    def record(self) -> dict[str, Any]:
        """What the manifest says of it, JSON-ready: each index that occurs, its name and its pixels."""
        names = {0: BACKGROUND, IGNORE: "ignored"} | dict(enumerate(self.classes.names, 1))
        return {
            names[index]: {"index": index, "name": names[index], "pixels": count}
            for index, count in sorted(self.pixels.items())
        }


def coco_masks(
    paths: Sequence[Path], classes: Classes, images: Mapping[str, Path], negative: Collection[str] = ()
) -> tuple[dict[str, Path], DrawnMasks, tuple[str, ...]]:
    """The masks of the images that COCO's files list.

    Args:
        paths: the files.
        classes: of the dataset; annotations of other categories are refused.
        images: id to file.
        negative: names of categories that stand for no class.

    Returns:
        Id to the image's file for each image with a mask, what draws them, and sentences on images without.

    Raises:
        UserError: a file that is no such JSON, a segmentation that is damaged, or none at all.
    """
    found: dict[str, tuple[tuple[int, int], list[tuple[int, Any]]]] = {}
    bare: list[str] = []
    for path in paths:
        listed = listing(path, images)
        for id, entry in listed.entries.items():
            objects = [(each, listed.names[int(each["category_id"])]) for each in listed.annotations(entry)]
            objects = [(each, name) for each, name in objects if name not in negative]
            if strange := sorted({name for _, name in objects} - set(classes.names)):
                raise UserError(f"{path} has annotations of {some(strange)}, which are no classes of the dataset")
            if any(not each.get("segmentation") for each, _ in objects):
                bare.append(id)
                continue
            indices = [IGNORE if each.get("iscrowd") else classes.index(name) for each, name in objects]
            try:
                size = (int(entry["height"]), int(entry["width"]))
                shapes = [each["segmentation"] for each, _ in objects]
                for shape in shapes:
                    drawing(shape, (1, 1)) if isinstance(shape, list) else drawing(shape, size)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise UserError(
                    f"{path}: no mask can be drawn of {shown(str(entry['file_name']))} ({error}); it needs height and "
                    "width, and polygons or run lengths of that size"
                ) from None
            found[id] = size, list(zip(indices, shapes, strict=True))
    if not found:
        raise UserError(
            f"the annotations in {some([*map(str, paths)])} have boxes alone, of which no mask can be made; leave "
            f"--masks {COCO} out"
        )
    drawn = DrawnMasks({images[id]: objects for id, objects in found.items()}, classes, {})
    pixels = Counter[int]()
    for counts in each(
        lambda id: np.bincount(drawn.read(images[id]).ravel(), minlength=256), [*found], "drawing masks"
    ):
        pixels.update({int(index): int(counts[index]) for index in np.flatnonzero(counts)})
    notes = [f"no mask of images with a box that has no outline: {some([*map(shown, bare)], 5)}"] if bare else []
    return {id: images[id] for id in found}, DrawnMasks(drawn.objects, classes, pixels), tuple(notes)


def drawing(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """The pixels of an object, bool H x W: those whose middle is in one of its polygons, or in its run lengths.

    Args:
        segmentation: a list of polygons [x, y, x, y, ...] in px, or {"size": [H, W], "counts": ...} with the lengths of
            runs down the columns, outside first, as a list or in COCO's letters.
        size: H, W.

    Raises:
        ValueError, TypeError, KeyError: it is neither, or does not fit the size.
    """
    inside = np.zeros(size, bool)
    if isinstance(segmentation, list):
        for corners in segmentation:
            x, y = np.array(corners, float).reshape(-1, 2).T
            if not (np.isfinite(x).all() and np.isfinite(y).all()):
                raise ValueError("a polygon has corners that are no numbers")
            inside[polygon(y - 0.5, x - 0.5, size)] = True
        return inside
    counts = segmentation["counts"]
    runs = np.array(_lengths(counts) if isinstance(counts, str) else counts, np.int64)
    if tuple(segmentation["size"]) != size or runs.sum() != size[0] * size[1] or (runs < 0).any():
        raise ValueError(f"its runs are not those of {size[0]} x {size[1]} px")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size, order="F")


def _lengths(letters: str) -> list[int]:
    """Run lengths in COCO's letters: five bits in each, the lowest first, and 32 where more come.

    From the fourth on they are differences to the last but one. Source: the format of pycocotools.
    """
    lengths: list[int] = []
    value = shift = 0
    for letter in letters:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{letter!r} is no letter of run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return lengths
