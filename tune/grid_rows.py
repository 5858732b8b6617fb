"""What the runs of a grid gave: a row for each combination, with mean, deviation over rngs and interval over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tune.grid import Grid
from tune.grid_run import GridRun
from wsss.data import open_dataset
from wsss.tables.ablation import Row, is_miou
from wsss.tables.percent import percent
from wsss.tracking.query import evaluation, runs


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


def with_intervals(grid: Grid, rows: Sequence[Row]) -> list[Row]:
    """The rows with the bootstrap intervals over images of their mean IoUs, from the logged matrices."""
    dataset = open_dataset(grid.search.data)
    classes = None if dataset.has_background else [*dataset.classes.indices]
    records = {run.id: run for run in runs(dataset.name)}
    told = []
    for row in rows:
        intervals = {}
        for metric in filter(is_miou, grid.metrics):
            found = [e for run in row.runs if (e := evaluation(records[run], *metric.split("/")[:2])) is not None]
            if found:
                figure = percent([e.matrices for e in found], classes, found[0].groups)
                intervals[metric] = (figure.low / 100, figure.high / 100)
        told.append(replace(row, intervals=intervals))
    return told
