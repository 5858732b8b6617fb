"""The rows of a results page: which, with which settings, in which order they are shown and are worth running."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import wsss.methods as methods
from wsss.commands import words
from wsss.data import Dataset
from wsss.errors import UserError
from wsss.interface import STAGES
from wsss.progress import say
from wsss.run.plan import Plan, check_background, make_plan, stands_alone
from wsss.scores import Masks
from wsss.tables.catalogue import catalogue, roles

ALL = "all"
WEIGHTS = "weights"
_ROLES = {"floor": 0, "bound": 2}
_NAMED = 3
"""So many of several faults are spelt out."""


@dataclass(frozen=True)
class Entry:
    """A method with what differs from its preset: a row to be measured."""

    method: str
    overrides: Mapping[str, str]

    @property
    def name(self) -> str:
        """The method and its own settings, such as "mcis localize.train.extra=more"."""
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.overrides.items())])


@dataclass(frozen=True)
class PlannedRow:
    """A row with everything decided but the rng.

    Attributes:
        entry: the row.
        settings: what differs from its preset: what holds for all rows, as far as it has it, and its own.
        plan: its steps.
    """

    entry: Entry
    settings: Mapping[str, str]
    plan: Plan


def methods_of(given: Sequence[str]) -> list[str]:
    """The methods of these names, each once; of "all", every one that runs with nothing added.

    Raises:
        UserError: there is no such method.
    """
    found: dict[str, None] = {}
    for name in given:
        if name == ALL:
            found |= dict.fromkeys(each for each in methods.names() if stands_alone(each))
        else:
            methods.load(name)
            found[name] = None
    return list(found)


def rngs_of(texts: Sequence[str]) -> tuple[int, ...]:
    """Texts as seeds, each once.

    Raises:
        UserError: some are none, or there is none.
    """
    wrong = [text for text in texts if not text.isascii() or not text.isdecimal()]
    if wrong or not texts:
        given = ", ".join(wrong[:_NAMED]) or "''"
        raise UserError(f"rng = {given} is no seed; allowed: whole numbers from 0, such as 0 or 0,1,2")
    return tuple(dict.fromkeys(int(text) for text in texts))


def names_a_stage(key: str) -> bool:
    """Whether a key says which implementation fills a stage, such as "refine.name"."""
    return key in {f"{stage}.name" for stage in STAGES}


def entries(wanted: Sequence[str], also: Sequence[str]) -> list[Entry]:
    """The rows of a page: the floor first, the bound last.

    Args:
        wanted: names of methods; "all" is every method that runs with nothing added.
        also: rows with settings of their own, such as "mcis localize.train.extra=more".

    Raises:
        UserError: no method or an unknown one, or a setting without "=".
    """
    rows = [Entry(name, {}) for name in methods_of(wanted)]
    for text in also:
        method, *pairs = words(text) or [""]
        if not method or "=" in method or any("=" not in pair for pair in pairs):
            raise UserError(f"{text!r} is not METHOD KEY=VALUE ..., such as 'mcis localize.train.extra=more'")
        rows.append(Entry(method, dict(pair.split("=", 1) for pair in pairs)))
    return sorted(rows, key=lambda entry: shown_order(entry.method))


def planned_rows(
    rows: Sequence[Entry], preset: str, overrides: Mapping[str, str], dataset: Dataset
) -> list[PlannedRow]:
    """Decide and check every row before anything runs, in the order that is given.

    A setting of all rows holds for those that have it. A row that learns from masks is left out, and said, where the
    training images have none.

    Args:
        rows: which.
        preset: of all of them.
        overrides: settings of all rows.
        dataset: what they run on.

    Raises:
        UserError: a setting that no row has, values that are not allowed or contradict each other, a row that can't
            be on the dataset, or none that can.
    """
    known = [_known(entry, preset, overrides) for entry in rows]
    everywhere = {key for key in overrides if not any(key in keys for keys in known)}  # refused, with the known ones
    planned, left_out = [], []
    for entry, keys in zip(rows, known, strict=True):
        settings = {key: value for key, value in overrides.items() if key in keys | everywhere} | dict(entry.overrides)
        plan = make_plan(entry.method, preset, settings)
        for step in plan.steps:
            step.check()
        check_background(plan, dataset)
        if "masks" in plan.supervision and not Masks(dataset).ids("train"):
            left_out.append(f"{entry.name} is left out: {dataset.name} has no masks for its training images")
        else:
            planned.append(PlannedRow(entry, settings, plan))
    if not planned:
        raise UserError("; ".join(left_out) or "no method is named; name some with --run, or all")
    for sentence in left_out:
        say(sentence)
    return planned


def _known(entry: Entry, preset: str, overrides: Mapping[str, str]) -> set[str]:
    """The settings that a row has, with the implementations of its stages that are chosen for all rows."""
    has = methods.load(entry.method).stages
    stages = {key: value for key, value in overrides.items() if names_a_stage(key) and key.partition(".")[0] in has}
    own = {key: value for key, value in entry.overrides.items() if names_a_stage(key)}
    return {*make_plan(entry.method, preset, stages | own).settings, WEIGHTS}


def shown_order(method: str) -> tuple[int, str]:
    """What methods are sorted by in tables: the floor, the others by name, the bound."""
    return _ROLES.get(roles().get(method, ""), 1), method


def by_worth(rows: Sequence[Entry]) -> list[Entry]:
    """The rows in the order in which they are worth running where time is short.

    The floor comes first, since nothing is read without it; then the oldest method that goes on from the floor's own
    score maps, whose first steps are done by then and which the later ones were measured against; then the bound, which
    says how far there is to go; then the others, those that go on from the floor's score maps first, older ones first.
    """
    facts = {row["method"]: row for row in catalogue()}
    floors = {row["stages"].get("localize") for row in facts.values() if row["role"] == "floor"}
    followers = [name for name, row in facts.items() if not row["role"] and row["stages"].get("localize") in floors]
    first = min(followers, key=lambda name: facts[name]["year"], default=None)

    def worth(entry: Entry) -> tuple[int, bool, int, str]:
        row = facts[entry.method]
        place = 1 if entry.method == first else {"floor": 0, "bound": 2}.get(row["role"], 3)
        return place, entry.method not in followers, row["year"], entry.name

    return sorted(rows, key=worth)
