"""Datasets of many images: adding against reading alone, the time until a run's first step, memory against images."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import chdir, suppress
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TypeVar
from unittest.mock import patch

from benchmarks.adding import SIDE, add, peak, times, write_images
from benchmarks.common import Row, row_of, timed
from wsss.run.method import run_method
from wsss.run.steps import StepRunner

ADDED, OPENED, FEW = 20_000, 100_000, 10_000
ROUNDS = 3
Result = TypeVar("Result")
LIMIT_S, LIMIT_MB = 3.0, 100.0


class _BegunError(Exception):
    """A run has come to its first step."""


def rows() -> Iterator[Row]:
    """`add`, its parts, `open-first`, `open` and `memory`; the last where it can be measured.

    The peer of `add` is one loop that reads each file, hashes it and has its header parsed; ours decodes each image as
    well, links it, and writes the dataset. The peers of `add-pixels`, `add-read` and `add-link` are loops that do
    some of this alone. The peers of the others are limits.
    """
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        for name, count in (("few", FEW), ("added", ADDED), ("opened", OPENED)):
            write_images(Path("images", name), count)
        yield from _add()
        yield from _open()
        few, many = _memory("few"), _memory("opened")
    if few is not None and many is not None:
        growth = many - few
        what = f"peak of add, open and check, {FEW:,} to {OPENED:,} images; the limit"
        yield Row("memory", what, growth, LIMIT_MB, "MB", LIMIT_MB / max(growth, 1), None, 1.0)


def _add() -> Iterator[Row]:
    seconds = [_apart(times, "added", f"added-{number}") for number in range(ROUNDS)]
    whats = {
        "header": ("add", "decoded too; read, hash and parse the headers in one loop", 0.7),
        "pixels": ("add-pixels", "decoded too; read, hash, parse and decode in one loop", None),
        "read": ("add-read", "decoded too; read and hash alone", None),
        "link": ("add-link", "decoded too; link them into another folder alone", None),
    }
    for peer, (key, what, aim) in whats.items():
        ours, theirs = ([each[part] for each in seconds] for part in ("add", peer))
        row = row_of(key, "", aim, ours, theirs)
        what = f"add {ADDED:,} JPEGs of {SIDE} px, {what}"
        yield Row(key, what, ADDED / median(ours), ADDED / median(theirs), "1/s", row.ratio, row.spread, aim)


def _open() -> Iterator[Row]:
    add("few", "few")
    begin("few")  # imports what a run imports
    add("opened", "opened")
    # Files that were touched two seconds ago are compared anew, as file systems count time coarsely.
    time.sleep(2.5)
    what = f"open {OPENED:,} images, check them, and begin a run's first step"
    for key, words in (("open-first", "just added: all are hashed once more"), ("open", "compared before")):
        seconds = timed(lambda: begin("opened"), time.perf_counter)
        aim = 1.0 if key == "open" else None
        yield Row(key, f"{what}, {words}; the limit", seconds, LIMIT_S, "s", LIMIT_S / seconds, None, aim)


def begin(name: str) -> None:
    """A run from its command to the function of its first step."""
    begun = patch.object(StepRunner, "_work", side_effect=_BegunError)
    with tempfile.TemporaryDirectory() as record, begun, suppress(_BegunError):
        run_method("cam", "demo", name, offline=Path(record, "record"))


def _memory(name: str) -> float | None:
    """MB at the peak of adding, opening and checking in a fresh process."""
    found = _apart(peak, name)
    return None if found is None else found / 1e6


def _apart(work: Callable[..., Result], *given: str) -> Result:
    """What a function gives in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(work, *given).result()
