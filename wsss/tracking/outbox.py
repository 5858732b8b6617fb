"""What is to be written to MLflow, sent in the background; kept on disk while the server is away.

In `<work>/tracking-spool/<run id>/` lie `writes.jsonl` (what could not be sent, in order), `sent.json` (how many of its
lines were sent since, and the ids that gave), `files/` (artifacts on their way), `refused.jsonl` (what the server will
never take) and `lock`, held by the process that writes there.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from wsss.storage import disk_errors
from wsss.tracking.writes import RefusedError, Write, merged, send

if TYPE_CHECKING:
    from mlflow import MlflowClient

SPOOL = "tracking-spool"
SEND_EVERY_S = 2.0
RETRY_EVERY_S = 15.0

log = logging.getLogger("wsss.tracking")


class Spool:
    """The folder of one run's unsent writes.

    Args:
        client: MLflow's.
        folder: made on first use; belongs to one process at a time.
        run: the run's id.
    """

    def __init__(self, client: MlflowClient, folder: Path, run: str) -> None:
        self._client, self._folder, self._run = client, folder, run
        self._writes, self._sent = folder / "writes.jsonl", folder / "sent.json"
        self.files = folder / "files"
        state: dict[str, Any] = json.loads(self._sent.read_text()) if self._sent.exists() else {}
        self._done: int = state.get("sent", 0)
        self._ids: dict[str, str] = state.get("ids", {})

    @property
    def empty(self) -> bool:
        return not self._writes.exists()

    def append(self, write: Write) -> None:
        """Keep a write."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._writes.open("a") as file:
            file.write(write.to_json() + "\n")

    def send(self, write: Write) -> None:
        """Send a write; one that the server will never take is put aside with a warning.

        Raises:
            Exception: the server can't be reached.
        """
        run = self._run if write.kind == "start" else self._ids.get(write.run, write.run)
        try:
            given = send(self._client, write, run, self.files)
        except RefusedError as error:
            self._folder.mkdir(parents=True, exist_ok=True)
            refused = self._folder / "refused.jsonl"
            with refused.open("a") as file:
                file.write(write.to_json() + "\n")
            log.warning("MLflow refuses %s of run %s (%s); kept in %s", write.kind, run, error, refused)
            return
        if write.kind == "start":
            self._ids[write.run] = given
        elif write.kind == "files":
            shutil.rmtree(self.files / write.body["folder"], ignore_errors=True)

    def replay(self) -> int:
        """Send what was kept, in order, and forget it.

        Returns:
            How many writes were sent.

        Raises:
            Exception: the server can't be reached; what was sent is not sent again.
        """
        *lines, _torn = self._writes.read_text().split("\n")
        for line in lines[self._done :]:
            self.send(Write.from_json(line))
            self._done += 1
            part = self._sent.with_suffix(".part")
            part.write_text(json.dumps({"sent": self._done, "ids": self._ids}))
            os.replace(part, self._sent)
        self._writes.unlink()
        self._sent.unlink(missing_ok=True)
        sent, self._done = self._done, 0
        return sent

    def remove(self) -> None:
        """Remove the folder if nothing is kept in it."""
        if self.empty and not (self._folder / "refused.jsonl").exists():
            shutil.rmtree(self._folder, ignore_errors=True)


class Outbox:
    """Takes a run's writes without making anyone wait, and sends them every two seconds from a thread of its own.

    When the server does not answer, the writes go to the spool, after one line of warning, and are sent in order as
    soon as it is back.
    """

    def __init__(self, client: MlflowClient, work: Path, run: str) -> None:
        folder = work / SPOOL / run
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "lock")
        self._lock.acquire()
        self._spool = Spool(client, folder, run)
        self._work = work
        self._waiting: list[Write] = []
        self._changed = threading.Condition()
        self._busy = self._urgent = self._closed = False
        self._away, self._tried = False, 0.0
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def put(self, write: Write) -> None:
        """Leave a write to be sent."""
        with self._changed:
            self._waiting.append(write)

    def put_files(self, run: str, files: Mapping[str, bytes | Path]) -> None:
        """Leave artifacts to be sent: path below the run's artifacts to content, or to a file or folder to copy."""
        name = uuid.uuid4().hex[:12]
        with disk_errors(self._work):
            for path, source in files.items():
                target = self._spool.files / name / path
                target.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(source, bytes):
                    target.write_bytes(source)
                elif source.is_dir():
                    shutil.copytree(source, target)
                else:
                    shutil.copyfile(source, target)
        self.put(Write("files", run, {"folder": name}))

    def flush(self) -> None:
        """Wait until everything that was put is sent, or on disk."""
        with self._changed:
            self._urgent = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting and not self._busy)

    def close(self) -> None:
        """Flush, try once more to send what is kept, and end."""
        self._tried = 0.0
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._spool.remove()
        self._lock.release()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._urgent or self._closed, SEND_EVERY_S)
                writes, self._waiting = self._waiting, []
                self._busy, self._urgent, last = True, False, self._closed
            for write in merged(writes):
                self._deliver(write)
            if not self._spool.empty:
                self._catch_up()
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                if last and not self._waiting:
                    return

    def _deliver(self, write: Write) -> None:
        try:
            if self._spool.empty or self._catch_up():
                self._spool.send(write)
                return
        except Exception as error:
            self._unreachable(error)
        try:
            self._spool.append(write)
        except OSError as error:
            log.warning("a write to MLflow is lost, it can be neither sent nor kept: %s", error)

    def _catch_up(self) -> bool:
        """Send what is kept, unless the last attempt was a moment ago; whether nothing is kept any more."""
        if time.monotonic() - self._tried < RETRY_EVERY_S:
            return False
        try:
            count = self._spool.replay()
        except Exception as error:
            self._unreachable(error)
            return False
        log.warning("MLflow answers again; %d writes caught up", count)
        self._away = False
        return True

    def _unreachable(self, error: Exception) -> None:
        self._tried = time.monotonic()
        if not self._away:
            self._away = True
            log.warning(
                "MLflow does not answer (%s); the run goes on, what it would write is kept in %s and sent later",
                " ".join(str(error).split())[:200],
                self._work / SPOOL,
            )


def replay_spool(client: MlflowClient, work: Path) -> int:
    """Send what earlier runs could not send and no process is sending.

    Returns:
        How many writes were sent; what can't be sent now either, or belongs to another tracking store, stays.
    """
    count = 0
    for writes in sorted((work / SPOOL).glob("*/writes.jsonl")):
        folder = writes.parent
        try:
            with FileLock(folder / "lock", timeout=0):
                client.get_run(folder.name)
                spool = Spool(client, folder, folder.name)
                count += spool.replay()
                spool.remove()
        except Timeout:
            continue
        except Exception as error:
            why = " ".join(str(error).split())[:200]
            log.warning("what run %s left in %s can't be sent (remove it to forget it): %s", folder.name, folder, why)
    return count
