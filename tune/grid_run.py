"""Running a grid: its steps on the cluster, shared ones once and first, then a run in MLflow for each combination."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from tune.budget import Budget, address_of, gpus_wanted
from tune.grid import Cell, Grid
from tune.machines import looked_at
from tune.shared import SharedStep, compute_steps, steps_of_runs
from tune.trial import Surroundings
from wsss.data import open_dataset
from wsss.errors import UserError
from wsss.interface import STAGES
from wsss.registry.models import publish
from wsss.run.cluster import Machine, Share, Slots, connected, machines
from wsss.run.method import group_of, run_method
from wsss.run.plan import PlannedStep
from wsss.run.steps import choose_device
from wsss.scores import Masks
from wsss.tracking import names
from wsss.tracking.query import RunRecord, runs


@dataclass
class GridRun:
    """A combination with an rng.

    Attributes:
        cell, rng: which.
        run: the id of its run in MLflow; empty where it failed.
        metrics: those of the grid that it gave.
        error: why it failed.
    """

    cell: Cell
    rng: int
    run: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    error: str = ""


def run_grid(grid: Grid, budget: Budget, *, ray_address: str | None = None, quiet: bool = False) -> list[GridRun]:
    """Run what is missing of a grid; stopped and started again, it goes on.

    Args:
        grid: from `plan_grid`.
        budget: at most so many cores for a step, and the GPUs of one that runs a network.
        ray_address: of a Ray cluster; by default that of RAY_ADDRESS, or one of this process's cores for the time.
        quiet: say nothing while it runs.

    Returns:
        Every run of the grid, those that were there before and those that failed among them, rng after rng.

    Raises:
        UserError: the cluster or a store can't be used.
    """
    all_runs = [GridRun(cell, rng) for rng in grid.rngs for cell in grid.cells]
    todo = _not_done(grid, all_runs)
    if not todo:
        return all_runs
    total = len(all_runs)
    address, dataset = address_of(ray_address), open_dataset(grid.search.data)
    with connected(address):
        there = machines()
        wanted = Surroundings(
            grid.search,
            os.getcwd(),
            Share.of(Slots(1, 0, 1, "")),
            ("", 0),
            gpus=gpus_wanted(there, grid.search, budget),
            masked=tuple(dataset.splits),
        )
        with looked_at(wanted, address, there) as around:
            if around.device == "cuda" and not torch.cuda.is_available():
                raise UserError(
                    "the cluster has GPUs and this machine has none, so it would not find what is computed there; "
                    "start the command on a machine with one, or give --device cpu"
                )
            search = replace(grid.search, device=around.device, given=grid.name)
            _run(replace(grid, search=search), todo, replace(around, search=search), there, budget, total, quiet)
    return all_runs


def _run(
    grid: Grid,
    todo: Sequence[GridRun],
    around: Surroundings,
    there: Sequence[Machine],
    budget: Budget,
    total: int,
    quiet: bool,
) -> None:
    """Compute the steps of runs, and write each run as soon as its steps are there."""
    steps, needs = _steps(grid, todo)
    ended = total - len(todo)
    waiting = {number: set(own) for number, own in enumerate(needs)}
    for done in compute_steps(around, steps, there, budget.cpus or math.inf, quiet=quiet):
        for number in [number for number, own in waiting.items() if done.fingerprint in own]:
            waiting[number].discard(done.fingerprint)
            if done.error:
                todo[number].error = f"step {done.planned.name}: {done.error}"
            elif not waiting[number]:
                _write(grid, todo[number])
            if done.error or not waiting[number]:
                del waiting[number]
                ended += 1
                if not quiet:
                    print(f"{ended} of {total}: {_said(grid, todo[number])}", flush=True)


def _not_done(grid: Grid, all_runs: Sequence[GridRun]) -> list[GridRun]:
    """The runs that are not there yet; those that are get their metrics."""
    dataset = open_dataset(grid.search.data)
    finished: dict[tuple[str, int], list[RunRecord]] = {}
    for record in runs(dataset.name):
        finished.setdefault((record.group, record.rng), []).append(record)
    groups = {id(cell): group_of(grid.search.plan(cell.candidate), dataset) for cell in grid.cells}
    for each in all_runs:
        for record in finished.get((groups[id(each.cell)], each.rng), []):
            if each.cell.expected <= record.metrics.keys():
                each.run = record.id
                each.metrics = {name: record.metrics[name] for name in grid.metrics if name in record.metrics}
                break
    return [each for each in all_runs if not each.run]


def _steps(grid: Grid, todo: Sequence[GridRun]) -> tuple[dict[str, SharedStep], list[list[str]]]:
    """By fingerprint: the steps of all runs, each once; and for each run the fingerprints of its own."""
    dataset = open_dataset(grid.search.data)
    scored = any(Masks(dataset).ids(split) for split in dataset.splits)
    return steps_of_runs(
        grid.search,
        [(each.cell.candidate, each.rng) for each in todo],
        choose_device(grid.search.device),
        lambda planned: _is_run(planned, grid.until, scored=scored),
    )


def _is_run(planned: PlannedStep, until: str | None, *, scored: bool) -> bool:
    if planned.stage == "evaluate" and not scored:
        return False
    stage = planned.inputs["maps"].partition(".")[0] if planned.stage == "evaluate" else planned.stage
    return until is None or STAGES.index(stage) <= STAGES.index(until)


def _write(grid: Grid, each: GridRun) -> None:
    """The run in MLflow, whose steps are all there."""
    search = grid.search
    try:
        outcome = run_method(
            **search.run_arguments(each.cell.candidate),
            rng=each.rng,
            device=search.device,
            until=grid.until,
            tags={names.GRID: grid.name},
            wait=True,
            publish=publish if grid.until is None else None,
        )
    except UserError as error:
        each.error = str(error)
        return
    each.run = outcome.run_id
    given = {name: value for step in outcome.steps.values() for name, value in step.metrics.items()} | outcome.metrics
    each.metrics = {name: given[name] for name in grid.metrics if name in given}


def _said(grid: Grid, each: GridRun) -> str:
    values = {key: value for key, value in each.cell.values.items() if value is not None and key != "method"}
    which = " ".join([each.cell.candidate.method, *(f"{key}={value}" for key, value in values.items())])
    first = grid.metrics[0]
    value = f"{first} {each.metrics[first]:.4f}" if first in each.metrics else "done"
    return f"{which}, rng {each.rng}: {f'failed ({each.error})' if each.error else value}"
