"""Processes that outlive who started them, known by number and start: never by name."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.stack.layout import Layout
from wsss.process import is_gone, mark_of
from wsss.storage import write_bytes

_OWN = ("AWS_", "MLFLOW_", "PG", "RAY_", "WSSS_")
"""Variables that a service has from the stack alone, whatever the starting shell has."""


@dataclass(frozen=True)
class Started:
    """A service's process, which leads a session of its own; its children stay in that.

    Args:
        layout: the stack.
        name: the service's.
    """

    layout: Layout
    name: str

    @property
    def _file(self) -> Path:
        return self.layout.folder / "processes" / self.name

    @property
    def pid(self) -> int | None:
        """Its number while it runs; None where it never ran or is no more."""
        try:
            mark = self._file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        return None if is_gone(mark) else int(mark.split("-")[1])

    @property
    def set_up(self) -> bool:
        """Whether what follows the start was done for the process that runs."""
        marks = [path.read_bytes() if path.exists() else b"" for path in (self._file, self._ready)]
        return self.pid is not None and marks[0] == marks[1]

    @property
    def _ready(self) -> Path:
        return self.layout.folder / "processes" / f"{self.name}.ready"

    def is_set_up(self) -> None:
        """Keep that what follows the start was done."""
        write_bytes(self._ready, self._file.read_bytes())

    def begin(
        self, words: Sequence[str], variables: Mapping[str, str], folder: Path, user: tuple[int, int] | None = None
    ) -> None:
        """Start it, detached from the shell; what it says goes to its log.

        Args:
            words: the command.
            variables: what it has besides the shell's that are not a stack's.
            folder: where it works.
            user: the ids of user and group that it runs as; None for this process's.
        """
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
        owner = {"user": user[0], "group": user[1], "extra_groups": []} if user else {}
        with open(self.layout.log(self.name), "ab") as log:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=inherited | dict(variables),
                start_new_session=True,
                **owner,  # type: ignore[call-overload]
            )
        write_bytes(self._file, mark_of(process.pid).encode())

    def end(self, first: signal.Signals = signal.SIGTERM, patience: float = 20) -> bool:
        """End it, then what is left of its session; whether anything ran.

        Args:
            first: what it is told at first.
            patience: seconds that it may take.
        """
        try:
            leader = int(self._file.read_text(encoding="utf-8").split("-")[1])
        except FileNotFoundError:
            return False
        pid = self.pid
        if pid is not None:
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, first)
            wait_until(lambda: self.pid is None, patience)
        ran = pid is not None
        # Whoever has this number now and leads no such session is somebody else.
        for told in (signal.SIGTERM, signal.SIGKILL):
            left = session(leader) if ran or not psutil.pid_exists(leader) else []
            for each in left:
                try:
                    os.kill(each, told)
                except ProcessLookupError:
                    continue
            if left:
                wait_until(lambda: not session(leader), 5)
        self._file.unlink(missing_ok=True)
        return ran


def session(leader: int) -> list[int]:
    """The processes of a session."""
    found = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == leader and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    """Wait for something to be true ; whether it came to be."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
