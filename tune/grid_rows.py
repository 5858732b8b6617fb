"""What the runs of a grid gave: a row for each combination, with mean and deviation over rngs."""

from __future__ import annotations

from collections.abc import Sequence

from tune.grid import Grid
from tune.grid_run import GridRun
from wsss.tables.ablation import Row


def rows_of(grid: Grid, all_runs: Sequence[GridRun]) -> list[Row]:
    """A row for each combination, in the grid's order."""
    rows = []
    for cell in grid.cells:
        own = [each for each in all_runs if each.cell is cell and each.run]
        values = {
            metric: tuple(each.metrics[metric] for each in own if metric in each.metrics) for metric in grid.metrics
        }
        rows.append(Row(cell.values, tuple(each.rng for each in own), tuple(each.run for each in own), values))
    return rows
