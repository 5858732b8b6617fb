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

import hashlib
import json
import re
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from wsss.errors import UserError
from wsss.storage import disk_errors, write_bytes
from wsss.tracking import names
from wsss.tracking.info import RunInfo
from wsss.tracking.liveness import process_gone, process_tags
from wsss.tracking.opening import source_tags
from wsss.tracking.outbox import Outbox, copy_files
from wsss.tracking.unsent import DATABASE, LOCK, UnsentWrites, read_writes
from wsss.tracking.writes import Write, batch

FORMAT = 1
RUNS, STORE = "runs", "store"
STATUSES = ("RUNNING", "FINISHED", "FAILED", "KILLED")
RUN, PROCESS = "run.json", "process.json"
MODEL = "model"
"""The kind of the write with the trained network, and the folder that holds it."""


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


def sha256(path: Path) -> str:
    """The sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


@dataclass(frozen=True)
class RunFile:
    """What `run.json` says.

    Attributes:
        id: 32 hexadecimal digits.
        title: the run's name in lists.
        fingerprint: of all that decides the outputs.
        dataset, digest: the data's name and the digest of its content.
        method, preset, rng: what was run.
        start: milliseconds since 1970.
        status: "RUNNING", "FINISHED", "FAILED" or "KILLED"; "RUNNING" also where the process died.
        writes: how many writes belong to the record; 0 while the run goes on.
        format: of the record.
    """

    id: str
    title: str
    fingerprint: str
    dataset: str
    digest: str
    method: str
    preset: str
    rng: int
    start: int
    status: str = "RUNNING"
    writes: int = 0
    format: int = FORMAT

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.status == "FINISHED"

    def write(self, folder: Path) -> None:
        """Write it into a record's folder, whole or not at all."""
        content = asdict(self) | {"finished": self.finished}
        write_bytes(folder / RUN, json.dumps(content, indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> RunFile:
        """That of a record's folder.

        Raises:
            UserError: there is none, it is damaged, or a newer version wrote it.
        """
        path = folder / RUN
        try:
            content = json.loads(path.read_bytes())
            number = content["format"]
            if isinstance(number, int) and number > FORMAT:
                raise UserError(
                    f"the record {folder} was written by a newer version (format {number}, this one knows {FORMAT}); "
                    "update this one"
                )
            file = cls(**{field.name: content[field.name] for field in fields(cls)})
            sound = all(type(getattr(file, field.name)).__name__ == field.type for field in fields(cls))
        except FileNotFoundError:
            raise UserError(f"{folder} is no record of a run: it has no {RUN}; copy the folder again, whole") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} can't be read ({error!r}); copy the record again, whole") from None
        if not sound or not re.fullmatch("[0-9a-f]{32}", file.id) or file.status not in STATUSES:
            raise UserError(f"{path} is not what a run writes; copy the record again, whole")
        return file


def record_folders(out: Path) -> list[Path]:
    """The folders of the records in OUT, the oldest run first as far as they can be read."""

    def start(folder: Path) -> tuple[int, str]:
        with suppress(UserError):
            return RunFile.read(folder).start, folder.name
        return 0, folder.name

    return sorted((path for path in (out / RUNS).glob("*/") if not path.name.startswith(".")), key=start)


def is_going(folder: Path, file: RunFile) -> bool:
    """Whether a process may still be writing a record; away from its machine, whether its last beat is recent."""
    if file.status != "RUNNING":
        return False
    try:
        return not process_gone(process_of(folder))
    except UserError:
        return False


def process_of(folder: Path) -> dict[str, str]:
    """The tags of the process that wrote a record, see `process_tags`.

    Raises:
        UserError: they are damaged or missing.
    """
    try:
        tags = json.loads((folder / PROCESS).read_bytes())
        float(tags[names.HEARTBEAT])
        return {str(name): str(value) for name, value in tags.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder / PROCESS} can't be read; copy the record again, whole") from None


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


def read_record(folder: Path) -> list[Write]:
    """The writes of a record, in order; nothing in its folder is changed.

    Raises:
        UserError: they can't be read.
    """
    try:
        return [Write.from_json(text) for text in read_writes(folder / DATABASE)]
    except (OSError, ValueError, sqlite3.Error) as error:
        raise UserError(
            f"the record {folder} is damaged or cut off ({error}); copy it again, whole, from where it was made"
        ) from None


def last_status(writes: Iterable[Write], run_id: str) -> tuple[str, int]:
    """The status that a run last wrote and when (milliseconds since 1970); "RUNNING" and 0 before the first."""
    status, ended = "RUNNING", 0
    for write in writes:
        if write.kind == "status" and write.run == run_id:
            status, ended = write.body["status"], write.body.get("time", 0)
    return status, ended


def _beat(folder: Path) -> None:
    write_bytes(folder / PROCESS, json.dumps(process_tags(), indent=1).encode())


def _close(outbox: RecordWriter, folder: Path, file: RunFile) -> None:
    outbox.close()
    writes = read_record(folder)
    replace(file, status=last_status(writes, file.id)[0], writes=len(writes)).write(folder)
