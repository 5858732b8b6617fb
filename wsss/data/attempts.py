"""What attempts to add a dataset have read, kept until one succeeds: after a kill the next goes on from there.

    data/.adding/<name>.sqlite    a row for each file that was read, in a table of images and one of masks: its state
                                  then, its hash, what it holds

A row holds as long as its file has the size and the time of its last change that it had. Nothing here is a part of a
dataset: without it everything is read again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wsss.data.manifest import Entry
from wsss.data.parallel import some
from wsss.data.stored_images import Stored
from wsss.errors import UserError
from wsss.progress import say

ADDING = ".adding"
_EVERY_S = 2.0
_JUST_NOW_NS = 2_000_000_000
"""File systems count time in steps of up to two seconds: a file touched just now may change again unnoticed."""
_TABLE = """create table if not exists {} (path text primary key, state text, sha256 text, size integer, kind text,
    height integer, width integer, bands integer, deep integer, orientation integer, sound integer, labels blob)
    without rowid"""


class Examined(NamedTuple):
    """What is known of the file of an image or a mask.

    Attributes:
        entry: its hash and size; None where it can't be read.
        holds: what it holds by its header; None where that can't be read.
        sound: it is RGB of 8 bits, or a label map, and all of its pixels were decoded.
        labels: the values in a label map; None of an image.
    """

    entry: Entry | None
    holds: Stored | None
    sound: bool
    labels: frozenset[int] | None = None


class Attempt:
    """The rows of one dataset; what is not there yet is written every two seconds, so that small ones write nothing.

    Args:
        name: of the dataset that is being added to the workspace.
        what: "images" or "masks".
    """

    def __init__(self, name: str, what: str) -> None:
        self.name = name
        self.what = what
        self._path = _table_of(name)
        self._unwritten: list[Iterable[tuple[str, str, Examined]]] = []
        self._written = time.monotonic()

    @property
    def begun(self) -> bool:
        """Whether an earlier attempt left rows."""
        return self._path.is_file()

    def known(self, states: Mapping[str, str]) -> dict[str, Examined]:
        """What earlier attempts have read of files that did not change since; what they have and did is said.

        Args:
            states: path to state; see `keep`.
        """
        found: dict[str, Examined] = {}
        changed = []
        alike: dict[Stored | frozenset[int], Any] = {}
        with contextlib.suppress(sqlite3.Error), self._open() as table:
            total = table.execute(f"select count(*) from {self.what}").fetchone()[0]
            for path, state in states.items():
                row = table.execute(f"select * from {self.what} where path = ?", (path,)).fetchone()
                if row is None:
                    continue
                if row[1] != state:
                    changed.append(path)
                    continue
                holds = Stored(row[4], row[5], row[6], row[7], bool(row[8]), row[9])
                labels = None if row[11] is None else frozenset(row[11])
                found[path] = Examined(
                    Entry(row[2], row[3]),
                    alike.setdefault(holds, holds),
                    bool(row[10]),
                    labels and alike.setdefault(labels, labels),
                )
            gone = total - len(found) - len(changed)
            again = f"; {len(changed):,} changed since and are read again: {some(changed, 5)}" if changed else ""
            again += f"; {gone:,} that it had read are no longer there" if gone else ""
            say(
                f"{self.name}: an attempt that broke off had read {len(found):,} of the {len(states):,} {self.what}, "
                f"which are not read again{again}"
            )
        return found

    def keep(self, read: Iterable[tuple[str, str, Examined]], last: bool = False) -> None:
        """Take in what was read: path, state and what is known of it.

        A state is any text that is another once the file has changed; an empty one is that of a file that may change
        unnoticed. What is given is gone through only if it comes to be written.
        """
        self._unwritten.append(read)
        if time.monotonic() > self._written + _EVERY_S or (last and self.begun):
            self._write()

    def _write(self) -> None:
        """Write the rows, out of git's sight; a folder that can't be written does without."""
        rows = [
            (path, state, its.entry.sha256, its.entry.size, *its.holds, its.sound, _packed(its.labels))
            for read in self._unwritten
            for path, state, its in read
            if state and its.entry and its.holds
        ]
        self._unwritten = []
        self._written = time.monotonic()
        if not rows:
            return
        with contextlib.suppress(OSError, UserError, sqlite3.Error):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            (self._path.parent / ".gitignore").write_text("*\n", encoding="utf-8")
            try:
                self._insert(rows)
            except sqlite3.DatabaseError:  # damaged: begin anew
                self._path.unlink()
                self._insert(rows)

    def _insert(self, rows: Sequence[tuple]) -> None:
        with self._open() as table, table:
            table.execute(_TABLE.format(self.what))
            table.executemany(f"insert or replace into {self.what} values ({', '.join('?' * 12)})", rows)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        table = sqlite3.connect(self._path, timeout=60)
        try:
            yield table
        finally:
            table.close()


def _packed(labels: frozenset[int] | None) -> bytes | None:
    return None if labels is None else bytes(sorted(labels))


def forget(name: str) -> None:
    """Forget what attempts have read: the dataset is there."""
    _table_of(name).unlink(missing_ok=True)


def _table_of(name: str) -> Path:
    return Path("data") / ADDING / f"{name}.sqlite"


def state_of(touched: os.stat_result) -> str:
    """The state of a file on a disk; empty where it was touched just now."""
    if touched.st_mtime_ns > time.time_ns() - _JUST_NOW_NS:
        return ""
    return f"{touched.st_size} {touched.st_mtime_ns} {touched.st_ino}"
