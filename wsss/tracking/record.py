"""What the record of a run says, whoever wrote it: see `wsss.tracking.offline` for what lies in its folder."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from wsss.errors import UserError
from wsss.storage import write_bytes
from wsss.tracking import names
from wsss.tracking.liveness import process_gone
from wsss.tracking.unsent import DATABASE, read_writes
from wsss.tracking.writes import Write

FORMAT = 1
RUNS, STORE = "runs", "store"
STATUSES = ("RUNNING", "FINISHED", "FAILED", "KILLED")
RUN, PROCESS = "run.json", "process.json"
MODEL = "model"
"""The kind of the write with the trained network, and the folder that holds it."""


def sha256(path: Path) -> str:
    """The sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
