"""The index of a store: SQLite, and the files of what is too large for it.

    FOLDER/index.db       buckets, every version of every object, unfinished uploads
    FOLDER/files/NAME     the bytes of what is larger than 64 KB
    FOLDER/incoming/      what is being received; emptied at the start

A change is one transaction of the index: an object is there whole, or as it was before, whatever is killed. Of several
writers with a condition exactly one finds it true, since the index has one writer at a time.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INLINE = 65_536
"""Bytes of the largest object that the index itself holds."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY, created REAL, versioning TEXT DEFAULT '', days INTEGER);
CREATE TABLE IF NOT EXISTS objects (
    id INTEGER PRIMARY KEY AUTOINCREMENT, bucket TEXT, key TEXT, version TEXT, latest INTEGER, marker INTEGER,
    size INTEGER, etag TEXT, modified REAL, replaced REAL, headers TEXT, body BLOB, file TEXT);
CREATE UNIQUE INDEX IF NOT EXISTS latest ON objects (bucket, key) WHERE latest;
CREATE UNIQUE INDEX IF NOT EXISTS versions ON objects (bucket, key, version);
CREATE TABLE IF NOT EXISTS uploads (id TEXT PRIMARY KEY, bucket TEXT, key TEXT, headers TEXT, started REAL);
CREATE TABLE IF NOT EXISTS parts (
    upload TEXT, number INTEGER, size INTEGER, etag TEXT, body BLOB, file TEXT, PRIMARY KEY (upload, number));
"""


@dataclass(frozen=True)
class Received:
    """Bytes that came in: a file of `incoming`, its size, and their etag with its quotes."""

    path: Path
    size: int
    etag: str


class Index:
    """The index and the files below a folder; every method may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self.incoming, self.files = folder / "incoming", folder / "files"
        shutil.rmtree(self.incoming, ignore_errors=True)
        for each in (folder, self.incoming, self.files):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._gone: list[str] = []
        self.database = sqlite3.connect(folder / "index.db", check_same_thread=False, isolation_level=None)
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.executescript(_SCHEMA)
        self._remove_unnamed()

    @contextmanager
    def change(self) -> Iterator[None]:
        """One transaction; files that nothing names any more go after it."""
        with self._lock:
            self._gone = []
            self.database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.database.execute("COMMIT")
            except BaseException:
                if self.database.in_transaction:
                    self.database.execute("ROLLBACK")
                raise
            for file in self._gone:
                (self.files / file).unlink(missing_ok=True)

    def rows(self, question: str, *values: object) -> list[tuple[Any, ...]]:
        """The answer to a question in SQL."""
        with self._lock:
            return self.database.execute(question, values).fetchall()

    def do(self, statement: str, *values: object) -> None:
        """A statement within a change."""
        self.database.execute(statement, values)

    def keep(self, content: Received) -> tuple[bytes | None, str | None]:
        """The bytes for the index, or the name of the file that they have become."""
        if content.size <= INLINE:
            return content.path.read_bytes(), None
        name = uuid.uuid4().hex
        with open(content.path, "rb") as file:
            os.fsync(file.fileno())
        os.rename(content.path, self.files / name)
        return None, name

    def forget(self, file: str | None) -> None:
        """Have a file go with this change."""
        if file is not None:
            self._gone.append(file)

    def _remove_unnamed(self) -> None:
        """Remove files of changes that were killed before the index had them."""
        named = self.rows("SELECT file FROM objects WHERE file IS NOT NULL UNION SELECT file FROM parts")
        for path in set(self.files.iterdir()) - {self.files / file for (file,) in named if file}:
            path.unlink()
