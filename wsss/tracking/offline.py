"""The record of a run where there is no tracking server: a folder that `wsss import` brings into MLflow later.

    <out>/runs/<run id>/
        run.json        format, id, title, status, times, what the run is of; written first, and anew at the end
        unsent.db       every write that MLflow would have got, in order, see `wsss.tracking.unsent`
        files/          artifacts, and the trained network; their sizes and sha256 are in the writes
        process.json    whose process writes, and when it last said that it lives
        lock            held by that process
    <out>/store/        the steps' outputs, unless WSSS_STORE names another place

It is what waits for a server that never answers, so that what writes a run does not know the difference.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from wsss.errors import UserError
from wsss.storage import disk_errors, write_bytes
from wsss.tracking import names
from wsss.tracking.info import RunInfo
from wsss.tracking.liveness import process_tags
from wsss.tracking.opening import source_tags
from wsss.tracking.outbox import Outbox, copy_files
from wsss.tracking.record import (
    MODEL,
    PROCESS,
    RUNS,
    RunFile,
    is_going,
    last_status,
    read_record,
    record_folders,
    sha256,
)
from wsss.tracking.unsent import LOCK, UnsentWrites
from wsss.tracking.writes import Write, batch


class RecordWriter:
    """Keeps a run's writes, each on disk before it returns: a process that is killed loses none.

    It is what an outbox is where there is a server, for whoever writes a run.

    Raises:
        UserError: (all methods) the disk takes no more.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._writes = folder, UnsentWrites(folder)
        self._lock = FileLock(folder / LOCK)
        self._lock.acquire()

    def put(self, write: Write) -> None:
        """Keep a write."""
        try:
            with disk_errors(self._folder):
                self._writes.append(write)
        except sqlite3.Error as error:
            raise UserError(
                f"the record of the run in {self._folder} can't be written ({error}); mend that, then run the same "
                "command again: finished steps are kept"
            ) from error

    def put_files(self, run: str, files: Mapping[str, bytes | Path]) -> None:
        """Keep artifacts: path below the run's artifacts to content, or to a file or folder to copy."""
        self._put_files("files", run, files, {})

    def put_model(self, run: str, folder: Path, about: Mapping[str, Any]) -> None:
        """Keep the folder of the trained network, and what is said of it."""
        self._put_files(MODEL, run, {MODEL: folder}, about)

    def _put_files(self, kind: str, run: str, files: Mapping[str, bytes | Path], about: Mapping[str, Any]) -> None:
        with disk_errors(self._folder):
            name = copy_files(files, self._writes.files)
            sums = file_sums(self._writes.files / name)
        self.put(Write(kind, run, {**about, "folder": name, "files": sums}))

    def flush(self) -> None:
        """Everything is on disk already."""

    def close(self) -> None:
        """Let go of the record."""
        self._lock.release()


def file_sums(folder: Path) -> dict[str, dict[str, Any]]:
    """Size in bytes and sha256 of every file below a folder, by its relative path with forward slashes."""
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@dataclass(frozen=True)
class OpenRun:
    """A run that can be written.

    Attributes:
        id: the run's.
        experiment: the id of MLflow's experiment; empty without a server.
        outbox: takes the writes.
        beat: says that the run is alive.
        close: waits until all is written; the last call.
        tables: the tag that lists the tables of an earlier part of the run, JSON.
    """

    id: str
    experiment: str
    outbox: Outbox | RecordWriter
    beat: Callable[[], object]
    close: Callable[[], None]
    tables: str = "[]"


def open_record(out: Path, info: RunInfo) -> OpenRun:
    """The record of a run: an interrupted one of the same fingerprint, which goes on under its id, else a new one.

    Raises:
        UserError: OUT can't be written.
    """
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock"):
            earlier = _interrupted(out, info.fingerprint)
            file = earlier[0] if earlier else _new(info)
            folder = out / RUNS / file.id
            replace(file, status="RUNNING", writes=0).write(folder)
            _beat(folder)
        outbox = RecordWriter(folder)
    if earlier:
        outbox.put(Write("status", file.id, {"status": "RUNNING"}))
    tags = source_tags(info) | info.all_tags | {names.RUN_ID: file.id}
    outbox.put(batch(file.id, params=info.params, tags=tags))
    outbox.put(Write("inputs", file.id, {"datasets": info.dataset.inputs}))
    tables = "[]"
    for write in earlier[1] if earlier else ():
        if write.run == file.id and write.kind == "batch":
            tables = write.body["tags"].get(names.MLFLOW_TABLES, tables)
    return OpenRun(file.id, "", outbox, partial(_beat, folder), partial(_close, outbox, folder, file), tables)


def _new(info: RunInfo) -> RunFile:
    return RunFile(
        id=uuid.uuid4().hex,
        title=info.title,
        fingerprint=info.fingerprint,
        dataset=info.dataset.name,
        digest=info.dataset.digest,
        method=info.method,
        preset=info.preset,
        rng=info.rng,
        start=time.time_ns() // 1_000_000,
    )


def _interrupted(out: Path, fingerprint: str) -> tuple[RunFile, list[Write]] | None:
    """The newest record of a fingerprint that did not finish and that nobody writes, and its writes."""
    for folder in reversed(record_folders(out)):
        with suppress(UserError):
            file = RunFile.read(folder)
            if file.fingerprint == fingerprint and not file.finished and not is_going(folder, file):
                return file, read_record(folder)
    return None


def _beat(folder: Path) -> None:
    write_bytes(folder / PROCESS, json.dumps(process_tags(), indent=1).encode())


def _close(outbox: RecordWriter, folder: Path, file: RunFile) -> None:
    outbox.close()
    writes = read_record(folder)
    replace(file, status=last_status(writes, file.id)[0], writes=len(writes)).write(folder)
