"""How much memory a dense CRF may take: what WSSS_CRF_MEMORY says (megabytes), or else what is free."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from wsss.errors import UserError

VARIABLE = "WSSS_CRF_MEMORY"


@dataclass(frozen=True)
class MemoryLimit:
    """So many bytes, and what says so."""

    size: int
    reason: str

    def check(self, needed: int, what: str) -> None:
        """Refuse what needs more bytes.

        Raises:
            UserError: names what is needed and the limit.
        """
        if needed > self.size:
            raise self.refusal(f"{what} needs about {math.ceil(needed / 1e6):,} MB of memory")

    def refusal(self, why: str) -> UserError:
        """The error of what needs more."""
        return UserError(f"{why}, but {self.reason}; take a smaller image or fewer labels")


def memory_limit(device: str = "cpu") -> MemoryLimit:
    """The limit at this moment.

    Args:
        device: whose free memory counts where the environment sets no limit.

    Raises:
        UserError: WSSS_CRF_MEMORY is no number of megabytes.
    """
    setting = os.environ.get(VARIABLE)
    if not setting:
        free = _free() if device == "cpu" else _free_on_gpu(device)
        return MemoryLimit(free, f"{free / 1e6:,.0f} MB are free")
    try:
        megabytes = float(setting)
    except ValueError:
        megabytes = math.nan
    if not 0 < megabytes < math.inf:
        raise UserError(f"{VARIABLE} is {setting!r}; it must be a number of megabytes above 0")
    return MemoryLimit(int(megabytes * 1e6), f"{VARIABLE} allows {megabytes:,.0f} MB")


def _free() -> int:
    """Bytes that programs can have without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        import psutil

        return int(psutil.virtual_memory().available)


def _free_on_gpu(device: str) -> int:
    import torch

    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept
