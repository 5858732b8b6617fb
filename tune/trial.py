"""A trial, in a process of Ray's: it measures a candidate and reports; it writes to the store of steps alone."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray import tune

from tune.measure import Measured, Place, facts_of, measure
from tune.search import Candidate, SearchPlan
from wsss.data import Dataset, open_dataset
from wsss.errors import UserError
from wsss.progress import ConsoleReporter
from wsss.run.cluster import Share
from wsss.run.method import WORK
from wsss.run.steps import choose_device
from wsss.scores import metric_names

NUMBER, CANDIDATE = "number", "candidate"
VALUE, FINAL, PER_IMAGE, EPOCH, LOSS = "value", "final", "per_image", "epoch", "loss"


@dataclass(frozen=True)
class Surroundings:
    """What a trial is given beside its settings.

    Attributes:
        search: of which it is a part.
        workspace: the folder of the search.
        share: cores and variables.
        trained: the step whose loss is reported, "" for none, and its epochs.
    """

    search: SearchPlan
    workspace: str
    share: Share
    trained: tuple[str, int]


def run_trial(config: Mapping[str, Any], around: Surroundings) -> None:
    """Measure a candidate and report what is known of it after each piece of dev.

    Raises:
        UserError: whatever a step refuses, or a value that is no number.
    """
    search = around.search
    candidate = Candidate(config[CANDIDATE]["method"], config[CANDIDATE]["settings"])
    dataset = prepare(around)
    plan = search.plan(candidate)
    objective = search.of(candidate.method).objective
    place = Place(choose_device(search.device), WORK)
    for measured in measure(plan, objective, dataset, search.rng, place, _Losses(*around.trained).of):
        tune.report(report_of(measured, objective.metric))


def prepare(around: Surroundings) -> Dataset:
    """Make the share this process's, go to the workspace, and open the dataset.

    Raises:
        UserError: this machine has not the workspace, or another dataset of that name.
    """
    around.share.take()
    if not os.path.isdir(around.workspace):
        raise UserError(
            f"the machine {socket.gethostname()} has no folder {around.workspace}; share it with all machines"
        )
    os.chdir(around.workspace)
    return open_dataset(around.search.data)


def report_of(measured: Measured, metric: str) -> dict[str, Any]:
    """What Ray is told.

    Raises:
        UserError: the metric is no number.
    """
    if not math.isfinite(measured.value):
        raise UserError(f"the steps gave no {metric}: it is {measured.value}")
    return {
        VALUE: measured.value,
        FINAL: measured.whole,
        "images": measured.images,
        "of": measured.of,
        PER_IMAGE: measured.evaluation.per_image if measured.evaluation else [],
        "steps": facts_of(measured),
        "seconds": measured.seconds,
        "saved": measured.saved,
    }


class _Losses:
    """Reports the mean loss of each epoch of one step; a `wsss.interface.Reporter`."""

    def __init__(self, step: str, epochs: int) -> None:
        self._step, self._epochs = step, epochs
        self._losses: list[float] = []
        self._reported = 0
        self._console = ConsoleReporter(step)

    def of(self, step: str) -> _Losses | ConsoleReporter:
        """The reporter of a step."""
        return self if step == self._step else ConsoleReporter(step)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Keep the loss."""
        if metric_names.TRAIN_LOSS in values:
            self._losses.append(values[metric_names.TRAIN_LOSS])

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """Report when an epoch is over."""
        self._console.progress(done, total, unit, note)
        epoch = done * self._epochs // total
        if epoch > self._reported and self._losses:
            self._reported = epoch
            tune.report({EPOCH: epoch, LOSS: sum(self._losses) / len(self._losses)})
            self._losses.clear()
