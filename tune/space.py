"""What is searched: the settings of a plan that say how they are searched, perhaps narrowed by a file."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tune.measure import parts
from tune.objective import Objective
from wsss.errors import UserError, unknown
from wsss.run.plan import Plan, PlannedStep
from wsss.settings import Search, Setting, choice, parse, settings_of


@dataclass(frozen=True)
class Narrowing:
    """What a space file says.

    Attributes:
        searched: setting to its values, or to (lowest, highest).
        fixed: setting to the text of its value.
    """

    searched: Mapping[str, tuple[Any, ...] | tuple[float, float]]
    fixed: Mapping[str, str]
    ranges: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> Narrowing:
        """Read a JSON file: {"refine.walk.beta": [2, 4, 8], "localize.train.lr": {"low": 0.001, "high": 0.1}, ...}.

        A list is a choice, an object a range, anything else a value that every trial has.

        Raises:
            UserError: it can't be read, or a range is empty or inverted.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"the space in {path} can't be read: {error}") from None
        if not isinstance(content, dict):
            raise UserError(f"the space in {path} is no JSON object of settings")
        searched: dict[str, Any] = {}
        fixed: dict[str, str] = {}
        ranges = set()
        for key, value in content.items():
            if isinstance(value, dict):
                low: Any = value.get("low")
                high: Any = value.get("high")
                if set(value) != {"low", "high"} or not _is_number(low) or not _is_number(high) or low >= high:
                    raise UserError(
                        f"{path}: {key} is {json.dumps(value)}; a range is "
                        '{"low": NUMBER, "high": NUMBER}, the first below the second'
                    )
                searched[key] = low, high
                ranges.add(key)
            elif isinstance(value, list):
                if not value:
                    raise UserError(f"{path}: {key} is an empty list; a choice has at least one value")
                searched[key] = tuple(value)
            else:
                fixed[key] = value if isinstance(value, str) else json.dumps(value)
        return cls(searched, fixed, frozenset(ranges))


def search_space(
    plan: Plan,
    objective: Objective,
    keys: Collection[str] = (),
    fixed: Collection[str] = (),
    narrowing: Narrowing | None = None,
    *,
    alone: bool = True,
) -> Mapping[str, Search]:
    """The settings to search, and how, by key; the plan's own values lie in it, where no file narrows it.

    A setting that cannot move the objective is not in it: only the steps that the objective needs are. Values that a
    step refuses beside the plan's others are left out of a choice.

    Args:
        plan: the method with its preset.
        objective: what is made good.
        keys: which: settings, steps or stages ("refine.walk.beta", "refine.walk", "refine"); by default the settings of
            the objective's stage, so that what comes before is computed once and reused by every trial.
        fixed: settings that were given a value.
        narrowing: of a file; its settings are searched beside those of `keys`, or alone where there are no keys.
        alone: whether this is the only method; of several, some lack some of the keys.

    Raises:
        UserError: a key that nothing searchable belongs to (names what is), or nothing to search.
    """
    head, tail = parts(plan, objective)
    steps = {planned.key: planned for planned in (*head, *tail)}
    settings = {
        f"{key}.{setting.key}": (planned, setting)
        for key, planned in steps.items()
        for setting in settings_of(planned.step.settings)
    }
    known = {
        name: space
        for name, (planned, setting) in settings.items()
        if name not in fixed and (space := _space(planned, setting)) is not None
    }
    narrowed = dict(narrowing.searched) if narrowing else {}
    chosen: dict[str, Search] = {}
    for key in keys or ([] if narrowed else [objective.until]):
        spaces = {name: search for name, search in known.items() if f"{name}.".startswith(f"{key}.")}
        if not spaces and alone and known:
            raise unknown("searchable setting", key, known)
        chosen |= spaces
    for name, values in narrowed.items():
        if name in settings:
            assert narrowing is not None
            chosen[name] = _narrowed(name, *settings[name], values, name in narrowing.ranges)
        elif alone:
            raise unknown("setting that the objective depends on:", name, settings)
    if not chosen and alone:
        raise UserError(
            f"there is nothing to search up to stage {objective.until} of method {plan.method.name}: every searchable "
            "setting is set; take some --set away, or name another --objective"
        )
    return chosen


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _narrowed(name: str, planned: PlannedStep, setting: Setting, values: Any, is_range: bool) -> Search:
    """A setting's space as a file says it.

    Raises:
        UserError: a value that is not allowed.
    """
    prefix = f"{planned.key}."
    for value in values:
        parse(planned.step.settings, {setting.key: value}, prefix)
    if not is_range:
        return choice(*(getattr(parse(planned.step.settings, {setting.key: v}, prefix), setting.key) for v in values))
    own = setting.space(getattr(planned.settings, setting.key))
    kind = "int" if setting.type is int else own.kind if own and own.kind == "loguniform" else "uniform"
    return Search(kind, *values)


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
