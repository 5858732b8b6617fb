"""How often pairs of values occur in two label maps."""

from __future__ import annotations

import numpy as np

from wsss.errors import UserError
from wsss.ops.native.library import address, load_library


def pair_histogram(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """At how many places one label map has the value i and another the value j, exactly.

    Args:
        first: uint8, any shape.
        second: uint8, the same shape.

    Returns:
        int64 256 x 256: row i, column j.

    Raises:
        UserError: another type, or two shapes.
    """
    if first.dtype != np.uint8 or second.dtype != np.uint8 or first.shape != second.shape:
        found = f"{first.dtype} {first.shape} and {second.dtype} {second.shape}"
        raise UserError(f"label maps are compared as uint8 of one shape, these are {found}")
    code = load_library()
    if code is None:
        pairs = (first.astype(np.uint16) << 8) | second
        return np.bincount(pairs.ravel(), minlength=1 << 16).reshape(256, 256)
    first, second = np.ascontiguousarray(first), np.ascontiguousarray(second)
    histogram = np.zeros((256, 256), np.int64)
    code.wsss_pair_histogram(address(first), address(second), first.size, address(histogram))
    return histogram
