"""Which process made a file, holds a lease or writes a run, and whether it is still there."""

from __future__ import annotations

import hashlib
import os
import socket
from functools import cache
from pathlib import Path

_START_TICKS = 19
"""Where /proc/<pid>/stat has a process's start in clock ticks since the machine's, counted from behind its name."""


def this_process() -> str:
    """A mark of this process, "<machine>-<pid>-<start>", that no other process ever has."""
    return f"{machine()}-{os.getpid()}-{_started(os.getpid())}"


def is_here(mark: str) -> bool:
    """Whether a mark is of this machine, whose process table can tell what has become of the process."""
    return mark.startswith(f"{machine()}-")


def is_gone(mark: str) -> bool:
    """Whether the process of a mark is certainly no more; False for one of another machine, which nobody here can know.

    Start times are counted from the machine's own start, so that a clock that is set changes nothing.
    """
    _, _, rest = mark.partition("-")
    pid, _, started = rest.partition("-")
    return is_here(mark) and pid.isdecimal() and _started(int(pid)) != started


@cache
def machine() -> str:
    """12 hexadecimal digits of one process table: a machine since its start, and within it a container.

    Host names are no such thing: two containers may have the same.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:
        import psutil

        boot = f"{socket.gethostname()} {psutil.boot_time():.0f}"
    return hashlib.sha256(boot.encode()).hexdigest()[:12]


def _started(pid: int) -> str:
    """When a process started; empty where there is none of this number (or it is dead and only waited for)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[_START_TICKS]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return ""
    import psutil

    try:
        return f"{psutil.Process(pid).create_time():.0f}"
    except psutil.Error:
        return ""
