"""Rows of a results page where there is no tracking server: in order of worth, within hours, gone on with by each call.

Each run leaves its record in a folder, which `wsss import` brings into MLflow. Steps are shared through the store, so
that what two rows have in common is computed once.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from wsss.data import Dataset
from wsss.errors import OutOfTimeError, UserError
from wsss.run.fingerprints import fingerprints
from wsss.run.method import group_of, run_fingerprint, run_method
from wsss.run.plan import Plan, PlannedStep
from wsss.run.steps import choose_device
from wsss.run.store import StepStore
from wsss.scores import Masks
from wsss.settings import flatten
from wsss.storage import store_address
from wsss.tables.render import Column, Table, as_text
from wsss.tables.rows import Entry, by_worth, planned_rows
from wsss.tracking.record import STORE, RunFile, record_folders


@dataclass(frozen=True)
class Task:
    """One run of one row.

    Attributes:
        entry: the row.
        rng: the seed.
        settings: what differs from the preset.
        plan: the steps.
        fingerprints: of the steps that will run, by key, in their order.
        recorded: its record is finished.
    """

    entry: Entry
    rng: int
    settings: Mapping[str, str]
    plan: Plan
    fingerprints: Mapping[str, str]
    recorded: bool

    @property
    def title(self) -> str:
        """Such as "affinity, rng 0"."""
        return f"{self.entry.name}, rng {self.rng}"

    @property
    def steps(self) -> Iterator[tuple[PlannedStep, str]]:
        """The steps that will run and their fingerprints."""
        return ((p, self.fingerprints[p.key]) for p in self.plan.steps if p.key in self.fingerprints)


def measure_offline(
    dataset: Dataset,
    preset: str,
    rngs: Sequence[int],
    rows: Sequence[Entry],
    overrides: Mapping[str, str],
    out: Path,
    hours: float = math.inf,
) -> list[str]:
    """Run rows in order of worth, all of the first rng before those of the next, until the time is over.

    What will be done, and what of it fits as far as earlier steps tell, is printed first. A step that is stopped goes
    on from its last epoch or image in the next call.

    Args:
        dataset: whose rows.
        preset: of the runs.
        rngs: the seeds.
        rows: in any order.
        overrides: settings of all rows.
        out: the folder of the records, and of the steps' outputs unless WSSS_STORE names another place.
        hours: how long this call may take.

    Returns:
        What is left, such as ["bound, rng 2"].

    Raises:
        UserError: see `planned_rows`, before anything runs, and `run_method`; or the hours are not above 0.
    """
    if not hours > 0:
        raise UserError(f"--hours {hours:g} is no time to run anything; it must be above 0")
    deadline = time.monotonic() + 3600 * hours
    device = choose_device("auto")
    store = StepStore(store_address(out / STORE), out / "cache")
    tasks = list(_tasks(dataset, preset, rngs, rows, overrides, out, device))
    print(_printed(list(_work(tasks, store, dataset, device)), hours), flush=True)
    left = [task for task in tasks if not task.recorded]
    try:
        for number, task in enumerate(tasks, 1):
            if not task.recorded:
                print(f"\n{number} of {len(tasks)}: {task.title}", flush=True)
                run_method(task.entry.method, preset, str(dataset.root), rng=task.rng, overrides=task.settings,
                           wait=True, offline=out, deadline=deadline)  # fmt: skip
                left.remove(task)
    except OutOfTimeError as stop:
        print(f"\nthe {_hours(hours)} are over: {stop}", flush=True)
    return [task.title for task in left]


def _tasks(
    dataset: Dataset,
    preset: str,
    rngs: Sequence[int],
    rows: Sequence[Entry],
    overrides: Mapping[str, str],
    out: Path,
    device: torch.device,
) -> Iterator[Task]:
    masks = Masks(dataset)
    scored = any(masks.ids(split) for split in dataset.splits)
    finished = _finished(out)
    planned = planned_rows(by_worth(rows), preset, overrides, dataset)
    for rng in rngs:
        for row in planned:
            plan = row.plan
            keys = {p.key for p in plan.steps if scored or p.stage != "evaluate"}
            own = {k: v for k, v in fingerprints(plan, dataset, rng, device).items() if k in keys}
            yield Task(
                row.entry, rng, row.settings, plan, own, run_fingerprint(group_of(plan, dataset), rng) in finished
            )


def _finished(out: Path) -> set[str]:
    """The fingerprints of the runs whose records are finished."""
    finished = set()
    for folder in record_folders(out):
        with suppress(UserError):  # it is made again; `wsss import` names it
            record = RunFile.read(folder)
            if record.finished:
                finished.add(record.fingerprint)
    return finished


@dataclass(frozen=True)
class _Work:
    """What a run still has to do: the steps that are neither in the store nor an earlier run's, and their seconds."""

    task: Task
    done: int
    steps: Sequence[PlannedStep]
    seconds: Sequence[float | None]

    @property
    def known(self) -> float:
        return sum(each for each in self.seconds if each is not None)

    @property
    def unknown(self) -> int:
        return self.seconds.count(None)

    def fits(self, left: float, sure: bool) -> str:
        """Whether it ends in the seconds that are left; `sure` where what comes before it is known."""
        if self.task.recorded:
            return "done"
        if self.known > left:
            first = self.seconds[0]
            return "in part" if first is not None and first <= left else "no"
        return "yes" if sure and not self.unknown else "unknown"


def _work(tasks: Sequence[Task], store: StepStore, dataset: Dataset, device: torch.device) -> Iterator[_Work]:
    expected = _Expectations(store, dataset, device)
    earlier: set[str] = set()
    for task in tasks:
        done = {fingerprint for p, fingerprint in task.steps if store.manifest(p.name, fingerprint) is not None}
        steps = [p for p, fingerprint in task.steps if fingerprint not in done | earlier]
        earlier.update(task.fingerprints.values())
        yield _Work(task, len(done), steps, [expected.seconds(p) for p in steps])


def _printed(plan: Sequence[_Work], hours: float) -> str:
    """The plan as a table: what is done of each run, what its other steps took before, and whether they fit."""
    lines: list[list[str]] = []
    left, sure = 3600 * hours, True
    for work in plan:
        total = len(work.task.fingerprints)
        need = [_clock(work.known)] * (work.known > 0)
        need += [f"{work.unknown} that never ran here"] * (work.unknown > 0)
        shared = str(total - work.done - len(work.steps) or "-")
        fits = work.fits(left, sure)
        lines.append([work.task.title, f"{work.done} of {total}", shared, " and ".join(need) or "-", fits])
        left, sure = left - work.known, sure and not work.unknown
    columns = (
        Column("run"),
        Column("steps done"),
        Column("shared with rows above", rank=1, right=True, wrap=11),
        Column("the others take about", wrap=30),
        Column("fits"),
    )
    return as_text([Table(f"In {_hours(hours)}:", columns, lines)]) + _too_long(plan, hours)


def _too_long(plan: Sequence[_Work], hours: float) -> str:
    """A sentence where the next step alone takes longer than there is time."""
    following = next((work for work in plan if work.steps), None)
    seconds = following.seconds[0] if following else None
    if following is None or seconds is None or seconds <= 3600 * hours:
        return ""
    return (
        f"\n{_hours(hours)} are too short for {following.steps[0].key} of {following.task.title}, which took "
        f"{_clock(seconds)} before: what is done of it is kept for the next call, and {_hours(1.1 * seconds / 3600)} "
        "would fit it"
    )


class _Expectations:
    """How long steps take, from those of the same kind in the store: same settings, data and kind of device."""

    def __init__(self, store: StepStore, dataset: Dataset, device: torch.device) -> None:
        self._store, self._dataset, self._device = store, dataset, device
        self._known: dict[str, list[tuple[Any, float]]] = {}

    def seconds(self, planned: PlannedStep) -> float | None:
        """The median; None where there is no such step yet."""
        planned = planned.work
        if planned.name not in self._known:
            self._known[planned.name] = [
                (manifest["settings"], float(manifest["seconds"]))
                for manifest in self._store.manifests(planned.name)
                if manifest["data"]["digest"] == self._dataset.digest and manifest["device"] == self._device.type
            ]
        settings = json.loads(json.dumps(flatten(planned.settings)))
        seconds = [seconds for own, seconds in self._known[planned.name] if own == settings]
        return statistics.median(seconds) if seconds else None


def _clock(seconds: float) -> str:
    return tqdm.format_interval(math.ceil(seconds))


def _hours(hours: float) -> str:
    return "unlimited time" if hours == math.inf else f"{hours:.3g} hours"
