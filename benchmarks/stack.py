"""What a team's stack does under load: many who log at once, restoring a backup."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.common import Row
from benchmarks.stack_logging import logging_row
from benchmarks.stack_restore import restore_row


def rows() -> Iterator[Row]:
    """One row for each claim."""
    yield logging_row()
    yield restore_row()
