"""What a team's stack does under load: restoring a backup."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.common import Row
from benchmarks.stack_restore import restore_row


def rows() -> Iterator[Row]:
    """One row for each claim."""
    yield restore_row()
