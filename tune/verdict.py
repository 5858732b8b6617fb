"""What came out of a search: whether its best trial beats the preset, and what both are worth on val."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import mean, stdev
from typing import Any

import numpy as np
import ray

from tune.measure import Measured, measure
from tune.progress import reason
from tune.search import Candidate, SearchPlan
from tune.study import COMPLETE, Study, TrialRecord
from tune.trial import Surroundings, prepare
from tune.whole import whole_runs
from wsss.data import Dataset, open_dataset
from wsss.errors import UserError
from wsss.progress import ConsoleReporter
from wsss.run.cluster import Machine
from wsss.scores import Masks
from wsss.scores.bootstrap import paired_bootstrap


@dataclass(frozen=True)
class Measure:
    """One of both: the best trial, or the preset.

    Attributes:
        trial: its number.
        candidate: method and settings.
        value: the objective on dev.
        values: the same with each rng, its own first; of more than one where `--seeds` asked for it.
        final: metrics of the whole run, dev and val among them; empty where there was none.
        run: the id of that run.
    """

    trial: int
    candidate: Candidate
    value: float
    values: tuple[float, ...] = ()
    final: Mapping[str, float] = field(default_factory=dict)
    run: str = ""

    @property
    def mean(self) -> float:
        return mean(self.values) if self.values else self.value

    @property
    def deviation(self) -> float:
        """The sample's standard deviation over rngs; NaN with one."""
        return stdev(self.values) if len(self.values) > 1 else float("nan")


@dataclass(frozen=True)
class Verdict:
    """Whether a search was worth its while.

    Attributes:
        best: the best trial.
        default: the best of the presets' own settings.
        difference: of the objective, best less default.
        interval: of the difference over images of dev, 95 %, by a paired bootstrap; None where the objective is not
            made of images.
        better: the best trial is taken: the whole interval says that it is better.
        methods: where several were searched, the same for each alone, the one with the best value first.
    """

    best: Measure
    default: Measure
    difference: float
    interval: tuple[float, float] | None
    better: bool
    methods: tuple[Verdict, ...] = ()

    @property
    def taken(self) -> Measure:
        """What a user should take."""
        return self.best if self.better else self.default

    @property
    def run(self) -> str:
        """The id of the whole run of what is taken."""
        return self.taken.run

    def as_json(self) -> dict[str, Any]:
        methods = [each.as_json() for each in self.methods]
        return {**asdict(self), "taken": asdict(self.taken), "methods": methods}


def decide(
    study: Study, around: Surroundings, there: Sequence[Machine], seeds: int, top: int, *, quiet: bool = False
) -> Verdict:
    """Compare the best trial with the preset on dev, then measure both on val, once; so for each method.

    Args:
        study: whose trials have ended.
        around: the search.
        there: the cluster's machines.
        seeds: with so many further rngs the best trials and the presets are measured again.
        top: of how many trials; the best is then the one with the best mean.
        quiet: do not say how far whole runs are.

    Raises:
        UserError: no preset's own trial finished.
    """
    search = around.search
    sign = 1.0 if search.mode == "max" else -1.0
    complete = [record for record in study.records if record.state == COMPLETE]
    groups = [complete]
    if len(search.methods) > 1:
        groups += [[r for r in complete if r.candidate.method == each.method] for each in search.methods]
    choices = [_choose(records, search, sign, top if seeds else 1) for records in groups]
    if choices[0] is None:
        raise UserError("no trial with the preset's own settings finished, so nothing can be compared with it")
    found = [choice for choice in choices if choice is not None]
    values = _with_seeds([record for choice in found for record in (*choice.best, choice.default)], around, seeds)
    overall, *methods = [_compared(choice, values, around, sign) for choice in found]
    methods.sort(key=lambda verdict: -sign * verdict.best.mean)
    return _with_runs(replace(overall, methods=tuple(methods)), around, there, quiet=quiet)


@dataclass(frozen=True)
class _Choice:
    """The best trials, of which one will be the best, and the best of the presets' own."""

    best: list[TrialRecord]
    default: TrialRecord


def _choose(complete: list[TrialRecord], search: SearchPlan, sign: float, top: int) -> _Choice | None:
    defaults = [record for record in complete if record.candidate == search.of(record.candidate.method).default]
    if not defaults:
        return None
    ranked = sorted(complete, key=lambda record: -sign * (record.value or 0.0))
    return _Choice(_distinct(ranked, top), max(defaults, key=lambda record: sign * (record.value or 0.0)))


def _compared(choice: _Choice, values: Mapping[int, tuple[float, ...]], around: Surroundings, sign: float) -> Verdict:
    default = choice.default
    best = max(choice.best, key=lambda record: sign * mean(values[record.number]))
    of_best, of_default = (Measure(r.number, r.candidate, r.value or 0.0, values[r.number]) for r in (best, default))
    difference = of_best.mean - of_default.mean
    if best.candidate == default.candidate:
        return Verdict(of_best, of_default, difference, None, better=False)
    interval = _interval(best.candidate, default.candidate, around)
    above = interval is None or (interval[0] if sign > 0 else -interval[1]) > 0
    return Verdict(of_best, of_default, difference, interval, better=sign * difference > 0 and above)


def _with_runs(verdict: Verdict, around: Surroundings, there: Sequence[Machine], *, quiet: bool) -> Verdict:
    """With the metrics of whole runs of the presets and of what beats them, where val has masks to score them."""
    if not Masks(open_dataset(around.search.data)).ids("val"):
        return verdict
    every = (verdict, *verdict.methods)
    wanted = {
        measure.trial: measure.candidate
        for each in every
        for measure in ((each.default, each.best) if each.better else (each.default,))
    }
    runs = dict(zip(wanted, whole_runs(list(wanted.values()), around, there, quiet=quiet), strict=True))

    def measured(measure: Measure) -> Measure:
        run = runs.get(measure.trial)
        return replace(measure, final=run.metrics, run=run.id) if run else measure

    own = [replace(each, best=measured(each.best), default=measured(each.default)) for each in every]
    return replace(own[0], methods=tuple(own[1:]))


def _distinct(records: list[TrialRecord], count: int) -> list[TrialRecord]:
    found: list[TrialRecord] = []
    for record in records:
        if all(record.candidate != other.candidate for other in found):
            found.append(record)
    return found[:count]


def _with_seeds(records: list[TrialRecord], around: Surroundings, seeds: int) -> dict[int, tuple[float, ...]]:
    """The objective of each record with its own rng and with further ones, by its number."""
    rngs = [around.search.rng + 1 + number for number in range(seeds)]
    numbers = {record.number: record for record in records}
    tasks = {
        (number, rng): _again.options(num_cpus=around.share.cores, num_gpus=around.gpus).remote(
            around, record.candidate, rng
        )
        for number, record in numbers.items()
        for rng in rngs
    }
    try:
        found = {key: float(ray.get(task)) for key, task in tasks.items()}
    except ray.exceptions.RayTaskError as error:
        raise UserError(f"a further rng could not be measured: {reason(str(error))}") from None
    return {number: (numbers[number].value or 0.0, *(found[number, rng] for rng in rngs)) for number in numbers}


@ray.remote(max_retries=2)
def _again(around: Surroundings, candidate: Candidate, rng: int) -> float:
    return _measured(around, candidate, rng, prepare(around)).value


def _measured(around: Surroundings, candidate: Candidate, rng: int, dataset: Dataset) -> Measured:
    """A candidate on the whole of dev; of what trials computed nothing is computed again."""
    search = around.search
    objective = search.of(candidate.method).objective
    *_, last = measure(search.plan(candidate), objective, dataset, rng, around.place, ConsoleReporter)
    return last


def _interval(best: Candidate, default: Candidate, around: Surroundings) -> tuple[float, float] | None:
    dataset = open_dataset(around.search.data)
    of_best, of_default = (_measured(around, each, around.search.rng, dataset).evaluation for each in (best, default))
    if of_best is None or of_default is None:
        return None
    order = np.argsort(of_best.ids), np.argsort(of_default.ids)
    groups = dataset.groups_of([of_best.ids[at] for at in order[0]])
    of_both = of_best.matrices[order[0]], of_default.matrices[order[1]]
    return paired_bootstrap(*of_both, classes=of_best.indices, groups=groups)
