"""This process and others: how many cores are its own, which process made a file, and whether that is still there."""

from __future__ import annotations

import hashlib
import math
import os
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from wsss.errors import UserError

CORES = "WSSS_CORES"
_START_TICKS = 19
"""Where /proc/<pid>/stat has a process's start in clock ticks since the machine's, counted from behind its name."""


def this_process() -> str:
    """A mark of this process, "<machine>-<pid>-<start>", that no other process ever has."""
    return mark_of(os.getpid())


def mark_of(pid: int) -> str:
    """The mark of a process of this machine (`this_process`)."""
    return f"{machine()}-{pid}-{_started(pid)}"


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
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8") + os.readlink("/proc/self/ns/pid")
    except OSError:
        import psutil

        boot = f"{socket.gethostname()} {psutil.boot_time():.0f}"
    return hashlib.sha256(boot.encode()).hexdigest()[:12]


def _started(pid: int) -> str:
    """When a process started; empty where there is none of this number (or it is dead and only waited for)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
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


def own_cores() -> int:
    """The cores that this process may use, at least 1: everything that starts threads or processes follows it.

    It is the least of its CPU affinity, the quota of its control groups (a container's limit), and WSSS_CORES, which a
    worker of a cluster is given and anybody may set.

    Raises:
        UserError: WSSS_CORES is no whole number above 0.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([affinity, *_quotas(), *_allowed()])


def _allowed() -> Iterator[int]:
    text = os.environ.get(CORES)
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise UserError(f"{CORES} is {text!r}; it must be a whole number of cores, 1 or more")
        yield int(text)


def _quotas(groups: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """The CPU quotas of the control groups that the process is in, and of those around them, in cores."""
    lines = groups.read_text(encoding="utf-8").splitlines() if groups.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        # A container sees its own group as the root, under whatever name the host has for it.
        top = mounted if not controllers else mounted / "cpu"
        group = top / path.lstrip("/")
        for folder in {top, group, *(parent for parent in group.parents if parent.is_relative_to(top))}:
            quota = _quota(folder)
            if quota > 0:
                yield max(1, math.ceil(quota))


def _quota(folder: Path) -> float:
    """The quota of one control group, of version 2 or 1, in cores; 0 for none."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period")
            )
        return 0.0 if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return 0.0
