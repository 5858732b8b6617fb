"""Bringing the record of a run (`wsss.tracking.offline`) into MLflow, whole and once.

Every write of the record is sent again when an import was interrupted: to MLflow, sending one twice is sending it once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from wsss.errors import UserError
from wsss.progress import say
from wsss.storage import inside
from wsss.tracking import names
from wsss.tracking.liveness import process_tags
from wsss.tracking.opening import new_run
from wsss.tracking.query import run_of_record, stage_runs
from wsss.tracking.record import MODEL, RunFile, is_going, last_status, process_of, read_record, sha256
from wsss.tracking.unsent import FILES
from wsss.tracking.writes import RefusedError, Write, merged, send

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

OF_FILES = ("files", MODEL)
"""The kinds of writes that have files."""


@dataclass(frozen=True)
class Record:
    """A record that was looked at and is whole.

    Attributes:
        folder: where it lies.
        file: what it says of itself.
        writes: all of them, in order.
        process: the tags of the process that wrote it.
        left_out: the names of its files, relative to the folder, that were left out when it was packed.
        current: the files that count, relative to the folder; those that were written anew later need not be there.
    """

    folder: Path
    file: RunFile
    writes: tuple[Write, ...]
    process: dict[str, str]
    left_out: frozenset[str]
    current: frozenset[str]

    @property
    def params(self) -> dict[str, str]:
        """The settings as text."""
        batches = [write.body["params"] for write in self._own("batch")]
        return {key: value for params in batches for key, value in params.items()}

    @property
    def step_fingerprints(self) -> dict[str, str]:
        """Step key to fingerprint, of the steps that were done."""
        start = names.step_fingerprint("")
        tags = {k: v for write in self.writes if write.kind == "batch" for k, v in write.body["tags"].items()}
        return {key.removeprefix(start): value for key, value in tags.items() if key.startswith(start)}

    @property
    def ended(self) -> tuple[str, int]:
        """The status at the end, and when that was (milliseconds since 1970); that of a process that died is FAILED."""
        status, ended = last_status(self.writes, self.file.id)
        return (status, ended) if status != "RUNNING" else ("FAILED", int(float(self.process[names.HEARTBEAT]) * 1000))

    @property
    def model(self) -> tuple[Path, dict[str, Any]] | None:
        """The folder of the trained network, and what is said of its dataset; None where the record has none."""
        for write in reversed(list(self._own(MODEL))):
            if not self.missing(write):
                return self.folder / FILES / write.body["folder"] / MODEL, write.body
        return None

    def missing(self, write: Write) -> list[str]:
        """Which files of a write need not be there: they were left out, or written anew later."""
        start = f"{FILES}/{write.body['folder']}/"
        needed = self.current - self.left_out
        return [name for name in write.body["files"] if start + name not in needed]

    def _own(self, kind: str) -> Iterator[Write]:
        return (write for write in self.writes if write.kind == kind and write.run == self.file.id)


def latest_files(writes: Iterable[Write]) -> dict[str, str]:
    """Run and artifact to the file that holds it, relative to the record: what was written anew counts once."""
    return {
        f"{write.run}/{name}": f"{FILES}/{write.body['folder']}/{name}"
        for write in writes
        if write.kind in OF_FILES
        for name in write.body["files"]
    }


def load_record(folder: Path, left_out: Collection[str] = ()) -> Record:
    """Read a record and check that it is whole.

    Args:
        folder: the record's.
        left_out: the files that may be missing.

    Raises:
        UserError: its run still goes on; it is cut off or damaged, or from a newer version; a name in it would leave
            the folder.
    """
    file = RunFile.read(folder)
    if is_going(folder, file):
        host = process_of(folder).get(names.HOST, "another machine")
        raise UserError(
            f"run {file.id} ({file.title}) still goes on, or stopped less than a quarter of an hour ago, on {host}; "
            "import it when it has ended"
        )
    writes = tuple(read_record(folder))
    try:
        current = frozenset(latest_files(writes).values())
        record = Record(folder, file, writes, process_of(folder), frozenset(left_out), current)
        if file.writes not in (0, len(writes)):
            raise _CutOffError(f"{len(writes)} of {file.writes} writes")
        for write in writes:
            if write.kind in OF_FILES:
                _check_files(record, write)
    except (_CutOffError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(
            f"the record {folder} is damaged or cut off ({error}); copy it again, whole, from where it was made"
        ) from None
    return record


class _CutOffError(Exception):
    """Something of a record is missing or another's."""


def _check_files(record: Record, write: Write) -> None:
    """Compare the files of a write with what it says of them; there are no others, and no links."""
    folder = inside(record.folder / FILES, write.body["folder"])
    left_out = {inside(folder, name) for name in record.missing(write)}
    expected = {inside(folder, name): sums for name, sums in write.body["files"].items()}
    present = {path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}
    for path, sums in expected.items():
        name = path.relative_to(record.folder)
        if path in left_out and path not in present:
            continue
        if path not in present or path.is_symlink():
            raise _CutOffError(f"{name} is missing")
        if path.stat().st_size != sums["size"] or sha256(path) != sums["sha256"]:
            raise _CutOffError(f"{name} is not what was written")
    if others := present - set(expected):
        raise _CutOffError(f"{min(others).relative_to(record.folder)} is none of its files")


def bring_in(client: MlflowClient, record: Record, work: Path) -> tuple[Run, bool]:
    """The run of a record in MLflow, RUNNING until `finish`, and whether anything was new.

    Args:
        client: MLflow's.
        record: the record.
        work: the local folder of scratch data.

    Raises:
        Exception: whatever MLflow raises when it can't be reached; the next import goes on.
    """
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work / ".tracking.lock"):
        run = run_of_record(client, record.file.id)
        if run is not None and run.data.tags.get(names.IMPORTED) == _state(record):
            return run, False
        run_id = run.info.run_id if run else _create(client, record)
        for key, value in process_tags().items():
            client.set_tag(run_id, key, value)
        client.update_run(run_id, "RUNNING")
    experiment = client.get_run(run_id).info.experiment_id
    ids = {record.file.id: run_id}
    for write in merged(record.writes):
        if write.kind == MODEL or (write.kind == "status" and write.run == record.file.id):
            continue
        if write.kind == "files" and not (record.folder / FILES / write.body["folder"]).is_dir():
            continue
        if write.kind == "start":
            write = replace(write, body=write.body | {"experiment": experiment})
        method = run_id if write.kind == "start" else ids.get(write.run, "")
        try:
            ids[write.run] = send(client, write, method, record.folder / FILES)
        except RefusedError as error:
            say(f"MLflow refuses a write of run {record.file.id} ({write.kind}: {error}); the rest is brought in")
    return client.get_run(run_id), True


def finish(client: MlflowClient, record: Record, run: Run) -> None:
    """Give a run that was brought in the status, the end and the process that it had."""
    run_id, (status, ended) = run.info.run_id, record.ended
    for stage in stage_runs(client, run.info.experiment_id, run_id).values():
        if stage.info.status == "RUNNING":
            client.set_terminated(stage.info.run_id, "FAILED", ended)
    if status == "FINISHED" and names.ERROR in client.get_run(run_id).data.tags:
        client.delete_tag(run_id, names.ERROR)
    for key, value in record.process.items():
        client.set_tag(run_id, key, value)
    client.set_terminated(run_id, status, ended)
    client.set_tag(run_id, names.IMPORTED, _state(record))


def _create(client: MlflowClient, record: Record) -> str:
    first: dict[str, str] = next((write.body["tags"] for write in record.writes if write.kind == "batch"), {})
    tags = first | {names.RUN_ID: record.file.id} | process_tags()
    return str(new_run(client, record.file.title, tags, record.file.start).info.run_id)


def _state(record: Record) -> str:
    return f"{record.ended[0]}, {len(record.writes)} writes, {len(record.left_out)} files left out"
