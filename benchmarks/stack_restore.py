"""Restoring a backup into a folder, every piece verified first, beside a plain copy of the same files."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.common import Row, row_of, timed
from wsss.backup.make import back_up
from wsss.backup.places import find_places
from wsss.backup.restore import restore
from wsss.backup.vault import Vault
from wsss.tracking.connection import mlflow_client

ROUNDS = 5
LARGE, SMALL = (30, 8 << 20), (1500, 20_000)
"""How many files of how many bytes: networks and shards of label maps; records and pictures."""


def restore_row() -> Row:
    """MB/s of a restore, of a copy, and their ratio."""
    with tempfile.TemporaryDirectory() as name, _variables():
        folder = Path(name)
        size = _make(folder / "group")
        vault = Vault(str(folder / "backups"))
        with _in(folder / "group"):
            back_up(find_places(), vault)
        ours, peer = [], []
        for _ in range(ROUNDS):
            with _in(folder / "restored"):
                ours.append(timed(lambda: restore(find_places(), vault), time.perf_counter))
            peer.append(timed(lambda: shutil.copytree(folder / "group", folder / "copied"), time.perf_counter))
            for each in ("restored", "copied"):
                shutil.rmtree(folder / each)
    row = row_of("restore", "", 0.5, ours, peer)
    what = f"restore a backup of {size / 1e6:.0f} MB in {LARGE[0] + SMALL[0]} files, verified | copy the same files"
    rate, other = (size / 1e6 / median(seconds) for seconds in (ours, peer))
    return Row("restore", what, rate, other, "MB/s", row.ratio, row.spread, row.aim)


def _make(folder: Path) -> int:
    """A tracking store without runs, and artifacts; their bytes."""
    with _in(folder):
        mlflow_client()
        random = np.random.default_rng(0)
        for count, size in (LARGE, SMALL):
            for number in range(count):
                path = Path("mlruns", "0", f"{size}-{number % 40}", f"{number}.bin")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(random.bytes(size))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def _in(folder: Path) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    with chdir(folder):
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        yield


@contextmanager
def _variables() -> Iterator[None]:
    """None of those that name other places."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("WSSS_", "MLFLOW_")):
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
