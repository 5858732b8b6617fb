"""Datasets of many images: adding against reading alone, the time until a run's first step, memory against images."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import chdir, suppress
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
from PIL import Image

from benchmarks.common import Row, row_of, timed
from benchmarks.memory import highest
from wsss.data.dataset import Dataset
from wsss.data.folder import add_folder
from wsss.data.workspace import open_dataset
from wsss.run.method import run_method
from wsss.run.steps import StepRunner

ADDED, OPENED, FEW = 20_000, 100_000, 10_000
ROUNDS = 3
SIDE = 64
LIMIT_S, LIMIT_MB = 3.0, 100.0
_DRAWN = 256
_IN_A_FOLDER = 1000


class _BegunError(Exception):
    """A run has come to its first step."""


def rows() -> Iterator[Row]:
    """`add`, `open-first`, `open` and `memory`; the last where it can be measured.

    The peer of `add` is one loop that reads each file, hashes it and has its header parsed; ours decodes each image as
    well, links it, and writes the dataset. The peers of the others are limits.
    """
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        for name, count in (("few", FEW), ("added", ADDED), ("opened", OPENED)):
            write_images(Path("images", name), count)
        yield _add()
        yield from _open()
        few, many = _memory("few"), _memory("opened")
    if few is not None and many is not None:
        growth = many - few
        what = f"peak of add, open and check, {FEW:,} to {OPENED:,} images; the limit"
        yield Row("memory", what, growth, LIMIT_MB, "MB", LIMIT_MB / growth, None, 1.0)


def write_images(root: Path, count: int) -> None:
    """JPEGs of 64 x 64 px, no two of one content, in folders of a thousand, and beside the folder `<root>.csv`."""
    draw = np.random.default_rng(0)
    drawn = [_jpeg(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(_DRAWN)]
    for number in range(count):
        folder = root / f"{number // _IN_A_FOLDER:03}"
        if number % _IN_A_FOLDER == 0:
            folder.mkdir(parents=True)
        start, rest = drawn[number % _DRAWN][:2], drawn[number % _DRAWN][2:]
        comment = b"\xff\xfe\x00\x0a%08d" % number
        (folder / f"{number:06}.jpg").write_bytes(start + comment + rest)
    lines = (f"{number:06}.jpg,{'cat' if number % 3 else 'dog'}\n" for number in range(count))
    root.with_suffix(".csv").write_text("image,labels\n" + "".join(lines), encoding="utf-8")


def _jpeg(colours: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(colours).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
    return file.getvalue()


def _add() -> Row:
    ours, peer = [], []
    for number in range(ROUNDS):
        peer.append(timed(lambda: read("added"), time.perf_counter))
        ours.append(timed(lambda name=f"added-{number}": add("added", name), time.perf_counter))  # type: ignore[misc]
    row = row_of("add", "", 0.7, ours, peer)
    what = f"add {ADDED:,} JPEGs of {SIDE} px, decoded too; read, hash and parse the headers in one loop"
    own, theirs = (ADDED / median(seconds) for seconds in (ours, peer))
    return Row("add", what, own, theirs, "1/s", row.ratio, row.spread, row.aim)


def read(name: str) -> None:
    """The peer: each image is read, hashed, and its header parsed."""
    for parent, _, files in os.walk(Path("images", name)):
        for file_name in files:
            path = f"{parent}/{file_name}"
            with open(path, "rb") as file:
                hashlib.file_digest(file, "sha256")
            with Image.open(path):
                pass


def add(images: str, name: str) -> Dataset:
    """Make a dataset of a folder of images."""
    return add_folder(Path("images", images), name, tags=f"images/{images}.csv")


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
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        peak = process.submit(_peak, name).result()
    return None if peak is None else peak / 1e6


def _peak(name: str) -> int | None:
    add(name, f"{name}-measured")
    dataset = open_dataset(f"{name}-measured")
    dataset.check()
    return highest()
