"""A reporter that ends a step in time: what is done stays in its scratch folder, as if the process had been killed."""

from __future__ import annotations

import time
from collections.abc import Mapping

from wsss.errors import OutOfTimeError
from wsss.interface import Reporter


class UntilDeadline:
    """Passes everything on, and raises from `progress` once the deadline is over; a `wsss.interface.Reporter`.

    The last report of a total is let through: what is left to do then is less than what would be done again.

    Attributes:
        report: who hears it.
        deadline: on the clock of `time.monotonic`.
    """

    def __init__(self, report: Reporter, deadline: float) -> None:
        self.report, self.deadline = report, deadline
        self._begun: tuple[int, float] | None = None

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Passed on."""
        self.report.metrics(values, step)

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """Passed on.

        Raises:
            OutOfTimeError: the deadline is over.
        """
        self.report.progress(done, total, unit, note)
        now = time.monotonic()
        if self._begun is None or done < self._begun[0]:
            self._begun = done, now
        if done < total and now >= self.deadline:
            first, started = self._begun
            pace = (
                ""
                if done == first
                else f"; the others take about {(now - started) / (done - first) * (total - done):,.0f} s more"
            )
            raise OutOfTimeError(f"the time is over after {done:,} of {total:,} {unit}{pace}")
