"""What came of a grid: as data, as a page and as a vector figure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from tune.grid import Grid
from tune.grid_axes import METHOD
from tune.grid_figure import as_figure
from tune.grid_run import GridRun
from tune.page import page, paragraph, picture, table
from wsss.commands import command
from wsss.errors import UserError
from wsss.storage import inside, write_bytes
from wsss.tables.ablation import Row, is_miou, label, shown
from wsss.tables.render import Column, Table, as_csv, as_text


def write_pages(grid: Grid, rows: Sequence[Row], all_runs: Sequence[GridRun], folder: Path) -> list[Path]:
    """Write NAME.csv, NAME.json, NAME.html and, where a figure can be drawn, NAME.svg.

    Raises:
        UserError: the folder has a grid of that name that is another.
    """
    svg = as_figure(grid, rows)
    contents = {"csv": csv_of(grid, rows), "json": json_of(grid, rows, all_runs), "html": html_of(grid, rows, svg)}
    if svg:
        contents["svg"] = svg
    check_name(grid, folder)
    paths = []
    for kind, text in contents.items():
        paths.append(inside(folder, f"{grid.name}.{kind}"))
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        write_bytes(paths[-1], text.encode())
    return paths


def check_name(grid: Grid, folder: Path) -> None:
    """Refuse a name that another grid has.

    Raises:
        UserError: it has.
    """
    path = inside(folder, f"{grid.name}.json")
    try:
        before = json.loads(path.read_text(encoding="utf-8")).get("grid")
    except (OSError, ValueError, AttributeError):
        return
    if before != json.loads(json.dumps(grid.content)):
        raise UserError(f"{path} is of another grid or search; choose another --name, or leave it away")


def csv_of(grid: Grid, rows: Sequence[Row]) -> str:
    """A line for each combination: its values, then mean, deviation and, where they are known, the ends of the interval
    of each metric in [0, 1], rngs and run ids.
    """
    keys = [key for key in grid.axes if key != METHOD]
    ends = ("/low", "/high") if any(row.intervals for row in rows) else ()
    figures = [f"{metric}{ending}" for metric in grid.metrics for ending in ("", "/deviation", *ends)]
    lines = [
        [
            cell.candidate.method,
            *(shown(row.settings[key]) for key in keys),
            *(
                _rounded(value)
                for metric in grid.metrics
                for value in (
                    row.mean(metric),
                    row.deviation(metric),
                    *(row.intervals.get(metric, (math.nan, math.nan)) if ends else ()),
                )
            ),
            " ".join(map(str, row.rngs)),
            " ".join(row.runs),
        ]
        for cell, row in zip(grid.cells, rows, strict=True)
    ]
    return as_csv([METHOD, *keys, *figures, "rngs", "runs"], lines) + "\n"


def json_of(grid: Grid, rows: Sequence[Row], all_runs: Sequence[GridRun]) -> str:
    """The same as JSON, with every rng's value, what failed and what was left out."""
    content = {
        "name": grid.name,
        "metrics": grid.metrics,
        "rows": [
            {
                "method": cell.candidate.method,
                "settings": dict(cell.candidate.settings),
                "rngs": row.rngs,
                "runs": row.runs,
                "metrics": {
                    metric: {
                        "mean": _rounded(row.mean(metric)),
                        "deviation": _rounded(row.deviation(metric)),
                        "values": row.values[metric],
                        "interval": row.intervals.get(metric),
                    }
                    for metric in grid.metrics
                },
            }
            for cell, row in zip(grid.cells, rows, strict=True)
        ],
        "failed": [
            {
                "method": each.cell.candidate.method,
                "settings": dict(each.cell.candidate.settings),
                "rng": each.rng,
                "error": each.error,
            }
            for each in all_runs
            if each.error
        ],
        "left_out": grid.left_out,
        "grid": grid.content,
    }
    return json.dumps(content, indent=1) + "\n"


def html_of(grid: Grid, rows: Sequence[Row], svg: str) -> str:
    """The page: figure, table, what was left out, and where the runs are."""
    search = grid.search
    heads, cells = _table(grid, rows)
    fixed = f", {', '.join(f'{key}={value}' for key, value in search.fixed.items())}" if search.fixed else ""
    parts = [
        paragraph(f"Dataset {search.data}, preset {search.preset}{fixed}, rngs {', '.join(map(str, grid.rngs))}."),
        paragraph(_note(grid, any(row.intervals for row in rows)), note=True),
        picture(svg) if svg else "",
        paragraph("More than two keys vary: the table has it all.", note=True) if len(grid.varied) > 2 else "",
        table([*heads, "runs"], [[*line, " ".join(row.runs)] for line, row in zip(cells, rows, strict=True)]),
        *(paragraph(f"Left out: {why}.", note=True) for why in grid.left_out),
    ]
    return page(grid.name, *filter(None, parts))


def text_of(grid: Grid, rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    heads, cells = _table(grid, rows)
    short = {key: key.rpartition(".")[2] for key in grid.axes}
    if len(set(short.values())) == len(short):
        heads = [short.get(head, head) for head in heads]
    columns = tuple(Column(head, right=head in map(label, grid.metrics)) for head in heads)
    return as_text([Table("", columns, cells)], _note(grid, any(row.intervals for row in rows)))


def results_command(grid: Grid) -> str:
    """The command that shows whole runs as a page, val among them."""
    return command("wsss", "results", "--data", grid.search.data, "--preset", grid.search.preset)


def _table(grid: Grid, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    heads = [*grid.axes, "rngs", *map(label, grid.metrics)]
    cells = [
        [
            *(shown(row.settings[key]) for key in grid.axes),
            " ".join(map(str, row.rngs)) or "-",
            *(row.text(metric) for metric in grid.metrics),
        ]
        for row in rows
    ]
    return heads, cells


def _note(grid: Grid, intervals: bool) -> str:
    parts = ["In percent." if any(map(is_miou, grid.metrics)) else ""]
    parts.append("± is the deviation over rngs." if len(grid.rngs) > 1 else "")
    parts.append("In brackets 95 % bootstrap intervals over images." if intervals else "")
    if any(metric.startswith("train/") for metric in grid.metrics):
        parts.append("Choose by dev; train is analysis: networks learned from its images.")
    return " ".join(filter(None, parts))


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
