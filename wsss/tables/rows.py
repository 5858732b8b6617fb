"""The rows of a results page: which, in which order they are shown, and in which they are worth running."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import wsss.methods as methods
from wsss.errors import UserError
from wsss.run.plan import stands_alone
from wsss.tables.catalogue import catalogue, roles

_ROLES = {"floor": 0, "bound": 2}


@dataclass(frozen=True)
class Entry:
    """A method with what differs from its preset: a row to be measured."""

    method: str
    overrides: Mapping[str, str]

    @property
    def name(self) -> str:
        """The method and its own settings, such as "mcis localize.train.extra=more"."""
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.overrides.items())])


def entries(wanted: Sequence[str], also: Sequence[str]) -> list[Entry]:
    """The rows of a page: the floor first, the bound last.

    Args:
        wanted: names of methods; "all" is every method that runs with nothing added.
        also: rows with settings of their own, such as "mcis localize.train.extra=more".

    Raises:
        UserError: no method, or a setting without "=".
    """
    rows = [Entry(name, {}) for name in (filter(stands_alone, methods.names()) if list(wanted) == ["all"] else wanted)]
    for text in also:
        method, *pairs = text.split() or [""]
        if not method or "=" in method or any("=" not in pair for pair in pairs):
            raise UserError(f"{text!r} is not METHOD KEY=VALUE ..., such as 'mcis localize.train.extra=more'")
        rows.append(Entry(method, dict(pair.split("=", 1) for pair in pairs)))
    return sorted(rows, key=lambda entry: shown_order(entry.method))


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
