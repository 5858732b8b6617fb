"""What a search says while it runs: a table on a terminal, else a line for each trial that ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import ray
from rich.live import Live
from rich.table import Table

from tune.study import COMPLETE, FAILED, PRUNED, RUNNING, Study, TrialRecord
from wsss.console import Console

_SILENCE_S, _ROWS = 60.0, 8


class Progress:
    """Shows how far a search is.

    Args:
        study: its trials.
        trials: how many are to end.
        deadline: when it ends, on the clock of `time.monotonic`.
        quiet: nothing but what can't start.
    """

    def __init__(self, study: Study, trials: int, deadline: float, *, quiet: bool = False) -> None:
        self._study, self._trials, self._deadline, self._quiet = study, trials, deadline, quiet
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=2, transient=True) if self._shows else None
        self._started = self._busy = time.monotonic()
        self._before = study.ended
        self._shown = 0.0

    @property
    def _shows(self) -> bool:
        return not self._quiet and sys.stderr.isatty()

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def step(self, running: int, waiting: int, asked: Callable[[], Any]) -> None:
        """Now and then: whether trials can start, and the table."""
        now = time.monotonic()
        if running or not waiting:
            self._busy = now
        elif now - self._busy > _SILENCE_S:
            self._busy = now
            free = {name: ray.available_resources().get(name, 0.0) for name in ("CPU", "GPU")}
            self._console.print(f"no trial can start: each asks for {_resources(asked())}, free are {_resources(free)}")
        if self._live and now - self._shown > 1:
            self._shown = now
            self._live.update(self._table(running))

    def ended(self, record: TrialRecord) -> None:
        """A trial ended."""
        if self._quiet:
            return
        search = self._study.search
        outcome = {
            COMPLETE: f"{search.metric} {record.value or 0.0:.4f}",
            PRUNED: f"given up after {record.facts.get('images', 0)} of {record.facts.get('of', 0)} images"
            if record.facts.get("images")
            else "given up while it trained",
            FAILED: f"failed ({record.facts.get('error', '')})",
        }[record.state]
        print(f"trial {record.number + 1}: {outcome}   {_settings(record)}", flush=True)

    def _table(self, running: int) -> Table:
        records = self._study.records
        counts = {state: sum(r.state == state for r in records) for state in (COMPLETE, PRUNED, FAILED)}
        ended = sum(counts.values())
        best = self._study.best
        pace = (time.monotonic() - self._started) / max(1, ended - self._before)
        left = min(pace * (self._trials - ended), self._deadline - time.monotonic())
        title = (
            f"{self._study.search.name}: {ended} of {self._trials} ended, {running} running, {counts[PRUNED]} given "
            f"up, {counts[FAILED]} failed, "
            + (f"about {max(0.0, left) / 60:.0f} min left" if ended > self._before else "")
        )
        table = Table(title=title, title_justify="left", box=None)
        for column in ("trial", "", self._study.search.metric, "settings"):
            table.add_column(column, overflow="fold")
        shown = [record for record in records if record.state == RUNNING]
        shown += sorted((r for r in records if r.state == COMPLETE), key=lambda r: -(r.value or 0.0))[:_ROWS]
        for record in shown:
            mark = "best" if best and record.number == best.number else record.state
            value = "" if record.value is None else f"{record.value:.4f}"
            table.add_row(str(record.number + 1), mark, value, _settings(record))
        return table


def reason(error: str) -> str:
    """The last line of an error of Ray's: that of the trial, such as a sentence of ours."""
    return error.strip().splitlines()[-1].removeprefix("wsss.errors.UserError: ") if error.strip() else "unknown"


def _settings(record: TrialRecord) -> str:
    values = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in record.candidate.settings.items()}
    return " ".join([record.candidate.method, *(f"{key}={value}" for key, value in values.items())])


def _resources(amounts: Any) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in amounts.items()) or "nothing"
