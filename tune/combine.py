"""Combinations: the score maps of every localizer with every refiner, as one grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import wsss.methods as methods
from tune.grid import Cell, Grid, compared, goal_of, metrics_until
from tune.objective import SPLIT
from tune.search import Candidate, MethodSearch, SearchPlan, data_digest, digest
from wsss.commands import command
from wsss.data import open_dataset
from wsss.errors import UserError
from wsss.interface import Method
from wsss.run.plan import Plan, check_background, make_plan
from wsss.scores import Masks
from wsss.settings import settings_of
from wsss.tables.rows import ALL, WEIGHTS, methods_of, shown_order

LOCALIZER, REFINER = "localizer", "refiner"
UNTIL = "refine"
_EXPONENTS = ("alpha", "alpha_low", "alpha_high")


def plan_combinations(
    chosen: Sequence[str],
    preset: str,
    data: str,
    *,
    rngs: Sequence[int] = (0,),
    fixed: Mapping[str, str] | None = None,
    device: str = "auto",
) -> Grid:
    """Every localizer of some methods with every refiner of theirs, up to the label maps.

    A combination that is a method of its own is run as that method. Any other is the refiner's method with another
    localizer, each with its preset, but for the exponents of the background: a preset fits them to the maps of its own
    localizer, so they are multiplied by what fits this localizer's maps over what fits those (`refine.background.alpha`
    of the two localizers' own methods). Refiners with the same steps are one: a background and a CRF, the floor's.

    Args:
        chosen: names of methods, or "all".
        preset: its name.
        data: the dataset's name or folder.
        rngs: the seeds.
        fixed: settings that every run has whose steps know them.
        device: "auto", "cpu" or "cuda".

    Returns:
        The grid; combinations that can't be are named in its `left_out`.

    Raises:
        UserError: an unknown name, a setting that no combination has, or no combination that can be.
    """
    dataset, fixed = open_dataset(data), dict(fixed or {})
    dataset.check_trainable()
    names = set(methods_of(chosen))
    if not Masks(dataset).ids(SPLIT):
        raise UserError(
            f"combinations are compared by the masks of {SPLIT}, and dataset {dataset.name} has none there; add it "
            "with masks of some training images (--masks), or run methods without masks: "
            f"`{command('wsss', 'results', '--data', data, '--preset', preset, '--run', ALL)}`"
        )
    known = sorted(map(methods.load, methods.names()), key=lambda method: shown_order(method.name))
    own = [method for method in known if method.name in names]
    cells: list[tuple[dict[str, str], Candidate, Plan]] = []
    left_out = [] if list(chosen) == [ALL] else [f"{m.name}, which {lacks}" for m in own if (lacks := _lacking(m))]
    unknown_settings = set(fixed)
    for localizer in dict.fromkeys(m.stages["localize"].name for m in own if "localize" in m.stages):
        for steps in dict.fromkeys(refiner_steps(m) for m in own if refines_maps(m)):
            owner = next(m for m in known if refines_maps(m) and refiner_steps(m) == steps)
            shown = {LOCALIZER: localizer, REFINER: owner.stages["refine"].name}
            try:
                candidate = _candidate(known, localizer, owner, preset)
                settings = make_plan(candidate.method, preset, candidate.settings).settings.keys() | {WEIGHTS}
                unknown_settings -= settings
                upon = {key: value for key, value in fixed.items() if key in settings}
                candidate = Candidate(candidate.method, {**candidate.settings, **upon})
                plan = make_plan(candidate.method, preset, candidate.settings)
                for planned in plan.steps:
                    planned.check()
                check_background(plan, dataset)
            except UserError as error:
                left_out.append(f"{localizer} with {shown[REFINER]}: {error}")
            else:
                cells.append((shown, candidate, plan))
    if unknown_settings:
        raise UserError(f"no combination has a setting {', '.join(sorted(unknown_settings))}")
    if not cells:
        raise UserError(f"no combination can be: {'; '.join(left_out)}")
    goals = [goal_of(plan, dataset) for _, _, plan in cells]
    parts = {
        plan.method.name: MethodSearch(plan.method.name, goal, {}, {}, {p.key: p.step.version for p in plan.steps})
        for (_, _, plan), goal in zip(cells, goals, strict=True)
    }
    search = SearchPlan(tuple(parts.values()), preset, data, data_digest(data), rngs[0], {}, device)
    grid = Grid(
        search=search,
        axes={key: tuple(dict.fromkeys(shown[key] for shown, _, _ in cells)) for key in (LOCALIZER, REFINER)},
        rngs=tuple(rngs),
        cells=tuple(
            Cell(candidate, shown, metrics_until(plan, dataset, UNTIL) | {goal.metric})
            for (shown, candidate, plan), goal in zip(cells, goals, strict=True)
        ),
        until=UNTIL,
        metrics=compared(goals[0].metric, dataset),
        left_out=tuple(left_out),
    )
    name = f"combinations-{preset}-{Path(data).name}-{digest([grid.content, [c.settings for _, c, _ in cells]])[:8]}"
    return replace(grid, search=replace(search, given=name))


def refines_maps(method: Method) -> bool:
    """Whether a method's refiner goes on from a localizer's score maps."""
    return "refine" in method.stages and any("localize" in step.inputs for step in method.stages["refine"].steps)


def _lacking(method: Method) -> str:
    """What a method has not of the two parts of a combination; empty if it has one of them."""
    if "localize" in method.stages or refines_maps(method):
        return ""
    return "has neither a localizer nor a refiner of score maps"


def refiner_steps(method: Method) -> tuple[str, ...]:
    """The names of a refiner's steps, by which refiners are told apart."""
    return tuple(step.name for step in method.stages["refine"].steps)


def _candidate(known: Sequence[Method], localizer: str, owner: Method, preset: str) -> Candidate:
    """The method that has both, else the refiner's with another localizer and with exponents for its maps."""
    with_it = [m for m in known if "localize" in m.stages and m.stages["localize"].name == localizer]
    for method in with_it:
        if refiner_steps(method) == refiner_steps(owner):
            return Candidate(method.name, {})
    begins = owner.stages["localize"].name
    theirs = next(m for m in known if "localize" in m.stages and m.stages["localize"].name == begins)
    ratio = _fitting(with_it[0], preset) / _fitting(theirs, preset)
    plan = make_plan(owner.name, preset, {"localize.name": localizer})
    return Candidate(owner.name, {"localize.name": localizer, **_exponents(plan, ratio)})


def _fitting(method: Method, preset: str) -> float:
    """The exponent of the background that fits the maps of a method's localizer."""
    settings = make_plan(method.name, preset).settings
    if "refine.background.alpha" not in settings:
        raise UserError(f"method {method.name} does not say which exponent of the background fits its score maps")
    return float(settings["refine.background.alpha"])


def _exponents(plan: Plan, ratio: float) -> dict[str, float]:
    """The exponents of the background of a plan's refiner times `ratio`, each within its setting's range."""
    values = {}
    for planned in plan.steps:
        if planned.stage == "refine":
            for each in settings_of(planned.step.settings):
                if each.key in _EXPONENTS and each.low is not None and each.high is not None and ratio != 1:
                    value = ratio * getattr(planned.settings, each.key)
                    values[f"{planned.key}.{each.key}"] = round(min(max(value, each.low), each.high), 6)
    return values
