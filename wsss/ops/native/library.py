"""The compiled library, loaded by ctypes, which lets other Python threads run meanwhile."""

from __future__ import annotations

import ctypes
import subprocess
from functools import lru_cache

import numpy as np

from wsss.ops.native.build import BASELINE, SOURCES, compile_for_user, library

_POINTER, _REAL, _INTEGER, _SIZE = ctypes.c_void_p, ctypes.c_float, ctypes.c_int, ctypes.c_size_t
_SIGNATURES = {
    "wsss_grid_lattice": (_POINTER, [_INTEGER, _INTEGER, _REAL, _SIZE]),
    "wsss_colour_lattice": (_POINTER, [_POINTER, _INTEGER, _INTEGER, _REAL, _REAL, _SIZE]),
    "wsss_free_lattice": (None, [_POINTER]),
    "wsss_mean_field": (
        _INTEGER,
        [_POINTER, _REAL, _POINTER, _REAL, _POINTER, _POINTER, _INTEGER, _INTEGER, _POINTER],
    ),
    "wsss_mean_field_bytes": (_SIZE, [_POINTER, _POINTER, _INTEGER]),
    "wsss_pair_histogram": (None, [_POINTER, _POINTER, _SIZE, _POINTER]),
    "wsss_processor_level": (_INTEGER, []),
}


@lru_cache(maxsize=1)
def load_library() -> ctypes.CDLL | None:
    """The library for this processor, compiled now where none was built, or None where that is not possible."""
    try:
        folder = SOURCES if library(BASELINE).exists() else compile_for_user()
        code = open_library(str(library(BASELINE, folder)))
        faster = library("x86-64-v3", folder)
        return open_library(str(faster)) if code.wsss_processor_level() >= 3 and faster.exists() else code
    except (OSError, subprocess.CalledProcessError):
        return None


def open_library(path: str) -> ctypes.CDLL:
    """The library of a file, with the types of its functions."""
    code = ctypes.CDLL(path)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(code, name)
        function.restype, function.argtypes = result, arguments
    return code


def address(array: np.ndarray) -> int:
    """Where an array's values begin; it must be contiguous."""
    return array.ctypes.data
