"""The table at the head of the README, from the figures of docs/results.md."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from wsss.errors import UserError
from wsss.tables.catalogue import catalogue
from wsss.tables.render import as_markdown

RESULTS = Path("docs", "results.md")
SHAPES, PHOTOGRAPHS = "The built-in shapes", "Real photographs"
ALL_CLASSES, CHOSEN_CLASSES, RUNS = "mIoU in percent over all", "Over background,", "The runs:"
LABELS, PREDICTIONS = "labels_crf (train)", "pred_crf (val)"
HEAD = ("method", "year", "sees", "shapes: labels", "predictions", "photographs: labels", "predictions", "commits")

Rows = Mapping[str, Mapping[str, str]]
"""Method, as a row names it, to its cells by column."""


def leaderboard(page: str) -> str:
    """The Markdown table: a row for each method with its defaults, in the page's order; mIoU in percent.

    Args:
        page: the Markdown of docs/results.md: on the shapes all classes count, on photographs the chosen ones.

    Raises:
        UserError: the page lacks a table, or a table a column.
    """
    shapes, shapes_runs = _rows(page, SHAPES, ALL_CLASSES), _rows(page, SHAPES, RUNS)
    photographs, photographs_runs = _rows(page, PHOTOGRAPHS, CHOSEN_CLASSES), _rows(page, PHOTOGRAPHS, RUNS)
    described = {row["method"]: row for row in catalogue()}
    lines = []
    for method in [name for name in shapes if name in described]:
        commits = dict.fromkeys(runs[method]["commit"] for runs in (shapes_runs, photographs_runs) if method in runs)
        figures = [
            _mean(rows.get(method, {}), what) for rows in (shapes, photographs) for what in (LABELS, PREDICTIONS)
        ]
        title, year = described[method]["title"], str(described[method]["year"])
        sees = shapes[method]["supervision"]
        lines.append([f"[{title}](docs/methods/{method}.md)", year, sees, *figures, ", ".join(commits)])
    return as_markdown(HEAD, lines) + "\n"


def _mean(row: Mapping[str, str], what: str) -> str:
    """A figure without its interval, which stands on the page."""
    return row.get(what, "-").partition(" [")[0]


def _rows(page: str, section: str, heading: str) -> Rows:
    """The table below a heading in a section of the page."""
    text = next((part for part in re.split(r"^## ", page, flags=re.M) if part.startswith(section)), "")
    found = re.search(rf"^{re.escape(heading)}.*\n\n((?:\|.*\n)+)", text, re.M)
    if found is None:
        raise UserError(f"{RESULTS} has no table {heading!r} in its section {section!r}")
    head, _, *lines = (_cells(line) for line in found[1].splitlines())
    if missing := {"method", *({"commit"} if heading == RUNS else {LABELS, PREDICTIONS, "supervision"})} - set(head):
        raise UserError(f"the table {heading!r} of {RESULTS} has no column {', '.join(sorted(missing))}")
    return {line[0]: dict(zip(head, line, strict=True)) for line in lines}


def _cells(line: str) -> Sequence[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]
