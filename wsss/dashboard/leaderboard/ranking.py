"""The leaderboard's columns, and which rows an address means, in which order."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from wsss.dashboard.page import State, listed
from wsss.errors import UserError, unknown
from wsss.scores.scored import SCORED, reported
from wsss.tables.compare import Row

Value = str | float | None
SPLITS = tuple(dict.fromkeys(split for split, _ in reported()))
TAGS = "tags"
"""The supervision of who saw nothing else."""
EVERY = "every"
"""The dataset of an address that means all."""


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard.

    Attributes:
        key: of it, in the grid and in addresses.
        head: above it.
        value: of a row, which it is sorted and filtered by; None for none.
        text: of a row, as it stands there; by default the value's.
        width: in pixels.
        split: whose figures it shows; empty for what is said of the row.
        meaning: for people.
    """

    key: str
    head: str
    value: Callable[[Row], Value]
    text: Callable[[Row], str] | None = None
    width: int = 110
    split: str = ""
    meaning: str = ""

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers."""
        return self.text is not None

    def shown(self, row: Row) -> str:
        """What stands in a row's cell."""
        value = self.value(row)
        if value in (None, ""):
            return "-"
        return self.text(row) if self.text else str(value)


def _figure(split: str, what: str) -> Column:
    key = f"{split}/{what}"

    def value(row: Row) -> Value:
        return 100 * row.figures[key].mean if key in row.figures else None

    def text(row: Row) -> str:
        figure = row.figures[key]
        deviation = "" if figure.deviation is None else f" ± {100 * figure.deviation:.1f}"
        return f"{100 * figure.mean:.1f}{deviation}" + (f" (of {figure.rngs})" if figure.rngs < len(row.rngs) else "")

    return Column(
        key, f"{what} ({split})", value, text, 115, split, f"mIoU in percent on {split}: {SCORED[what].meaning}"
    )


def telling(row: Row, split: str = "") -> str:
    """The most telling figure that a row has, "<split>/<what>": the last of the reported; empty for none."""
    keys = [key for key in _keys(split) if key in row.figures]
    return keys[-1] if keys else ""


def _keys(split: str) -> Iterator[str]:
    """The reported figures, of a split or of all, the most telling one last."""
    return (f"{of}/{what}" for of, what in reported() if split in ("", of))


def _of_bound(row: Row) -> Value:
    ratio = row.of_bound.get(telling(row))
    return None if ratio is None else 100 * ratio


@cache
def columns() -> dict[str, Column]:
    """All columns by key, in their order."""
    every = [
        Column("method", "method", lambda row: row.method, width=140),
        *(_figure(split, what) for split, what in reversed(list(reported()))),
        Column("bound", "% of bound", _of_bound, lambda row: f"{_of_bound(row):.0f}", 100,
               meaning="its last mIoU over that of the same segmenter trained on masks, same preset and backbone"),
        Column("published", "published", _published, lambda row: ", ".join(f"{p.miou:.1f}" for p in row.published), 120,
               meaning="mIoU in percent that others report of this method on VOC 2012 val"),
        Column("dataset", "dataset", lambda row: row.dataset),
        Column("supervision", "supervision", lambda row: row.supervision or TAGS, width=130, meaning="what was seen"),
        Column("rngs", "rngs", lambda row: len(row.rngs), lambda row: str(len(row.rngs)), 80, meaning="how many seeds"),
        Column("seconds", "time, s", lambda row: row.seconds, lambda row: f"{row.seconds:,.0f}", 95,
               meaning="of all its steps, the mean over rngs; what was reused counts with what it took once"),
        Column("memory", "memory, MB", lambda row: row.memory, lambda row: f"{row.memory:,.0f}", 105,
               meaning="the most that a step used"),
        Column("backbone", "backbone", lambda row: row.backbone),
        Column("pretraining", "pretraining", lambda row: row.pretraining, width=125),
        Column("preset", "preset", lambda row: row.preset, width=100),
        Column("status", "status", status, width=110, meaning="of runs that are not finished"),
        Column("newest", "newest run", lambda row: row.newest, width=280, meaning="its id"),
    ]  # fmt: skip
    return {column.key: column for column in every}


def _published(row: Row) -> Value:
    return max((p.miou for p in row.published), default=None)


def status(row: Row) -> str:
    """What is to be said of runs that are not finished; else nothing."""
    return ", ".join(f"{number} {name.lower()}" for name, number in sorted(row.unfinished.items()))


@dataclass(frozen=True)
class View:
    """Which rows, in which order: what an address of the leaderboard says.

    Attributes:
        dataset: its name, or `EVERY`; empty for the one of the newest run.
        split: whose figures are shown; empty for those of train and val.
        methods: those of the rows; empty for all.
        supervision: that of the rows; empty for any.
        sort: key of a column and whether its highest comes first, the most important first; by default the most telling
            figure.
        filters: of the grid, by key of the column, in its own words.
    """

    dataset: str = ""
    split: str = ""
    methods: tuple[str, ...] = ()
    supervision: str = ""
    sort: tuple[tuple[str, bool], ...] = ()
    filters: Mapping[str, Mapping[str, Any]] | None = None

    @classmethod
    def of(cls, state: State) -> View:
        """The view of an address.

        Raises:
            UserError: it names a split or a column that there is not, or its filter can't be read.
        """
        split = state.get("split", "")
        if split and split not in SPLITS:
            raise unknown("split", split, SPLITS)
        sort = []
        for part in listed(state, "sort"):
            key, _, direction = part.rpartition(":")
            if key not in columns() or direction not in ("asc", "desc"):
                raise UserError(f"can't sort by {part!r}; it is COLUMN:asc or COLUMN:desc, of {', '.join(columns())}")
            sort.append((key, direction == "desc"))
        return cls(
            state.get("dataset", ""),
            split,
            tuple(listed(state, "method")),
            state.get("supervision", ""),
            tuple(sort) or ((list(_keys(split))[-1], True),),
            _filters(state.get("filter", "")),
        )

    def columns(self) -> list[Column]:
        """The columns that it shows."""
        splits = ("", self.split) if self.split else ("", "train", "val")
        shown = [column for column in columns().values() if column.split in splits]
        return [column for column in shown if column.key != "dataset" or self.dataset in ("", EVERY)]

    def rows(self, table: Sequence[Row]) -> list[Row]:
        """The rows that it means, in its order; what has no value comes last either way."""
        checks = list(self._checks())
        rows = [row for row in table if all(check(row) for check in checks)]
        for key, highest_first in reversed(self.sort):
            value = columns()[key].value
            known = [row for row in rows if value(row) not in (None, "")]
            known.sort(key=lambda row: _order(value(row)), reverse=highest_first)
            rows = known + [row for row in rows if value(row) in (None, "")]
        return rows

    def _checks(self) -> Iterator[Callable[[Row], bool]]:
        if self.dataset != EVERY:
            yield lambda row: row.dataset == self.dataset
        if self.methods:
            yield lambda row: row.method in self.methods
        if self.supervision:
            yield lambda row: (row.supervision or TAGS) == self.supervision
        for key, condition in (self.filters or {}).items():
            yield _condition(columns()[key], condition)


def _order(value: Value) -> tuple[float, str]:
    return (0.0, value.casefold()) if isinstance(value, str) else (value or 0.0, "")


def _filters(text: str) -> Mapping[str, Mapping[str, Any]]:
    if not text:
        return {}
    try:
        filters = dict(json.loads(text))
        for key, condition in filters.items():
            _condition(columns()[key], condition)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError("the filter in this address can't be read; take it out, and filter anew in the table") from None
    return filters


_TEXT: dict[str, Callable[[str, str], bool]] = {
    "contains": lambda value, said: said in value,
    "notContains": lambda value, said: said not in value,
    "equals": lambda value, said: value == said,
    "notEqual": lambda value, said: value != said,
    "startsWith": str.startswith,
    "endsWith": str.endswith,
}
_NUMBER: dict[str, Callable[[float, float], bool]] = {
    "equals": math.isclose,
    "notEqual": lambda value, said: not math.isclose(value, said),
    "greaterThan": lambda value, said: value > said,
    "greaterThanOrEqual": lambda value, said: value >= said,
    "lessThan": lambda value, said: value < said,
    "lessThanOrEqual": lambda value, said: value <= said,
}
TEXT_FILTERS, NUMBER_FILTERS = tuple(_TEXT), (*_NUMBER, "inRange")


def _condition(column: Column, said: Mapping[str, Any]) -> Callable[[Row], bool]:
    """A condition of the grid, in its words, as a check; a row without a value meets none."""
    kind, to = said["type"], said["filter"]
    if not column.is_number:
        meets, text = _TEXT[kind], str(to).casefold()
        return lambda row: meets(str(column.value(row) or "").casefold(), text)
    low = float(to)
    if kind == "inRange":
        high = float(said["filterTo"])
        return lambda row: (value := column.value(row)) is not None and low <= float(value) <= high
    compares = _NUMBER[kind]
    return lambda row: (value := column.value(row)) is not None and compares(float(value), low)


def choices(table: Iterable[Row], view: View) -> dict[str, list[str]]:
    """What there is to choose from, each sorted: datasets, methods, supervision; what a view names is among them."""
    rows = list(table)
    return {
        "dataset": [*sorted({row.dataset for row in rows} | {view.dataset} - {"", EVERY}), EVERY],
        "method": sorted({row.method for row in rows} | set(view.methods)),
        "supervision": sorted({row.supervision or TAGS for row in rows} | {view.supervision} - {""}),
    }
