"""Decoded images in memory, as far as it goes: shared by a process, its threads, and the processes that it forks."""

from __future__ import annotations

import math
import mmap
import multiprocessing
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from wsss.errors import UserError

VARIABLE = "WSSS_IMAGE_MEMORY"
SHARE = 0.25
"""Of the memory that is free: what images may take where WSSS_IMAGE_MEMORY says nothing."""

PATIENCE_S = 1.0
"""So long the lock is waited for, which a process may have been killed with."""


class ImageMemory:
    """Keeps the images that it is given, until its memory is full; what it has is never dropped.

    An epoch reads every image once, so that of a set that does not fit, whichever images came first are as good as any
    others. The memory is taken as images come.

    Args:
        ids: of all images that there can be.
        limit: bytes.
    """

    def __init__(self, ids: Sequence[str], limit: int) -> None:
        self._places = {id: place for place, id in enumerate(ids)}
        self._limit = limit
        # Anonymous shared memory: a process that is forked sees what any of them adds.
        self._pixels = mmap.mmap(-1, max(1, limit))
        table = mmap.mmap(-1, 8 * (1 + 3 * len(ids)))
        numbers = np.frombuffer(table, np.int64)
        self._used, self._shapes = numbers[:1], numbers[1:].reshape(len(ids), 3)
        self._lock = multiprocessing.Lock()

    def image(self, id: str, read: Callable[[], np.ndarray]) -> np.ndarray:
        """The image of an id, uint8 H x W x 3, the caller's own: what `read()` gave for it before, or gives now."""
        place = self._places.get(id)
        if place is None:
            return read()
        if not self._lock.acquire(timeout=PATIENCE_S):
            return read()
        end, height, width = map(int, self._shapes[place])
        self._lock.release()
        if end:
            start = end - height * width * 3
            return np.frombuffer(self._pixels, np.uint8, end - start, start).reshape(height, width, 3).copy()
        image = read()
        if self._lock.acquire(timeout=PATIENCE_S):
            start = int(self._used[0])
            end = start + image.nbytes
            if not self._shapes[place, 0] and end <= self._limit:
                self._pixels[start:end] = image.tobytes()
                self._used[0] = end
                self._shapes[place] = end, *image.shape[:2]
            self._lock.release()
        return image


def memory_for_images() -> int:
    """Bytes that decoded images may take: WSSS_IMAGE_MEMORY in MB, else a quarter of what is free.

    Raises:
        UserError: WSSS_IMAGE_MEMORY is no number of megabytes, 0 or more.
    """
    setting = os.environ.get(VARIABLE)
    if not setting:
        return int(SHARE * _free())
    try:
        megabytes = float(setting)
    except ValueError:
        megabytes = math.nan
    if not 0 <= megabytes < math.inf:
        raise UserError(f"{VARIABLE} is {setting!r}; it must be a number of megabytes, 0 or more")
    return int(megabytes * 1e6)


def _free() -> int:
    """Bytes that programs here can have without swapping; 0 where nobody says."""
    free = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")
        limit, current = ((group / f"memory.{name}").read_text(encoding="utf-8").strip() for name in ("max", "current"))
        free += [int(limit) - int(current)] if limit != "max" else []
    except (OSError, ValueError):
        pass
    return max(0, min(free, default=0))
