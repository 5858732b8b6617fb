"""What is searched: the settings of a plan that say how they are searched."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ray import tune

from wsss.errors import UserError, unknown
from wsss.interface import STAGES
from wsss.run.plan import Plan, PlannedStep
from wsss.settings import Search, Setting, choice, settings_of


def domain(search: Search) -> Any:
    """Ray's word for how a setting is drawn."""
    if search.kind == "choice":
        return tune.choice(list(search.values))
    if search.kind == "int":
        return tune.randint(int(search.low), int(search.high) + 1)
    return {"uniform": tune.uniform, "loguniform": tune.loguniform}[search.kind](search.low, search.high)


def search_space(
    plan: Plan, until: str, keys: Collection[str] = (), fixed: Collection[str] = ()
) -> Mapping[str, Search]:
    """The settings to search, and how, by key; the plan's own values lie in it.

    Values that a step refuses beside the plan's others are left out of a choice.

    Args:
        plan: the method with its preset.
        until: the last stage that is run.
        keys: which: settings, steps or stages ("refine.walk.beta", "refine.walk", "refine"); by default the settings of
            the last stage, so that what comes before is computed once and reused by every trial.
        fixed: settings that were given a value.

    Raises:
        UserError: a key that nothing searchable belongs to (names what is), or nothing to search.
    """
    known = {
        f"{planned.key}.{setting.key}": space
        for planned in plan.steps
        if planned.stage in STAGES[: STAGES.index(until) + 1]
        for setting in settings_of(planned.step.settings)
        if f"{planned.key}.{setting.key}" not in fixed and (space := _space(planned, setting)) is not None
    }
    if not known:
        raise UserError(
            f"there is nothing to search up to stage {until} of method {plan.method.name}: every searchable setting is "
            "set; take some --set away, or name another --objective"
        )
    chosen: dict[str, Search] = {}
    for key in keys or [until]:
        spaces = {name: search for name, search in known.items() if f"{name}.".startswith(f"{key}.")}
        if not spaces:
            raise unknown("searchable setting", key, known)
        chosen |= spaces
    return chosen


def _space(planned: PlannedStep, setting: Setting) -> Search | None:
    space = setting.space(getattr(planned.settings, setting.key))
    if space is None or space.kind != "choice":
        return space
    values = [value for value in space.values if _takes(planned, setting.key, value)]
    return choice(*values) if len(values) > 1 else None


def _takes(planned: PlannedStep, name: str, value: Any) -> bool:
    try:
        planned.step.check(replace(planned.settings, **{name: value}))
    except UserError:
        return False
    return True
