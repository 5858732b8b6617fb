"""The writes of a run that could not be sent yet, in an SQLite file, so that none is ever half there."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from wsss.storage import temporary_folder
from wsss.tracking.writes import Write

DATABASE = "unsent.db"
LOCK, FILES = "lock", "files"
_LINES, _SENT = "writes.jsonl", "sent.json"
_TABLES = """
CREATE TABLE IF NOT EXISTS writes (number INTEGER PRIMARY KEY, write TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS runs (stand_in TEXT PRIMARY KEY, id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS refused (number INTEGER PRIMARY KEY, write TEXT NOT NULL, why TEXT NOT NULL);
"""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)

log = logging.getLogger("wsss.tracking")
Result = TypeVar("Result")


class UnsentWrites:
    """What waits in the folder of a run.

    `unsent.db` holds the writes in order, the ids that the server has given to runs that had only a stand-in for one,
    and what the server will never take, with the reason. A file that is damaged is put aside as `damaged-...`, with a
    warning, and an empty one begun. The `writes.jsonl` of an earlier version is taken over.

    Args:
        folder: made on first use; belongs to one process at a time, which holds its `lock`.

    Raises:
        sqlite3.Error, OSError: (all methods) the disk takes no more, or can't be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self.path, self.files = folder, folder / DATABASE, folder / FILES
        if (folder / _LINES).exists():
            self._take_over()

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self.path.exists() or next(self.writes(), None) is None

    def append(self, write: Write) -> None:
        """Keep a write."""
        self._transaction(lambda database: _append(database, write.to_json()))

    def writes(self) -> Iterator[tuple[int, str]]:
        """Number and JSON of the writes that wait, in order; each is looked up when its turn comes."""
        number = -1
        while row := self._transaction(partial(_next_write, number)):
            yield row
            number = row[0]

    @property
    def run_ids(self) -> dict[str, str]:
        """Stand-in to id of the runs that were begun with what waited here."""
        if not self.path.exists():
            return {}
        return dict(self._transaction(lambda database: database.execute("SELECT stand_in, id FROM runs").fetchall()))

    def sent(self, number: int, run_ids: Mapping[str, str]) -> None:
        """Forget a write that was sent, and remember the ids that it gave (stand-in to id)."""

        def forget(database: sqlite3.Connection) -> None:
            database.execute("DELETE FROM writes WHERE number = ?", (number,))
            database.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?)", run_ids.items())

        self._transaction(forget)

    def refuse(self, write: str, why: str, number: int | None = None) -> None:
        """Put aside a write (JSON) that can never be sent; `number` is the one under which it waited."""

        def put_aside(database: sqlite3.Connection) -> None:
            _refuse(database, write, why)
            database.execute("DELETE FROM writes WHERE number = ?", (number,))

        self._transaction(put_aside)

    def drop_if_empty(self) -> None:
        """Remove the database, unless it holds writes that wait or were refused."""
        query = "SELECT 1 FROM writes UNION SELECT 1 FROM refused"
        if self.path.exists() and not self._transaction(lambda database: database.execute(query).fetchone()):
            self.path.unlink()

    def remove(self) -> None:
        """Remove the folder, unless something is kept in it: writes that wait or were refused, or a damaged file."""
        self.drop_if_empty()
        if {path.name for path in self._folder.iterdir()} <= {LOCK, FILES}:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _transaction(self, action: Callable[[sqlite3.Connection], Result]) -> Result:
        """All of an action or nothing of it; where the file is damaged, on an empty one."""
        try:
            return self._attempt(action)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGED:
                raise
            aside = self._folder / f"damaged-{uuid.uuid4().hex[:8]}.db"
            os.replace(self.path, aside)
            with suppress(FileNotFoundError):
                os.replace(f"{self.path}-journal", f"{aside}-journal")
            log.warning(
                "%s is damaged (%s); it was put aside as %s: what waited in it does not reach MLflow, tracking goes on",
                self.path,
                error,
                aside.name,
            )
            return self._attempt(action)

    def _attempt(self, action: Callable[[sqlite3.Connection], Result]) -> Result:
        self._folder.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.path)) as database, database:
            database.executescript(_TABLES)
            return action(database)

    def _take_over(self) -> None:
        """Bring in what an earlier version kept as lines of JSON; an unfinished last line was never complete."""
        lines, sent = self._folder / _LINES, self._folder / _SENT
        complete = lines.read_bytes().split(b"\n")[:-1]
        state: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            state = json.loads(sent.read_bytes())

        def bring_in(database: sqlite3.Connection) -> None:
            for line in complete[state.get("sent", 0) :]:
                text = line.decode(errors="replace")
                try:
                    Write.from_json(text)
                except ValueError as error:
                    _refuse(database, text, str(error))
                    log.warning("a line of %s can't be read (%s); kept in %s", lines, error, self.path)
                else:
                    _append(database, text)
            database.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?)", state.get("ids", {}).items())

        self._transaction(bring_in)
        lines.unlink()
        sent.unlink(missing_ok=True)


def read_writes(path: Path) -> list[str]:
    """The JSON of every write in a database, in order; nothing beside it is made, changed or put aside.

    Raises:
        OSError, sqlite3.Error: it is missing, damaged or cut off.
    """
    with copied(path) as copy, closing(sqlite3.connect(copy)) as database:
        return [text for (text,) in database.execute("SELECT write FROM writes ORDER BY number")]


@contextmanager
def copied(path: Path) -> Iterator[Path]:
    """A copy of a database for a moment, without what a process that was killed had half written.

    Raises:
        OSError, sqlite3.Error: it is missing, damaged or cut off.
    """
    with temporary_folder() as folder:
        copy = folder / path.name
        shutil.copyfile(path, copy)
        with suppress(FileNotFoundError):
            shutil.copyfile(f"{path}-journal", f"{copy}-journal")
        with closing(sqlite3.connect(copy)) as database:
            (state,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if state != "ok":
                raise sqlite3.DatabaseError(" ".join(state.split()))
        yield copy


def _next_write(number: int, database: sqlite3.Connection) -> tuple[int, str] | None:
    query = "SELECT number, write FROM writes WHERE number > ? ORDER BY number LIMIT 1"
    row: tuple[int, str] | None = database.execute(query, (number,)).fetchone()
    return row


def _append(database: sqlite3.Connection, write: str) -> None:
    database.execute("INSERT INTO writes (write) VALUES (?)", (write,))


def _refuse(database: sqlite3.Connection, write: str, why: str) -> None:
    database.execute("INSERT INTO refused (write, why) VALUES (?, ?)", (write, why))
