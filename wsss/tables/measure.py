"""The runs that a page of results or a heat map of combinations needs: those that are missing are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wsss.data import Dataset
from wsss.registry.models import publish
from wsss.run.method import group_of, run_method
from wsss.run.plan import Plan, make_plan
from wsss.scores import metric_names
from wsss.tables.rows import Entry
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
        UserError: see `run_method`.
    """
    settings = [dict(overrides) | dict(entry.overrides) for entry in rows]
    plans = [make_plan(e.method, preset, own) for e, own in zip(rows, settings, strict=True)]
    todo = [(*row, rng) for rng in rngs for row in zip(rows, settings, plans, strict=True)]
    there = runs(dataset.name)
    for number, (entry, own, plan, rng) in enumerate(todo, 1):
        group, last = group_of(plan, dataset), metric_names.step_time(_last_step(plan))
        if not any(run.group == group and run.rng == rng and last in run.metrics for run in there):
            print(f"\n{number} of {len(todo)}: {entry.name}, rng {rng}")
            run_method(entry.method, preset, str(dataset.root), rng=rng, overrides=own, tags=tags, publish=publish)


def _last_step(plan: Plan) -> str:
    """The key of the step that a whole run ends with."""
    return [planned.key for planned in plan.steps if planned.stage != "evaluate"][-1]
