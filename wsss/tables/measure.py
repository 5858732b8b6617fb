"""The runs that a page of results or a heat map of combinations needs: those that are missing are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wsss.data import Dataset
from wsss.registry.models import publish
from wsss.run.method import group_of, run_method
from wsss.run.plan import Plan
from wsss.scores import metric_names
from wsss.tables.rows import Entry, planned_rows
from wsss.tracking.query import runs


def measure(
    dataset: Dataset,
    preset: str,
    rngs: Sequence[int],
    rows: Sequence[Entry],
    overrides: Mapping[str, str],
    *,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Run each row once for each rng, what is finished left out; stopped and started again, it goes on.

    `tags` are given to the runs; one of the same settings that lacks them counts as finished too.

    Raises:
        UserError: see `planned_rows`, before anything runs, and `run_method`.
    """
    planned = planned_rows(rows, preset, overrides, dataset)
    todo = [(row, rng) for rng in rngs for row in planned]
    there = runs(dataset.name)
    for number, (row, rng) in enumerate(todo, 1):
        group, last = group_of(row.plan, dataset), metric_names.step_time(_last_step(row.plan))
        if not any(run.group == group and run.rng == rng and last in run.metrics for run in there):
            print(f"\n{number} of {len(todo)}: {row.entry.name}, rng {rng}", flush=True)
            run_method(
                row.entry.method,
                preset,
                str(dataset.root),
                rng=rng,
                overrides=row.settings,
                tags=tags,
                publish=publish,
            )


def _last_step(plan: Plan) -> str:
    """The key of the step that a whole run ends with."""
    return [planned.key for planned in plan.steps if planned.stage != "evaluate"][-1]
