"""Reading and checking masks while a dataset is added or checked: PNGs, and the .mat files of SBD."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.io

from wsss.classes import IGNORE, Classes
from wsss.data.mask_values import MaskReader
from wsss.data.palette_png import png_size, read_palette_png, voc_indices
from wsss.errors import UserError


def read_mask(path: Path, *, object_255: int | None = None, values: MaskReader | None = None) -> np.ndarray:
    """The class indices of a mask, uint8 H x W, from a palette or grey PNG or from an SBD .mat file.

    Args:
        path: the file.
        object_255: the index of the object that 255 stands for; 255 of an image without an object. None where it is
            void.
        values: what its values stand for, where they are no indices.

    Raises:
        UserError: the file is missing, damaged or holds no indices.
    """
    if values is not None:
        return values.read(path)
    mask = read_sbd_mask(path) if path.suffix.lower() == ".mat" else read_palette_png(path)
    if object_255 is None:
        return mask
    if object_255 == IGNORE and (mask == IGNORE).any():
        raise UserError(f"mask {path} shows an object (255), but its image has no class; correct the one or the other")
    return np.where(mask == IGNORE, np.uint8(object_255), mask)


def read_sbd_mask(path: Path) -> np.ndarray:
    """The class indices of an SBD `cls/<id>.mat`, uint8 H x W; SBD has no void, so 255 does not occur.

    Raises:
        UserError: the file is missing, damaged or holds no `GTcls.Segmentation`.
    """
    try:
        mask = scipy.io.loadmat(path, variable_names=["GTcls"])["GTcls"][0]["Segmentation"][0]
    except Exception as error:  # loadmat raises a dozen unrelated types on damaged files
        raise UserError(f"{path} is not an SBD mask: no GTcls.Segmentation can be read ({error})") from None
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise UserError(f"{path} is not an SBD mask: GTcls.Segmentation is {mask.dtype} {mask.shape}, not uint8 H x W")
    return mask


def values_in(labels: np.ndarray) -> frozenset[int]:
    """The values that occur in a label map (uint8 H x W)."""
    return frozenset(np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist())


def check_mask(path: Path, name: str, size: tuple[int, int], classes: Classes, *, decode: bool) -> frozenset[int]:
    """Check a mask file; the values in it, none where they are not looked at.

    Args:
        path: a palette or grey PNG of class indices.
        name: what the error calls it.
        size: height and width of its image.
        classes: the foreground classes; indices above their number other than 255 are refused.
        decode: look at the values, not only at the header.

    Raises:
        UserError: the first thing that is wrong with it.
    """
    check_mask_size(png_size(path, name), name, size)
    if not decode:
        return frozenset()
    return check_mask_values(values_in(read_palette_png(path, name)), path, name, classes)


def check_mask_size(own: tuple[int, int], name: str, size: tuple[int, int]) -> None:
    """Refuse a mask whose height and width are not its image's; see `check_mask`."""
    if own != size:
        raise UserError(f"{name} is {own[1]} x {own[0]}, its image {size[1]} x {size[0]}")


def check_mask_values(values: frozenset[int], path: Path, name: str, classes: Classes) -> frozenset[int]:
    """Refuse a mask with a value that is no class's index, and give back its values; see `check_mask`."""
    if strange := sorted(values - {*classes.indices, IGNORE}):
        why = ""
        if any(index != voc for index, voc in voc_indices(path).items()):
            why = ", and its palette has VOC's colours under other indices, as an optimiser leaves them"
        allowed = f"{classes.indices[0]} to {len(classes)} and {IGNORE}"
        raise UserError(f"{name} holds index {strange[0]} (allowed: {allowed}){why}")
    return values
