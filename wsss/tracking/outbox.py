"""What is to be written to MLflow, sent in the background; kept on disk while the server is away.

In `<work>/tracking-spool/<run id>/` lie `unsent.db` (what could not be sent, see `wsss.tracking.unsent`), `files/`
(artifacts on their way) and `lock`, held by the process that writes there.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from wsss.errors import one_line
from wsss.storage import disk_errors
from wsss.tracking.forks import fork_lock
from wsss.tracking.unsent import LOCK, UnsentWrites
from wsss.tracking.writes import RefusedError, Write, merged, send

if TYPE_CHECKING:
    from mlflow import MlflowClient

SPOOL = "tracking-spool"
SEND_EVERY_S = 2.0
RETRY_EVERY_S = 15.0

log = logging.getLogger("wsss.tracking")
_sending = fork_lock()


class Sender:
    """Sends the writes of one run, now or after a while.

    Args:
        client: MLflow's.
        folder: of what waits.
        run: the run's id.

    Attributes:
        unsent: what waits.
    """

    def __init__(self, client: MlflowClient, folder: Path, run: str) -> None:
        self._client, self._run = client, run
        self.unsent = UnsentWrites(folder)
        self._ids = self.unsent.run_ids

    def keep(self, write: Write) -> None:
        """Let a write wait, under the id of its run as far as the server has given one."""
        self.unsent.append(replace(write, run=self._ids.get(write.run, write.run)))

    def send(self, write: Write, number: int | None = None) -> None:
        """Send a write; one that the server will never take is put aside with a warning.

        Args:
            write: what to send.
            number: under which it waited.

        Raises:
            Exception: the server can't be reached.
        """
        run = self._run if write.kind == "start" else self._ids.get(write.run, write.run)
        try:
            with _sending:
                given = send(self._client, write, run, self.unsent.files)
        except RefusedError as error:
            self._refuse(write.to_json(), f"{write.kind}: {one_line(error)}", number)
            return
        started = {write.run: given} if write.kind == "start" else {}
        self._ids |= started
        if number is not None:
            self.unsent.sent(number, started)
        if write.kind == "files":
            shutil.rmtree(self.unsent.files / write.body["folder"], ignore_errors=True)

    def send_unsent(self) -> int:
        """Send what waits, in order.

        Returns:
            How many writes were sent or refused.

        Raises:
            Exception: the server can't be reached; what was sent is not sent again.
        """
        count = 0
        for number, text in self.unsent.writes():
            try:
                write = Write.from_json(text)
            except ValueError as error:
                self._refuse(text, str(error), number)
            else:
                self.send(write, number)
            count += 1
        self.unsent.drop_if_empty()
        return count

    def _refuse(self, write: str, why: str, number: int | None) -> None:
        self.unsent.refuse(write, why, number)
        log.warning("MLflow refuses a write of run %s (%s); kept in %s", self._run, why, self.unsent.path)


class Outbox:
    """Takes a run's writes without making anyone wait, and sends them every two seconds from a thread of its own.

    When the server does not answer, the writes wait on disk, after one line of warning, and are sent in order as soon
    as it is back.

    Args:
        client: MLflow's.
        folder: of what waits.
        run: the run's id.
    """

    def __init__(self, client: MlflowClient, folder: Path, run: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / LOCK)
        self._lock.acquire()
        self._sender = Sender(client, folder, run)
        self._folder = folder
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
        with disk_errors(self._folder):
            name = copy_files(files, self._sender.unsent.files)
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
        self._sender.unsent.remove()
        self._lock.release()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._urgent or self._closed, SEND_EVERY_S)
                writes, self._waiting = self._waiting, []
                self._busy, self._urgent, last = True, False, self._closed
            for write in merged(writes):
                self._deliver(write)
            self._caught_up()
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                if last and not self._waiting:
                    return

    def _deliver(self, write: Write) -> None:
        try:
            if self._caught_up():
                self._sender.send(write)
                return
        except Exception as error:
            self._unreachable(error)
        try:
            self._sender.keep(write)
        except Exception as error:
            log.warning("a write to MLflow is lost, it can be neither sent nor kept: %s", error)

    def _caught_up(self) -> bool:
        """Whether nothing waits; what does is sent, unless the last attempt was a moment ago."""
        try:
            if self._sender.unsent.empty:
                return True
            if time.monotonic() - self._tried < RETRY_EVERY_S:
                return False
            count = self._sender.send_unsent()
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
                one_line(error)[:200],
                self._folder.parent,
            )


def copy_files(files: Mapping[str, bytes | Path], to: Path) -> str:
    """Copy artifacts, path to content or to a file or folder, into a new folder in `to`; its name."""
    name = uuid.uuid4().hex[:12]
    for path, source in files.items():
        target = to / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            target.write_bytes(source)
        elif source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
    return name


def send_left_behind(client: MlflowClient, work: Path) -> int:
    """Send what earlier runs could not send and no process is sending; clear away what a killed one left half made.

    Returns:
        How many writes were sent; what can't be sent now either, or belongs to another tracking store, stays.
    """
    count = 0
    for folder in sorted((work / SPOOL).glob("*/")):
        try:
            with FileLock(folder / LOCK, timeout=0):
                sender = Sender(client, folder, folder.name)
                if not sender.unsent.empty:
                    client.get_run(folder.name)
                    count += sender.send_unsent()
                sender.unsent.remove()
        except Timeout:
            continue
        except Exception as error:
            why = one_line(error)[:200]
            log.warning("what run %s left in %s can't be sent (remove it to forget it): %s", folder.name, folder, why)
    return count
