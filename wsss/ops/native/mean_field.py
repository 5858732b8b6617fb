"""Mean-field inference in C++ (crf.cpp), loaded by ctypes, which lets other Python threads run meanwhile."""

from __future__ import annotations

import ctypes
import weakref
from functools import lru_cache

import numpy as np

from wsss.errors import UserError
from wsss.ops.crf import Kernels
from wsss.ops.native.build import BASELINE, library


@lru_cache(maxsize=1)
def load_library() -> ctypes.CDLL | None:
    """The library for this processor, or None where none was built."""
    try:
        code = _declare(ctypes.CDLL(str(library(BASELINE))))
        faster = library("x86-64-v3")
        return _declare(ctypes.CDLL(str(faster))) if code.wsss_processor_level() >= 3 and faster.exists() else code
    except OSError:
        return None


class NativeMeanField:
    """The CRF of one image: its colour lattice, and the lattice of positions that images of one size share."""

    def __init__(self, image: np.ndarray, kernels: Kernels) -> None:
        self._code = _code()
        self._kernels = kernels
        height, width = image.shape[:2]
        self._grid = _grid_lattice(height, width, kernels.gaussian_sxy)
        self._colour = _Lattice(
            self._code.wsss_colour_lattice(
                _address(image), height, width, kernels.bilateral_sxy, kernels.bilateral_srgb
            )
        )

    def __call__(self, probabilities: np.ndarray, copies: np.ndarray, iterations: int) -> np.ndarray:
        """Marginals for probabilities in [1e-5, 1] (float32 K x H x W), label k standing for copies[k] equal ones."""
        marginals = np.empty_like(probabilities)
        status = self._code.wsss_mean_field(
            self._grid.pointer,
            self._kernels.gaussian_weight,
            self._colour.pointer,
            self._kernels.bilateral_weight,
            _address(probabilities),
            _address(copies),
            len(probabilities),
            iterations,
            _address(marginals),
        )
        if status:
            raise UserError(_too_large(f"{' x '.join(map(str, probabilities.shape))} marginals"))
        return marginals


class _Lattice:
    """A lattice that the library holds and that goes with this object."""

    def __init__(self, pointer: int | None) -> None:
        if not pointer:
            raise UserError(_too_large("its lattice"))
        self.pointer = pointer
        weakref.finalize(self, _code().wsss_free_lattice, pointer)


@lru_cache(maxsize=8)
def _grid_lattice(height: int, width: int, sigma: float) -> _Lattice:
    return _Lattice(_code().wsss_grid_lattice(height, width, sigma))


def _code() -> ctypes.CDLL:
    code = load_library()
    if code is None:
        raise UserError("the native CRF is not built; run `python -m wsss.ops.native.build`")
    return code


def _too_large(what: str) -> str:
    return f"there is not enough memory for the CRF of this image ({what}); use a smaller image or fewer labels"


def _address(array: np.ndarray) -> int:
    return array.ctypes.data


def _declare(code: ctypes.CDLL) -> ctypes.CDLL:
    pointer, real, integer = ctypes.c_void_p, ctypes.c_float, ctypes.c_int
    signatures = {
        "wsss_grid_lattice": (pointer, [integer, integer, real]),
        "wsss_colour_lattice": (pointer, [pointer, integer, integer, real, real]),
        "wsss_free_lattice": (None, [pointer]),
        "wsss_mean_field": (integer, [pointer, real, pointer, real, pointer, pointer, integer, integer, pointer]),
        "wsss_processor_level": (integer, []),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(code, name)
        function.restype, function.argtypes = result, arguments
    return code
