"""The table of methods: runs that differ in the rng alone make a row, with the published numbers beside it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from wsss.scores import metric_names
from wsss.scores.scored import SCORED, reported
from wsss.tables.groups import same_but_for_rng
from wsss.tables.published import Published, published
from wsss.tracking import names
from wsss.tracking.query import RunRecord

COLUMNS = tuple((split, what) for split, what in reported() if split == SCORED[what].reported[-1])
"""Split and what is scored."""

PUBLISHED_ON = "val"
_HEADS = (
    "method", "preset", "dataset", "supervision", "backbone", "rngs", *(f"{what} ({split})" for split, what in COLUMNS),
    f"published, VOC 2012 {PUBLISHED_ON}",
)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """The mean of a mIoU over rngs, in [0, 1].

    Attributes:
        mean: over the rngs.
        deviation: the sample's standard deviation; None of a single rng.
        rngs: how many.
    """

    mean: float
    deviation: float | None
    rngs: int


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but the rng.

    Attributes:
        method, preset, dataset, supervision, backbone: of all of them; supervision says what was seen beyond tags.
        group: what they have in common.
        rngs: their seeds.
        runs: their ids; of several runs with one rng the newest.
        figures: "<split>/<what>" to its mIoU; what was not measured is absent.
        published: results of the same method by others, on VOC 2012 val.
    """

    method: str
    preset: str
    dataset: str
    supervision: str
    backbone: str
    group: str
    rngs: tuple[int, ...]
    runs: tuple[str, ...]
    figures: dict[str, Figure]
    published: tuple[Published, ...]


def table(records: Iterable[RunRecord]) -> list[Row]:
    """The rows, by dataset, preset and method; the trials of a search are left out."""
    rows = [_row(group) for group in same_but_for_rng(records)]
    return sorted(rows, key=lambda row: (row.dataset, row.preset, row.method, row.group))


def _row(records: Sequence[RunRecord]) -> Row:
    newest = max(records, key=lambda record: record.start)
    figures = {}
    for split, what in COLUMNS:
        key = metric_names.metric(split, what, metric_names.MIOU)
        if values := [record.metrics[key] for record in records if key in record.metrics]:
            deviation = statistics.stdev(values) if len(values) > 1 else None
            figures[f"{split}/{what}"] = Figure(statistics.fmean(values), deviation, len(values))
    return Row(
        newest.method,
        newest.preset,
        newest.dataset,
        ", ".join(sorted(newest.supervision)),
        newest.tags.get(names.BACKBONE, ""),
        newest.group,
        tuple(record.rng for record in records),
        tuple(record.id for record in records),
        figures,
        tuple(p for p in published() if p.method == newest.method and p.split == PUBLISHED_ON),
    )


def render_json(rows: Sequence[Row]) -> str:
    """The rows as a JSON list, everything in them."""
    return json.dumps([asdict(row) for row in rows], indent=1)


def render_markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, mIoU in percent."""
    lines = [_HEADS, ["---"] * len(_HEADS), *map(_cells, rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def render_text(rows: Sequence[Row], width: int | None = None) -> str:
    """The rows for a terminal, mIoU in percent; `width` in columns, the terminal's by default."""
    table = Table(caption="mIoU in percent, mean ± deviation over rngs")
    for head in _HEADS:
        table.add_column(head, justify="right" if head.endswith(")") or head == "rngs" else "left")
    for row in rows:
        table.add_row(*_cells(row))
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()


def _cells(row: Row) -> list[str]:
    others = "; ".join(
        f"{p.miou:.1f} {p.title} ({p.source})" if p.source else f"{p.miou:.1f} {p.title}" for p in row.published
    )
    measured = [_figure(row.figures.get(f"{split}/{what}"), len(row.rngs)) for split, what in COLUMNS]
    supervision = row.supervision or "tags"
    return [
        row.method,
        row.preset,
        row.dataset,
        supervision,
        row.backbone or "-",
        str(len(row.rngs)),
        *measured,
        others or "-",
    ]


def _figure(figure: Figure | None, rngs: int) -> str:
    if figure is None:
        return "-"
    text = f"{100 * figure.mean:.1f}"
    if figure.deviation is not None:
        text += f" ± {100 * figure.deviation:.1f}"
    return text if figure.rngs == rngs else f"{text} (of {figure.rngs})"
