"""Mean-field inference in C++ (crf.cpp)."""

from __future__ import annotations

import ctypes
import weakref
from functools import lru_cache

import numpy as np

from wsss.commands import command
from wsss.errors import UserError
from wsss.ops.mean_field import Kernels
from wsss.ops.memory import memory_limit
from wsss.ops.native.library import address, load_library

BYTES_OF_PIXEL = 9 * 8
"""The corners of both lattices and their weights."""
BYTES_OF_VERTEX = 136
"""What a vertex of the colour lattice takes while that is built."""
MOST_VERTICES = 2**31 - 1


class NativeMeanField:
    """The CRF of one image: its colour lattice, and the lattice of positions that images of one size share."""

    def __init__(self, image: np.ndarray, kernels: Kernels) -> None:
        self._code = _code()
        self._kernels = kernels
        height, width = image.shape[:2]
        needed = BYTES_OF_PIXEL * height * width
        what, limit = f"the CRF of {height} x {width} pixels", memory_limit()
        limit.check(needed, what)
        most = min((limit.size - needed) // BYTES_OF_VERTEX, MOST_VERTICES)
        try:
            self._grid = _grid_lattice(height, width, kernels.gaussian_sxy)
            self._colour = _Lattice(
                self._code.wsss_colour_lattice(
                    address(image), height, width, kernels.bilateral_sxy, kernels.bilateral_srgb, most
                )
            )
        except MemoryError:
            raise limit.refusal(f"{what} needs more memory for its lattice") from None

    def memory(self, labels: int) -> int:
        """About how many bytes inference over so many labels takes."""
        return self._code.wsss_mean_field_bytes(self._grid.pointer, self._colour.pointer, labels)

    def __call__(self, probabilities: np.ndarray, copies: np.ndarray, iterations: int) -> np.ndarray:
        """Marginals (float32 K x H x W); see `MeanField`."""
        marginals = np.empty_like(probabilities)
        status = self._code.wsss_mean_field(
            self._grid.pointer,
            self._kernels.gaussian_weight,
            self._colour.pointer,
            self._kernels.bilateral_weight,
            address(probabilities),
            address(copies),
            len(probabilities),
            iterations,
            address(marginals),
        )
        if status:
            shape = " x ".join(map(str, probabilities.shape))
            raise UserError(f"there is not enough memory for a CRF of {shape}; take a smaller image or fewer labels")
        return marginals


class _Lattice:
    """A lattice that the library holds and that goes with this object.

    Raises:
        MemoryError: the library made none.
    """

    def __init__(self, pointer: int | None) -> None:
        if not pointer:
            raise MemoryError
        self.pointer = pointer
        weakref.finalize(self, _code().wsss_free_lattice, pointer)


@lru_cache(maxsize=8)
def _grid_lattice(height: int, width: int, sigma: float) -> _Lattice:
    return _Lattice(_code().wsss_grid_lattice(height, width, sigma, MOST_VERTICES))


def _code() -> ctypes.CDLL:
    code = load_library()
    if code is None:
        raise UserError(f"the native kernels are not built; run `{command('python', '-m', 'wsss.ops.native.build')}`")
    return code
