"""A grid: every combination of given values, for a table that compares methods or for an ablation."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tune.grid_axes import METHOD, RNG, combinations
from tune.measure import parts
from tune.objective import SPLIT, Objective, choose_objective, objectives, without_dev
from tune.search import ALL, Candidate, MethodSearch, SearchPlan, data_digest, digest
from wsss.data import Dataset, open_dataset
from wsss.errors import UserError
from wsss.interface import STAGES
from wsss.run.plan import Plan
from wsss.scores import Masks, metric_names
from wsss.scores.scored import SCORED
from wsss.tables.ablation import hashable, in_order
from wsss.tables.rows import WEIGHTS, methods_of, names_a_stage, rngs_of


@dataclass(frozen=True)
class Cell:
    """A combination, whatever the rng.

    Attributes:
        candidate: the method with the settings of the grid that it has.
        values: by key of the grid but rng: the value, None where the method lacks the setting.
        expected: the metrics that a finished run of it has.
    """

    candidate: Candidate
    values: Mapping[str, Any]
    expected: frozenset[str]


@dataclass(frozen=True)
class Grid:
    """What is run.

    Attributes:
        search: what all runs have in common.
        axes: the values of each key but rng, as they were given.
        rngs: the seeds.
        cells: the combinations.
        until: the last stage of the runs; None for whole runs.
        metrics: what is compared, that of dev first.
        left_out: why combinations were left out that a step refuses.
    """

    search: SearchPlan
    axes: Mapping[str, tuple[str, ...]]
    rngs: tuple[int, ...]
    cells: tuple[Cell, ...]
    until: str | None
    metrics: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def content(self) -> dict[str, Any]:
        """All that decides what the runs give, as JSON has it."""
        axes = {key: list(values) for key, values in self.axes.items()}
        return {"axes": axes, "rngs": list(self.rngs), "until": self.until, **self.search.content}

    @cached_property
    def name(self) -> str:
        """As given, else known by all that is in it: equal grids have equal names."""
        which = "-".join(each.method for each in self.search.methods) if len(self.search.methods) < 4 else ALL
        own = f"{which}-{Path(self.search.preset).stem}-{Path(self.search.data).name}"
        return self.search.given or f"grid-{own}-{digest(self.content)[:8]}"

    @property
    def varied(self) -> dict[str, list[Any]]:
        """The values, in order, of each key that has more than one; those of rng are not shown."""
        values = {
            key: in_order(hashable(cell.values[key]) for cell in self.cells if cell.values[key] is not None)
            for key in self.axes
        }
        return {key: found for key, found in values.items() if len(found) > 1}


def plan_grid(
    axes: Mapping[str, Sequence[str]],
    *,
    method: str = "affinity",
    preset: str = "demo",
    data: str = "shapes",
    rng: int = 0,
    objective: str | None = None,
    fixed: Mapping[str, str] | None = None,
    device: str = "auto",
    name: str = "",
) -> Grid:
    """Decide and check every combination before anything runs.

    Where settings vary, runs end with the stage after which the objective is known, by default that of the label maps;
    where methods vary alone, or settings of the segmentation network, they are whole.

    Args:
        axes: the values of each key: "method" ("all" is every method that runs with nothing added), "rng", or settings.
        method, rng: where the axes have none.
        preset, data: their names.
        objective: the metric that is compared; its twin on train stands beside it.
        fixed: settings that every run has.
        device: "auto", "cpu" or "cuda".
        name: what it is called, by default known by its content.

    Raises:
        UserError: unknown names, values that are not allowed (several are named together), settings that can't move the
            objective, or no combination that the steps take.
    """
    fixed, dataset = dict(fixed or {}), open_dataset(data)
    dataset.check_trainable()
    _check_comparable(dataset)
    settings = {key: list(values) for key, values in axes.items() if key not in (METHOD, RNG)}
    if both := sorted(settings.keys() & fixed.keys()):
        raise UserError(f"{', '.join(both)} can't be in --grid and fixed at once; take one of both away")
    chosen = methods_of(axes.get(METHOD, [method]))
    rngs = rngs_of(axes.get(RNG, [str(rng)]))
    plans, left_out = combinations(chosen, preset, settings, fixed, dataset)
    whole = not settings or (objective is None and any(key.startswith("segment.") for key in settings))
    wanted = objective or (metric_names.metric(SPLIT, "pred_crf", metric_names.MIOU) if whole else None)
    goals = [goal_of(plan, dataset, wanted, asked=objective is not None) for _, plan in plans]
    if len({goal.metric for goal in goals}) > 1:
        raise UserError(
            f"the methods are known by different metrics, {', '.join(sorted({goal.metric for goal in goals}))}; name "
            "one that all have with --objective"
        )
    _check_scored(goals[0].metric, plans[0][1], dataset)
    whole = whole or goals[0].until == "segment"
    _check_moves(settings, [plan for _, plan in plans], goals)
    stages = [key.partition(".")[0] for key in settings if not key.startswith("evaluate.")]
    last = max([goals[0].until, *(stage for stage in stages if stage in STAGES)], key=STAGES.index)
    until = None if whole else last
    cells: dict[Any, Cell] = {}
    for (values, plan), goal in zip(plans, goals, strict=True):
        own = {key: plan.settings.get(key, text) for key, text in values.items() if key != METHOD and text is not None}
        candidate = Candidate(plan.method.name, own)
        expected = metrics_until(plan, dataset, until) | {goal.metric}
        shown = {key: "none" if key in own and own[key] is None else own.get(key) for key in axes if key != RNG}
        shown |= {METHOD: plan.method.name} if METHOD in axes else {}
        cells.setdefault((candidate.method, digest(own)), Cell(candidate, shown, expected))
    parts_of = {
        plan.method.name: MethodSearch(
            plan.method.name, goal, {}, {}, {planned.key: planned.step.version for planned in plan.steps}
        )
        for (_, plan), goal in zip(plans, goals, strict=True)
    }
    return Grid(
        search=SearchPlan(
            tuple(parts_of.values()), preset, data, data_digest(data), rngs[0], fixed, device, given=name
        ),
        axes={key: tuple(values) for key, values in axes.items() if key != RNG},
        rngs=rngs,
        cells=tuple(cells.values()),
        until=until,
        metrics=compared(goals[0].metric, dataset, beside=whole and objective is None),
        left_out=tuple(left_out),
    )


def goal_of(plan: Plan, dataset: Dataset, metric: str | None = None, *, asked: bool = False) -> Objective:
    """What runs of a plan are compared by: `metric` where they give it, else the objective by default.

    Raises:
        UserError: the metric was asked for and they don't give it, or there are no masks on dev.
    """
    known = objectives(plan, dataset)
    if metric in known:
        return known[metric]
    return choose_objective(plan, dataset, metric if asked else None)


def _check_comparable(dataset: Dataset) -> None:
    """Refuse a dataset whose dev has nothing that runs could be scored by: neither masks nor, for tags, images."""
    if not dataset.splits.get(SPLIT):
        raise UserError(
            f"runs of a grid are compared on {SPLIT}, and {without_dev(dataset)}; a search without a "
            "grid can go by train/loss"
        )


def _check_scored(metric: str, plan: Plan, dataset: Dataset) -> None:
    """Refuse a metric that only a stage's run has, such as a loss: what is compared has to stand with the whole run."""
    scores = (f"/{metric_names.MIOU}", metric_names.TAGS_MAP)
    if not metric.endswith(scores):
        allowed = [known for known in objectives(plan, dataset) if known.endswith(scores)]
        raise UserError(
            f"a grid compares what runs are scored by, not {metric}; with --objective it can be {', '.join(allowed)}"
        )


def _check_moves(settings: Mapping[str, Sequence[str]], plans: Sequence[Plan], goals: Sequence[Objective]) -> None:
    """Refuse settings of steps that the objective does not depend on."""
    needed = {
        planned.key for plan, goal in zip(plans, goals, strict=True) for planned in itertools.chain(*parts(plan, goal))
    }
    idle = [
        key for key in settings if key != WEIGHTS and not names_a_stage(key) and key.rpartition(".")[0] not in needed
    ]
    if idle:
        raise UserError(
            f"{', '.join(idle)} can't move {goals[0].metric}, which is known before; name a later one with --objective"
        )


def metrics_until(plan: Plan, dataset: Dataset, until: str | None) -> frozenset[str]:
    """The mean IoUs on dev that a run up to a stage has."""
    known = objectives(plan, dataset).items()
    return frozenset(
        name for name, goal in known if _within(goal.until, until) and name.endswith(f"/{metric_names.MIOU}")
    )


def compared(metric: str, dataset: Dataset, *, beside: bool = False) -> tuple[str, ...]:
    """The metrics that are shown: the objective, beside it those of the label maps, and what of them is of train."""
    shown = [metric]
    if beside:
        shown.append(metric_names.metric(SPLIT, "labels_crf", metric_names.MIOU))
    split, what, *rest = shown[-1].split("/")
    if (
        split == SPLIT
        and rest == [metric_names.MIOU]
        and "train" in SCORED[what].splits
        and Masks(dataset).ids("train")
    ):
        shown.append(metric_names.metric("train", what, metric_names.MIOU))
    return tuple(dict.fromkeys(shown))


def _within(stage: str, until: str | None) -> bool:
    return until is None or STAGES.index(stage) <= STAGES.index(until)
