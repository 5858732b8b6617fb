"""What came out of a search: whether its best trial beats the preset, and what both are worth on val."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev
from typing import Any

import numpy as np
import ray

from tune.measure import Measured, measure
from tune.progress import reason
from tune.search import Candidate
from tune.study import COMPLETE, Study, TrialRecord
from tune.trial import Surroundings, prepare
from wsss.data import Dataset, open_dataset
from wsss.errors import UserError
from wsss.progress import ConsoleReporter, say
from wsss.run.method import run_method
from wsss.scores import Masks, metric_names
from wsss.scores.bootstrap import paired_bootstrap

FINAL_METRICS = (("dev", "pred_crf"), ("val", "pred_crf"))


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
    """

    best: Measure
    default: Measure
    difference: float
    interval: tuple[float, float] | None
    better: bool

    @property
    def taken(self) -> Measure:
        """What a user should take."""
        return self.best if self.better else self.default

    @property
    def run(self) -> str:
        """The id of the whole run of what is taken."""
        return self.taken.run

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "taken": asdict(self.taken)}


def decide(study: Study, around: Surroundings, seeds: int, top: int) -> Verdict:
    """Compare the best trial with the preset on dev, then measure both on val, once.

    Args:
        study: whose trials have ended.
        around: the search.
        seeds: with so many further rngs the best trials and the presets are measured again.
        top: of how many trials; the best is then the one with the best mean.

    Raises:
        UserError: whatever a run refuses.
    """
    search = around.search
    sign = 1.0 if search.mode == "max" else -1.0
    complete = [record for record in study.records if record.state == COMPLETE]
    defaults = [r for r in complete if r.candidate == search.of(r.candidate.method).default]
    if not defaults:
        raise UserError("no trial with the preset's own settings finished, so nothing can be compared with it")
    default = max(defaults, key=lambda record: sign * (record.value or 0.0))
    ranked = sorted(complete, key=lambda record: -sign * (record.value or 0.0))
    chosen = _distinct(ranked, top if seeds else 1)
    values = _with_seeds([*chosen, default], around, seeds)
    best = max(chosen, key=lambda record: sign * mean(values[record.number]))
    difference = mean(values[best.number]) - mean(values[default.number])
    interval = _interval(best.candidate, default.candidate, around)
    same = best.candidate == default.candidate
    better = (
        not same and sign * difference > 0 and (interval is None or (interval[0] if sign > 0 else -interval[1]) > 0)
    )
    measured = {
        number: _finally(record, values[number], around, when=number == default.number or better)
        for number, record in {default.number: default, best.number: best}.items()
    }
    return Verdict(measured[best.number], measured[default.number], difference, interval, better)


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
    return paired_bootstrap(of_best.matrices[order[0]], of_default.matrices[order[1]])


def _finally(record: TrialRecord, values: tuple[float, ...], around: Surroundings, *, when: bool) -> Measure:
    """A record with the metrics of a whole run, where the dataset has masks to score it."""
    search, candidate = around.search, record.candidate
    known = Measure(record.number, candidate, record.value or 0.0, values)
    if not when or not Masks(open_dataset(search.data)).ids("val"):
        return known
    say(f"the whole run of trial {record.number + 1}, for val")
    overrides = {**search.fixed_of(candidate.method), **candidate.settings}
    outcome = run_method(
        candidate.method,
        search.preset,
        search.data,
        rng=search.rng,
        overrides=overrides,
        device=around.place.here,
        keep_version=False,
        tags={"tune.search": search.name},
        wait=True,
    )
    names = [metric_names.metric(split, what, metric_names.MIOU) for split, what in FINAL_METRICS]
    final = {name: outcome.metrics[name] for name in names if name in outcome.metrics}
    return Measure(record.number, candidate, record.value or 0.0, values, final, outcome.run_id)
