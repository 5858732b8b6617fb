"""The trials of a search in memory, brought up to date by what changed, and as the rows of a table."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from wsss.scores import metric_names
from wsss.tables.ablation import is_miou, shown
from wsss.tracking import names, searches
from wsss.tracking.searches import Trial

WORDS = {
    names.COMPLETE: "complete",
    names.PRUNED: "given up",
    names.FAILED: "failed",
    names.RUNNING: "running",
}
HOW = ("computed", "waited", "reused")
_FIRST_S, _LATER_S = 0.1, 1.0
"""In the first look, and in later ones, so long the steps of trials are read that their runs don't say themselves."""


class Watch:
    """The trials of a search.

    Attributes:
        record: the search, as it was when last looked at.
        trials: by number.
        version: how often something was new; with `key`, which is another in each process, what a browser has seen.
    """

    def __init__(self, run_id: str) -> None:
        """Nothing is read before the first look.

        Raises:
            UserError: there is no such search, or the tracking store can't be used.
        """
        self.record = searches.find_search(run_id)
        self.trials: dict[int, Trial] = {}
        self.key, self.version = secrets.token_hex(4), 0
        self._changed: dict[int, int] = {}
        self._lock = threading.Lock()

    @property
    def live(self) -> bool:
        """More will come: it runs, or not all steps of its trials are read."""
        return self.record.status == "RUNNING" or any(self._lacks_steps(trial) for trial in self.trials.values())

    @property
    def mode(self) -> str:
        """What is good of the objective: "max" or "min"."""
        return metric_names.mode(self.record.objective)

    def look(self) -> None:
        """Ask the tracking store for what is new.

        Raises:
            UserError: the tracking store can't be used.
        """
        with self._lock:
            before, self.record = self.record, searches.find_search(self.record.id)
            found = self._news(whole=self.version == 0 or before != self.record)
            news = [trial for trial in found if trial != self.trials.get(trial.number)]
            self._take([*news, *self._with_steps({**self.trials, **{trial.number: trial for trial in news}})])
            self.version += self.version == 0 or before != self.record

    def rows(self, since: int = 0) -> list[dict[str, Any]]:
        """The rows of a table of trials, of those alone that changed after a version."""
        return [self._row(trial) for number, trial in sorted(self.trials.items()) if self._changed[number] > since]

    def of_method(self, method: str) -> list[Trial]:
        """Its trials, in order."""
        return [trial for _, trial in sorted(self.trials.items()) if trial.method == method]

    def best(self, method: str = "") -> Trial | None:
        """The best complete trial so far, the first of equals."""
        sign = 1 if self.mode == "max" else -1
        complete = [each for _, each in sorted(self.trials.items()) if each.value is not None and is_complete(each)]
        own = [each for each in complete if method in ("", each.method)]
        return max(own, key=lambda trial: sign * (trial.value or 0.0), default=None)

    def origin(self, run: str) -> str:
        """What a run that computed a step is called here."""
        if run == self.record.id:
            return "the search"
        number = next((number for number, trial in self.trials.items() if trial.run == run), None)
        return f"run {run[:8]}" if number is None else f"trial {number + 1}"

    def _news(self, *, whole: bool) -> Iterable[Trial]:
        """The trials that may be new: those that run, and those that ended since the last that did."""
        if whole:
            return searches.trials(self.record)
        if self.record.status != "RUNNING":
            return ()
        last = max((trial.ended for trial in self.trials.values()), default=0)
        found = [
            *searches.trials(self.record, "attributes.status = 'RUNNING'"),
            *searches.trials(self.record, f"attributes.end_time >= {last}"),
        ]
        ran = {number for number, trial in self.trials.items() if trial.state == names.RUNNING}
        # One whose process is gone is ended at a time of long ago.
        return searches.trials(self.record) if ran - {trial.number for trial in found} else found

    def _take(self, news: Iterable[Trial]) -> None:
        for trial in (news := list(news)):
            self.trials[trial.number] = trial
            self._changed[trial.number] = self.version + 1
        self.version += bool(news)

    def _with_steps(self, trials: Mapping[int, Trial]) -> Iterable[Trial]:
        """Trials of an older version, whose steps an artifact has: as many as can be read in a short while."""
        end = time.monotonic() + (_LATER_S if self.version else _FIRST_S)
        for trial in trials.values():
            if self._lacks_steps(trial) and time.monotonic() < end:
                yield replace(trial, steps=searches.steps_of(trial.run))

    @staticmethod
    def _lacks_steps(trial: Trial) -> bool:
        return trial.steps is None and trial.state != names.RUNNING

    def _row(self, trial: Trial) -> dict[str, Any]:
        scale = 100 if is_miou(self.record.objective) else 1
        value = trial.value if is_complete(trial) else trial.so_far
        return {
            "id": str(trial.number + 1),
            "trial": trial.number + 1,
            "state": WORDS[trial.state],
            "value": None if value is None else round(scale * value, 4),
            "method": trial.method,
            "settings": settings_text(trial.settings),
            **{setting_field(key): _rounded(setting) for key, setting in trial.settings.items()},
            **{how: self._steps(trial, how) for how in HOW},
            "seconds": None if trial.seconds is None else round(trial.seconds, 1),
            "saved": None if trial.saved is None else round(trial.saved, 1),
            "error": trial.error,
        }

    def _steps(self, trial: Trial, how: str) -> str:
        """The steps of a kind, with who computed them where it was not the trial."""
        own = [step for step in trial.steps or () if step.how == how]
        if how == "computed":
            return ", ".join(step.key for step in own)
        return ", ".join(f"{step.key} ({', '.join(map(self.origin, step.origins))})" for step in own)


@lru_cache(maxsize=32)
def watch(run_id: str) -> Watch:
    """The one watch of a search.

    Raises:
        UserError: there is no such search, or the tracking store can't be used.
    """
    return Watch(run_id)


def is_complete(trial: Trial) -> bool:
    """Whether it came to its end with a value."""
    return trial.state == names.COMPLETE


def _rounded(setting: Any) -> Any:
    """A setting as a table has it: numbers stay numbers, so that they are sorted as such."""
    return (
        float(f"{setting:.4g}")
        if isinstance(setting, float)
        else shown(setting)
        if isinstance(setting, list)
        else setting
    )


def setting_field(key: str) -> str:
    """The column of a setting; a dot in a column's name would mean a part of a value."""
    return "set " + key.replace(".", " ")


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings for people, on one line."""
    return " ".join(f"{key}={shown(value)}" for key, value in settings.items())
