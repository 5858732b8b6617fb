"""Leases: of all processes that share a store, on whichever machines, one computes a step.

    <store>/.leases/<name>.<number>    who computes, and how many times they have said that they live

The highest number holds. A number is taken by creating its file, which only one process can; the holder writes it anew
every few seconds, with a higher count, and removes it at the end. A holder whose file has not changed for a while is
gone: the next number is free for whoever takes it first. How long is measured on the watcher's own monotonic clock,
between two changes that it has seen itself, so that clocks may differ and be set. Of a process on the same machine the
process table tells at once whether it lives.

A folder and a bucket need nothing but exclusive creation for it. On a folder that is a hard link, which is atomic on
network file systems too, where file locks are often local to a machine; what a watcher sees there may be late by the
attribute cache's minute at most, and `EXPIRES_S` is longer.

A lease saves work and decides nothing: a holder that was suspended, and wakes after another has taken its place,
computes in vain, for what is published first stays.
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsss import storage
from wsss.errors import OutOfTimeError, UserError
from wsss.process import is_gone, is_here, this_process
from wsss.progress import say

RENEWED_S = 5.0
EXPIRES_S = 90.0
_FORGOTTEN_S = 24 * 3600.0


@contextmanager
def lease(store: str, name: str, what: str, wait: bool, deadline: float = math.inf) -> Iterator[None]:
    """Hold the lease of a name in a store while the block runs.

    Args:
        store: a folder or s3:// address.
        name: such as "refine.cam.crf.<fingerprint>".
        what: what the sentences call it, such as "step refine.crf".
        wait: wait for a holder that lives, instead of refusing.
        deadline: wait until then, on the clock of `time.monotonic`.

    Raises:
        OutOfTimeError: it was held until the deadline.
        UserError: a process that lives holds it and `wait` is off, or the store can't keep leases.
    """
    storage.check_exclusive_writes(store)
    lease = _Lease(storage.join(store, ".leases"), name)
    if not storage.is_remote(store):
        storage.remove_unfinished(Path(store, ".leases"))
    number = lease.take(what, wait, deadline)
    ended = threading.Event()
    renewing = threading.Thread(target=lease.renew, args=(number, ended), name="lease", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        lease.remove(number)


def held(store: str) -> dict[str, str]:
    """The leases of a store whose holders are not known to be gone: name to what the holder is called.

    A lease of another machine that was not renewed for a day is nobody's.
    """
    folder = storage.join(store, ".leases")
    holders = {}
    for file in storage.list_tree(folder):
        name, _, number = file.name.rpartition(".")
        if not number.isdecimal() or time.time() - file.written > _FORGOTTEN_S:
            continue
        with suppress(FileNotFoundError):
            holder, process = _holder(storage.read_bytes(storage.join(folder, file.name)))
            if not is_gone(process):
                holders[name] = holder
    return holders


class _Lease:
    """The numbered files of one lease."""

    def __init__(self, folder: str, name: str) -> None:
        self._folder, self._name = folder, name

    def take(self, what: str, wait: bool, deadline: float) -> int:
        """Take the lowest free number once nobody who lives holds a lower one."""
        watched: tuple[int, bytes] | None = None
        since = time.monotonic()
        said = False
        while True:
            number = max(self._numbers(), default=0)
            if number == 0:
                if self._create(1):
                    return 1
                continue
            try:
                content = storage.read_bytes(self._file(number))
            except FileNotFoundError:
                continue
            name, process = _holder(content)
            here = is_here(process)
            renewed = watched is not None and watched[0] == number and watched[1] != content
            if is_gone(process) or (not here and not renewed and time.monotonic() - since > EXPIRES_S):
                if self._create(number + 1):
                    say(f"{what} was being computed by {name}, which is gone; this process takes it over")
                    return number + 1
                continue
            if not wait and (here or renewed):
                raise UserError(f"{what} is being computed by {name}; wait until it is done, then run the same command")
            if not said:
                say(f"{what} is held by {name}; {'waiting for it' if wait else 'looking whether that lives'}")
                said = True
            if watched != (number, content):
                watched, since = (number, content), time.monotonic()
            if time.monotonic() >= deadline:
                raise OutOfTimeError(f"{what} is still held by {name}")
            time.sleep(min(RENEWED_S / 4, max(0.0, deadline - time.monotonic())))

    def renew(self, number: int, ended: threading.Event) -> None:
        """Say again and again that the holder lives; what does not get through is left out."""
        count = 0
        while not ended.wait(RENEWED_S):
            count += 1
            with suppress(Exception):
                storage.write_bytes(self._file(number), _content(count))

    def remove(self, number: int) -> None:
        """Remove a number and those that it took over; where that fails they expire."""
        with suppress(UserError, OSError):
            for each in self._numbers():
                if each <= number:
                    storage.remove(self._file(each))

    def _create(self, number: int) -> bool:
        return storage.write_bytes(self._file(number), _content(0), if_absent=True)

    def _numbers(self) -> list[int]:
        ends = [each.rpartition(".") for each in storage.list_files(self._folder)]
        return [int(number) for name, _, number in ends if name == self._name and number.isdecimal()]

    def _file(self, number: int) -> str:
        return storage.join(self._folder, f"{self._name}.{number:06d}")


def _content(count: int) -> bytes:
    name = f"process {os.getpid()} on {socket.gethostname()}"
    return json.dumps({"name": name, "process": this_process(), "count": count}).encode()


def _holder(content: bytes) -> tuple[str, str]:
    """What the holder is called, and its process's mark; of a lease that can't be read, nobody that is known."""
    with suppress(ValueError, KeyError, TypeError):
        lease = json.loads(content)
        return str(lease["name"]), str(lease["process"])
    return "another process", ""
