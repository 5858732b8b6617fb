"""Drawing values for settings: one by one by a sampler of Optuna, or all that a random search will try at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import Trial

from tune.search import Candidate, SearchPlan
from wsss.settings import Search

if TYPE_CHECKING:
    from tune.study import Study


def draw(trial: Trial, name: str, how: Search, first: Any = None) -> Any:
    """Let a trial of Optuna's draw a value; `first` is the preset's, which a file's choice may lack."""
    if how.kind == "choice":
        return trial.suggest_categorical(name, [*dict.fromkeys([*how.values, *([] if first is None else [first])])])
    if how.kind == "int":
        return trial.suggest_int(name, int(how.low), int(how.high))
    return trial.suggest_float(name, how.low, how.high, log=how.kind == "loguniform")


def fill(study: Study, trials: int) -> None:
    """A random search draws all that it will try at once, so that it tries the same however often it is interrupted."""
    if study.search.sampler != "random":
        return
    begun = len(study.records) + study.waiting
    study.enqueue([draw_random(study.search, number) for number in range(begun, trials)])


def draw_random(search: SearchPlan, number: int) -> Candidate:
    """The candidate of a random search's trial of that number."""
    scratch = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=search.rng * 1_000_003 + number))
    trial = scratch.ask()
    method = search.methods[0].method
    if len(search.methods) > 1:
        method = trial.suggest_categorical("method", [each.method for each in search.methods])
    return Candidate(method, {key: draw(trial, key, how) for key, how in search.of(method).space.items()})
