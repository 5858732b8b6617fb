"""Reading and checking masks while a dataset is added: palette PNGs, and the .mat files of SBD."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from wsss.classes import IGNORE, Classes
from wsss.data.images import UNREADABLE
from wsss.data.palette_png import read_palette_png
from wsss.errors import UserError


def read_mask(path: Path) -> np.ndarray:
    """The class indices of a mask, uint8 H x W, from a palette or grey PNG or from an SBD .mat file.

    Raises:
        UserError: the file is missing, damaged or holds no indices.
    """
    return read_sbd_mask(path) if path.suffix == ".mat" else read_palette_png(path)


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


def mask_problem(path: Path, size: tuple[int, int], classes: Classes, *, decode: bool) -> str | None:
    """What is wrong with a mask file, or None.

    Args:
        path: a palette or grey 8-bit PNG of class indices.
        size: height and width of its image.
        classes: the foreground classes; indices above their number other than 255 are a problem.
        decode: look at the indices, not only at the header.
    """
    try:
        with Image.open(path) as mask:
            if mask.mode not in ("P", "L"):
                return f"is of mode {mask.mode} (a mask is a palette or grey PNG of class indices)"
            if (mask.height, mask.width) != size:
                return f"is {mask.width} x {mask.height}, its image {size[1]} x {size[0]}"
            if decode:
                indices = np.unique(np.asarray(mask))
                strange = indices[(indices > len(classes)) & (indices != IGNORE)]
                if strange.size:
                    return f"holds index {strange[0]} (allowed: 0 to {len(classes)} and {IGNORE})"
    except UNREADABLE as error:
        return f"can't be read ({error})"
    return None
