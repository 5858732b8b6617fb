"""Rows of a results page where there is no tracking server: in order of worth, within hours, gone on with by each call.

Each run leaves its record in a folder, which `wsss import` brings into MLflow. Steps are shared through the store, so
that what two rows have in common is computed once.
"""

from __future__ import annotations

import json
import math
import os
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
from wsss.progress import say
from wsss.run.fingerprints import fingerprints
from wsss.run.method import run_fingerprint, run_method
from wsss.run.plan import Plan, PlannedStep, make_plan
from wsss.run.steps import choose_device
from wsss.run.store import StepStore
from wsss.scores import Masks
from wsss.settings import flatten
from wsss.tables.render import Column, Table, as_text
from wsss.tables.rows import Entry, by_worth
from wsss.tracking.offline import STORE, RunFile, record_folders


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
        UserError: see `run_method`; or the hours are not above 0.
    """
    if not hours > 0:
        raise UserError(f"--hours {hours:g} is no time to run anything; it must be above 0")
    deadline = time.monotonic() + 3600 * hours
    device = choose_device("auto")
    store = StepStore(os.environ.get("WSSS_STORE", "") or str(out / STORE), out / "cache")
    tasks = list(_tasks(dataset, preset, rngs, rows, overrides, out, device))
    print(_printed(tasks, store, dataset, device, hours), flush=True)
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
    plans = [(e, dict(overrides) | dict(e.overrides)) for e in by_worth(rows)]
    for rng in rngs:
        for entry, settings in plans:
            plan = make_plan(entry.method, preset, settings)
            if "masks" in plan.supervision and not masks.ids("train"):
                if rng == rngs[0]:
                    say(f"{entry.name} is left out: {dataset.name} has no masks for its training images")
                continue
            keys = {p.key for p in plan.steps if scored or p.stage != "evaluate"}
            own = {k: v for k, v in fingerprints(plan, dataset, rng, device).items() if k in keys}
            yield Task(entry, rng, settings, plan, own, run_fingerprint(plan, dataset, rng) in finished)


def _finished(out: Path) -> set[str]:
    """The fingerprints of the runs whose records are finished."""
    finished = set()
    for folder in record_folders(out):
        with suppress(UserError):  # it is made again; `wsss import` names it
            record = RunFile.read(folder)
            if record.finished:
                finished.add(record.fingerprint)
    return finished


def _printed(tasks: Sequence[Task], store: StepStore, dataset: Dataset, device: torch.device, hours: float) -> str:
    """The plan as a table: what is done of each run, what its other steps took before, and whether they fit."""
    expected = _Expectations(store, dataset, device)
    lines: list[list[str]] = []
    left, sure, seen = 3600 * hours, True, set[str]()
    too_long = ""
    for task in tasks:
        there = {f for p, f in task.steps if store.manifest(p.name, f) is not None}
        missing = [(p, f) for p, f in task.steps if f not in there | seen]
        own = {f for _, f in missing}
        seen |= own
        seconds = [expected.seconds(p) for p, _ in missing]
        known = sum(s for s in seconds if s is not None)
        unknown = seconds.count(None)
        if missing and seen == own and seconds[0] is not None and seconds[0] > 3600 * hours:
            too_long = (
                f"{_hours(hours)} are too short for {missing[0][0].key} of {task.title}, which took "
                f"{_clock(seconds[0])} before; what is done of it is kept, and {_hours(1.1 * seconds[0] / 3600)} fit it"
            )
        sure = sure and not unknown
        fits = "done" if task.recorded else "no" if known > left else "yes" if sure else "unknown"
        if fits == "no" and left > 0 and seconds and seconds[0] is not None and seconds[0] <= left:
            fits = "in part"
        left -= known
        total, shared = len(task.fingerprints), len(task.fingerprints) - len(there) - len(missing)
        need = [_clock(known)] * (known > 0) + [f"{unknown} steps that never ran here"] * (unknown > 0)
        lines.append([task.title, f"{len(there)} of {total}", str(shared or "-"), " and ".join(need) or "-", fits])
    columns = (
        Column("run"),
        Column("steps done"),
        Column("shared above", right=True),
        Column("the others take about", wrap=40),
        Column("fits"),
    )
    table = as_text([Table(f"In {_hours(hours)}:", columns, lines)])
    return f"{table}\n{too_long}" if too_long else table


class _Expectations:
    """How long steps take, from those of the same kind in the store: same settings, data and kind of device."""

    def __init__(self, store: StepStore, dataset: Dataset, device: torch.device) -> None:
        self._store, self._dataset, self._device = store, dataset, device
        self._known: dict[str, list[tuple[Any, float]]] = {}

    def seconds(self, planned: PlannedStep) -> float | None:
        """The median; None where there is no such step yet."""
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
