"""The study of a search: its trials with their settings, values and facts, in a database, by Optuna.

It is what a search is continued from: whatever else is lost, the study says which trials there are, which of them have
ended, and with what. `WSSS_STUDIES` names the database, by default a SQLite file among the searches of the workspace.
"""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from tune.drawing import draw
from tune.search import Candidate, SearchPlan
from wsss.errors import UserError
from wsss.tracking import names

STUDIES = "WSSS_STUDIES"
METHOD = "method"
FEW_TRIALS = 200
"""Up to so many the Gaussian process is worth its time."""
PLAN, FACTS = "plan", "facts"
COMPLETE, PRUNED, FAILED, RUNNING = names.COMPLETE, names.PRUNED, names.FAILED, names.RUNNING
_STATES = {TrialState.COMPLETE: COMPLETE, TrialState.PRUNED: PRUNED, TrialState.FAIL: FAILED}


@dataclass(frozen=True)
class TrialRecord:
    """A trial as the study has it.

    Attributes:
        number: counted from 0, in the order in which they were begun.
        candidate: what it measures.
        state: "complete", "pruned", "failed" or "running" (perhaps of a process that is no more).
        value: the objective's metric; None where it did not end.
        facts: JSON-ready: "run" (the id of its run), "steps", "seconds", "saved", "images", "of", "per_image", "error".
    """

    number: int
    candidate: Candidate
    state: str
    value: float | None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Study:
    """The trials of one search; used by one process at a time."""

    def __init__(self, search: SearchPlan, work: Path, *, trials: int) -> None:
        """Open the study, or make it; the preset's own settings are the first trials.

        Raises:
            UserError: it is of another search (says what differs), or the database can't be used.
        """
        self.search = search
        self._lock = threading.RLock()
        self._live: dict[int, Trial] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        ways = ["maximize" if search.mode == "max" else "minimize"] + ["minimize"] * search.seconds
        directions = [optuna.study.StudyDirection[way.upper()] for way in ways]
        try:
            self._study = optuna.create_study(
                study_name=search.name,
                storage=storage(work),
                sampler=self._sampler(trials),
                directions=directions,
                load_if_exists=True,
            )
        except (optuna.exceptions.StorageInternalError, ValueError, OSError) as error:
            raise UserError(f"the studies in {address(work)} can't be used: {error}") from None
        before = self._study.user_attrs.get(PLAN)
        if before is None:
            self._study.set_user_attr(PLAN, json.dumps(search.content, sort_keys=True))
            for each in search.methods:
                self._enqueue(each.default)
        elif differences := _differences(json.loads(before), search.content):
            raise UserError(
                f"search {search.name} was begun with something else: {'; '.join(differences)}; "
                "go on with the same, or begin another with --name"
            )

    def take(self) -> tuple[int, Candidate]:
        """The next trial: one that a process left unfinished, one that waits, or a new one that is drawn."""
        with self._lock:
            left = [
                frozen
                for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
                if frozen.number not in self._live
            ]
            # What was drawn for an unfinished trial, or meant for it, it draws again.
            trial = Trial(self._study, left[0]._trial_id) if left else self._study.ask()
            self._live[trial.number] = trial
            method = self.search.methods[0].method
            if len(self.search.methods) > 1:
                method = trial.suggest_categorical(METHOD, [each.method for each in self.search.methods])
            space, first = self.search.of(method).space, self.search.of(method).first
            drawn = {key: draw(trial, self._parameter(method, key), how, first[key]) for key, how in space.items()}
            return trial.number, Candidate(method, drawn)

    def note(self, number: int, **facts: Any) -> None:
        """Keep facts of a trial."""
        with self._lock:
            trial = self._live[number]
            known = json.loads(trial.user_attrs.get(FACTS, "{}"))
            trial.set_user_attr(FACTS, json.dumps(known | facts))

    def end(self, number: int, state: str, value: float | None = None, seconds: float = 0.0) -> None:
        """End a trial, once."""
        with self._lock:
            trial = self._live.pop(number, None)
            if trial is None:
                return
            if state == COMPLETE:
                assert value is not None
                self._study.tell(trial, [value, seconds] if self.search.seconds else value)
            else:
                self._study.tell(trial, state=TrialState.PRUNED if state == PRUNED else TrialState.FAIL)

    def put_back(self) -> None:
        """Let the trials that were taken and have not ended be taken again."""
        with self._lock:
            self._live.clear()

    def enqueue(self, candidates: Sequence[Candidate]) -> None:
        """Let these be the next trials."""
        with self._lock:
            for candidate in candidates:
                self._enqueue(candidate)

    @property
    def records(self) -> list[TrialRecord]:
        """Every trial that was begun, in order."""
        with self._lock:
            trials = self._study.get_trials(deepcopy=False)
        return [self._record(trial) for trial in trials if trial.state != TrialState.WAITING]

    @property
    def waiting(self) -> int:
        """How many were enqueued and are not begun."""
        return len(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    @property
    def ended(self) -> int:
        """How many trials have ended, in whatever way."""
        return sum(record.state != RUNNING for record in self.records)

    @property
    def best(self) -> TrialRecord | None:
        """The complete trial with the best value, the first of equals."""
        return self.best_of([each.method for each in self.search.methods])

    def best_of(self, methods: Sequence[str]) -> TrialRecord | None:
        """The same among the trials of some methods."""
        complete = [r for r in self.records if r.state == COMPLETE and r.candidate.method in methods]
        best = max if self.search.mode == "max" else min
        return best(complete, key=lambda record: record.value or 0.0, default=None)

    @property
    def front(self) -> list[TrialRecord]:
        """Where seconds count too: the trials that none surpasses in both."""
        numbers = {trial.number for trial in self._study.best_trials}
        return [record for record in self.records if record.number in numbers]

    @property
    def optuna(self) -> optuna.Study:
        """Optuna's own, for its pictures."""
        return self._study

    def keep(self, key: str, value: Any) -> None:
        """Keep something of the search as a whole, such as the id of its run."""
        self._study.set_user_attr(key, value)

    def kept(self, key: str, default: Any = None) -> Any:
        """What was kept."""
        return self._study.user_attrs.get(key, default)

    def _enqueue(self, candidate: Candidate) -> None:
        own = {self._parameter(candidate.method, key): value for key, value in candidate.settings.items()}
        method = {METHOD: candidate.method} if len(self.search.methods) > 1 else {}
        self._study.enqueue_trial(method | own)

    def _parameter(self, method: str, key: str) -> str:
        return key if len(self.search.methods) == 1 else f"{method} {key}"

    def _candidate(self, trial: FrozenTrial) -> Candidate:
        method = trial.params.get(METHOD, self.search.methods[0].method)
        # What a process was killed between asking for and drawing has the preset's value.
        first = self.search.of(method).first
        return Candidate(method, {key: trial.params.get(self._parameter(method, key), first[key]) for key in first})

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        state = _STATES.get(trial.state, RUNNING)
        value = trial.values[0] if trial.values else None
        return TrialRecord(
            trial.number, self._candidate(trial), state, value, json.loads(trial.user_attrs.get(FACTS, "{}"))
        )

    def _sampler(self, trials: int) -> BaseSampler:
        seed, kind = self.search.rng, self.search.sampler
        if kind == "auto":
            kind = "gp" if trials <= FEW_TRIALS and len(self.search.methods) == 1 else "tpe"
        if kind == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if kind == "gp":
            return optuna.samplers.GPSampler(seed=seed, deterministic_objective=True)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)


def storage(work: Path) -> optuna.storages.BaseStorage:
    """The database of studies."""
    url = address(work)
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return optuna.storages.RDBStorage(url)


def address(work: Path) -> str:
    """The database's address."""
    return os.environ.get(STUDIES) or f"sqlite:///{(work / 'search' / 'studies.db').absolute()}"


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    """What differs between two contents, such as "methods.affinity.versions.refine.walk was 1 and is 2"."""
    now = json.loads(json.dumps(now))
    found = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{path}{key}.")
        elif key == "methods" and isinstance(old, list) and isinstance(new, list):
            found += _differences({e["method"]: e for e in old}, {e["method"]: e for e in new}, "methods.")
        elif old != new:
            found.append(f"{path}{key} was {json.dumps(old)} and is {json.dumps(new)}")
    return found
