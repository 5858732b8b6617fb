"""A trial, in a process of Ray's: it measures a candidate and reports; it writes to the store of steps alone."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from tune.measure import Measured, Place, facts_of, measure
from tune.objective import SPLIT
from tune.search import Candidate, SearchPlan, digest
from wsss import storage
from wsss.data import Dataset, open_dataset
from wsss.data.travel import fetch_dataset
from wsss.errors import UserError
from wsss.progress import ConsoleReporter
from wsss.run.cluster import WORKER_FOLDER, Share
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
        device: "cpu" or "cuda", where all machines' networks run; "auto" where that is not decided.
        gpus: what of a GPU a step that runs a network asks for.
        marker: a file of the workspace: a machine that does not see it works in a folder of its own; "" for none.
        travels: to such a machine, from the store: datasets, by what the search calls them, and their keys.
        masked: the splits whose masks travel with them.
    """

    search: SearchPlan
    workspace: str
    share: Share
    trained: tuple[str, int]
    device: str = "auto"
    gpus: float = 0.0
    marker: str = ""
    travels: Mapping[str, str] = field(default_factory=dict)
    masked: tuple[str, ...] = (SPLIT,)

    @property
    def place(self) -> Place:
        """Where this process runs steps; a machine without the GPU runs those that need none."""
        device = self.device if self.device != "auto" else choose_device(self.search.device).type
        return Place(torch.device(device), WORK, gpu=device != "cuda" or _has_gpu())


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
    for measured in measure(plan, objective, dataset, search.rng, around.place, _Losses(*around.trained).of):
        tune.report(report_of(measured, objective.metric))


def prepare(around: Surroundings) -> Dataset:
    """Make the share this process's, go where this machine works, and open the dataset.

    Raises:
        UserError: the dataset is not here and can't be fetched.
    """
    around.share.take()
    if sees_workspace(around):
        os.chdir(around.workspace)
        return open_dataset(around.search.data)
    if not around.travels:
        raise UserError(
            f"machine {socket.gethostname()} does not see {around.workspace}, and came after the others were sent the "
            "data; start the search again"
        )
    folder = own_folder(around)
    os.chdir(folder)
    store = storage.store_address()
    for named, key in around.travels.items():
        fetch_dataset(store, key, around.masked, folder / "data" / Path(named).name)
    return open_dataset(folder / "data" / Path(around.search.data).name)


def sees_workspace(around: Surroundings) -> bool:
    """Whether this machine works in the search's own folder, by what that holds; it may be told not to."""
    return not os.environ.get(WORKER_FOLDER) and (not around.marker or os.path.isfile(around.marker))


def own_folder(around: Surroundings) -> Path:
    """Where a machine works that does not see the search's folder: one folder for each set of datasets."""
    base = Path(os.environ.get(WORKER_FOLDER) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "wsss"))
    folder = base.expanduser().absolute() / digest(dict(around.travels))[:16]
    with storage.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _has_gpu() -> bool:
    """Whether this process may use a GPU: a worker has what Ray gave it, other processes what there is."""
    if not torch.cuda.is_available() or not ray.is_initialized():
        return torch.cuda.is_available()
    context = ray.get_runtime_context()
    return context.worker.mode != ray.WORKER_MODE or bool(context.get_accelerator_ids().get("GPU"))


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
