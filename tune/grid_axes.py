"""What is written after `--grid`: keys with their values, and the plans of their combinations."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

from wsss.data import Dataset
from wsss.errors import UserError
from wsss.run.plan import Plan, check_background, make_plan
from wsss.tables.rows import WEIGHTS, names_a_stage

METHOD, RNG = "method", "rng"
_VALUE = r"(?:\s*\[[^\]]*\]\s*|[^,\[\]]+)"
_NAMED = 3
"""So many of several faults are spelt out."""


def parse_axes(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Texts "key=value,value" as the values of each key; a value that is a list itself stands in brackets.

    Raises:
        UserError: a text that is no such thing, or a key that is given twice.
    """
    axes: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, _, given = (part.strip() for part in text.partition("="))
        values = [value.strip() for value in re.findall(_VALUE, given)]
        if not key or not all(values) or not re.fullmatch(rf"{_VALUE}(,{_VALUE})*", given):
            raise UserError(f"--grid {text!r} is not KEY=VALUE,VALUE, such as refine.walk.beta=2,4,8 or rng=0,1,2")
        if key in axes:
            raise UserError(f"--grid names {key} twice; give all its values at once, such as {key}={values[0]},...")
        axes[key] = tuple(dict.fromkeys(values))
    return axes


def combinations(
    chosen: Sequence[str],
    preset: str,
    settings: Mapping[str, Sequence[str]],
    fixed: Mapping[str, str],
    dataset: Dataset,
) -> tuple[list[tuple[dict[str, str | None], Plan]], list[str]]:
    """The plan of every combination with its values as text, and why others were left out.

    Raises:
        UserError: a setting that no method has, values that are not allowed, or nothing that the steps take
            on the dataset.
    """
    plans: list[tuple[dict[str, str | None], Plan]] = []
    faults: list[str] = []
    left_out: list[str] = []
    lacking: dict[str, set[bool]] = {key: set() for key in (*settings, *fixed)}
    for method, *values in itertools.product(chosen, *settings.values()):
        given = {**fixed, **dict(zip(settings, values, strict=True))}
        stages = {key: text for key, text in given.items() if names_a_stage(key)}
        try:
            known = make_plan(method, preset, stages).settings.keys() | {WEIGHTS}
            own = {key: text for key, text in given.items() if key in known}
            if len(chosen) == 1 and not any(names_a_stage(key) for key in settings):
                own = given
            plan = make_plan(method, preset, own)
        except UserError as error:
            faults.append(str(error))
            continue
        for key in lacking:
            lacking[key].add(key not in own)
        try:
            for planned in plan.steps:
                planned.check()
            check_background(plan, dataset)
        except UserError as error:
            left_out.append(str(error))
            continue
        plans.append(({METHOD: method, **{key: own.get(key) for key in settings}}, plan))
    faults = list(dict.fromkeys(faults))
    for key, lacks in lacking.items():
        if lacks == {True}:
            faults.append(f"none of the methods {', '.join(chosen)} has a setting {key}")
    if faults:
        raise UserError(_joined(faults))
    if not plans:
        raise UserError(f"no combination of the grid is one that the steps take: {_joined(left_out)}")
    return plans, list(dict.fromkeys(left_out))


def _joined(faults: Sequence[str]) -> str:
    """A few faults as one sentence, and how many more there are."""
    several = list(dict.fromkeys(faults))
    more = f"; and {len(several) - _NAMED} more" if len(several) > _NAMED else ""
    return "; ".join(several[:_NAMED]) + more
