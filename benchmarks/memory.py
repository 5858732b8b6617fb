"""How much memory the dense CRF takes at its peak, above its image and unary; the peer in a process of its own too."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil

from benchmarks.common import Row, photographs, threads
from benchmarks.crf import infer
from benchmarks.highest import highest
from wsss.ops.crf import installed_backends

LABELS, SIZE = 21, (375, 500)
FORGET = Path("/proc/self/clear_refs")
"""What makes Linux forget the highest memory so far; elsewhere there is nothing to measure with."""


def rows() -> Iterator[Row]:
    """A photograph, and noise, whose lattice is the largest there is; no rows where it can't be measured."""
    if not FORGET.exists():
        return
    there = installed_backends()
    draw = np.random.default_rng(0)
    pictures = {"photograph": photographs(1)[0], "noise": draw.integers(0, 256, (*SIZE, 3), dtype=np.uint8)}
    for name, picture in pictures.items():
        peer = megabytes(picture, "pydensecrf") if "pydensecrf" in there else None
        for backend in (each for each in ("native", "torch") if each in there):
            ours = megabytes(picture, backend)
            what = f"CRF {backend}, irn kernels, {LABELS} labels, 500 x 375, {name}; pydensecrf"
            ratio = peer / ours if peer else None
            yield Row(f"memory-{backend}-{name}", what, ours, peer, "MB", ratio, None, 1.0)


def megabytes(image: np.ndarray, backend: str) -> float:
    """The peak in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(peak, image, backend).result() / 1e6


def peak(image: np.ndarray, backend: str) -> int:
    """Bytes that this process takes at its peak, in one thread, above what it took before; on Linux alone."""
    draw = np.random.default_rng(0)
    given = draw.random((LABELS, *image.shape[:2]), dtype=np.float32)
    with threads(1):
        infer(image[:30, :40], given[:, :30, :40], "irn", backend)
        before = psutil.Process().memory_info().rss
        FORGET.write_text("5", encoding="utf-8")
        infer(image, given, "irn", backend)
    return (highest() or before) - before
