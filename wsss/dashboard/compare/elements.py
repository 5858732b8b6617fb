"""What the sections of a comparison are made of: names of runs, headings, tables, figures as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wsss.dashboard.compare.nodes import Child, Node, el
from wsss.tracking import names
from wsss.tracking.query import RunRecord

Link = Callable[..., str | None]
"""From runs and what else an address says (split, what, sort, confused) to where their images are; None for nowhere."""

MINUS = "−"


@dataclass(frozen=True)
class Names:
    """What runs are called where several stand beside each other.

    Attributes:
        short: "A affinity" and so on, with the letters that the page Masks has.
        more: what tells them apart: preset, dataset, rng, backbone, or else the id.
    """

    short: tuple[str, ...]
    more: tuple[str, ...]

    @classmethod
    def of(cls, runs: Sequence[RunRecord]) -> Names:
        """The names of runs in the order in which they were chosen."""
        said = [(run.preset, run.dataset, f"rng {run.rng}", run.tags.get(names.BACKBONE, "")) for run in runs]
        differ = [place for place in range(4) if len({each[place] for each in said}) > 1]
        more = [", ".join(each[place] for place in differ if each[place]) for each in said]
        full = [(run.method, text) for run, text in zip(runs, more, strict=True)]
        more = [
            text if full.count((run.method, text)) == 1 else f"{text} {run.id[:8]}".strip()
            for run, text in zip(runs, more, strict=True)
        ]
        letters = (chr(ord("A") + place) for place in range(len(runs)))
        return cls(tuple(f"{letter} {run.method}" for letter, run in zip(letters, runs, strict=True)), tuple(more))

    def head(self, place: int, **attributes: object) -> Node:
        """The head of a run's column."""
        return el("th", self.short[place], el("small", self.more[place]), scope="col", **attributes)

    @property
    def texts(self) -> list[str]:
        """One line for each."""
        return [f"{short}, {more}" if more else short for short, more in zip(self.short, self.more, strict=True)]


def section(key: str, title: str, *body: Child | Sequence[Child], note: str = "", copied: bool = True) -> Node:
    """A section with its heading, and a button that copies what it shows as data."""
    button = el("button", "Copy as data", type="button", data_copy=True, aria_label=f"Copy as data: {title}")
    return el(
        "section",
        el("h2", title, button if copied else None),
        el("p", note, class_="quiet") if note else None,
        *body,
        id=f"section-{key}",
    )


def table(head: Node, rows: Sequence[Node], kind: str, grid: bool = False) -> Node:
    """A table in a box of its own, which scrolls where there is no room; in a grid, arrow keys go from link to link."""
    body = el("table", el("thead", head), el("tbody", rows), class_=kind, data_grid=grid)
    return el("div", body, class_="scroll", tabindex=0, role="group", aria_label="table")


def linked(text: str, href: str | None, label: str) -> Node | str:
    """A text that leads somewhere, or the text alone."""
    return el("a", text, href=href, title=label) if href else text


def percent(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f}" if math.isfinite(value) else "–"


def points(value: float) -> str:
    """A difference of shares in points, with its sign, as wide for less as for more."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", MINUS)


def span(low: float, high: float) -> str:
    """An interval of shares in percent."""
    return f"{100 * low:.1f} to {100 * high:.1f}"
