"""How many cores are this process's: what it was given, not what the machine has."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from wsss.errors import UserError

VARIABLE = "WSSS_CORES"


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
    text = os.environ.get(VARIABLE)
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise UserError(f"{VARIABLE} is {text!r}; it must be a whole number of cores, 1 or more")
        yield int(text)


def _quotas(groups: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """The CPU quotas of the control groups that the process is in, and of those around them, in cores."""
    lines = groups.read_text().splitlines() if groups.exists() else []
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
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return 0.0 if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return 0.0
