"""What the runs of a grid gave: a row for each combination, with mean and deviation over rngs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from tune.grid import Cell, Grid
from tune.grid_run import GridRun
from wsss.scores import metric_names


@dataclass(frozen=True)
class Row:
    """A combination with what its runs gave.

    Attributes:
        cell: which.
        rngs: of the runs that ended well.
        runs: their ids.
        values: those of each metric, in the order of `rngs`.
    """

    cell: Cell
    rngs: tuple[int, ...]
    runs: tuple[str, ...]
    values: Mapping[str, tuple[float, ...]]

    def mean(self, metric: str) -> float:
        """NaN where no run has it."""
        return mean(self.values[metric]) if self.values[metric] else math.nan

    def deviation(self, metric: str) -> float:
        """The sample's standard deviation over rngs; NaN with fewer than two."""
        return stdev(self.values[metric]) if len(self.values[metric]) > 1 else math.nan

    def text(self, metric: str) -> str:
        """Such as "61.3 ± 0.4", in percent where it is a mean IoU."""
        if math.isnan(self.mean(metric)):
            return "-"
        scale, digits = (100, 1) if is_miou(metric) else (1, 4)
        deviation = "" if math.isnan(self.deviation(metric)) else f" ± {scale * self.deviation(metric):.{digits}f}"
        return f"{scale * self.mean(metric):.{digits}f}{deviation}"


def rows_of(grid: Grid, all_runs: Sequence[GridRun]) -> list[Row]:
    """A row for each combination, in the grid's order."""
    rows = []
    for cell in grid.cells:
        own = [each for each in all_runs if each.cell is cell and each.run]
        values = {
            metric: tuple(each.metrics[metric] for each in own if metric in each.metrics) for metric in grid.metrics
        }
        rows.append(Row(cell, tuple(each.rng for each in own), tuple(each.run for each in own), values))
    return rows


def label(metric: str) -> str:
    """A metric for people: "dev/labels_crf mIoU"; what is of train is marked as analysis."""
    text = metric.removesuffix(f"/{metric_names.MIOU}") + (" mIoU" if is_miou(metric) else "")
    return f"{text} (analysis)" if metric.startswith("train/") and is_miou(metric) else text


def key_value(cell: Cell, key: str) -> Any:
    """A cell's value of a key of the grid, as one of `Grid.varied`."""
    value = cell.values[key]
    return tuple(value) if isinstance(value, list) else value


def shown(value: Any) -> str:
    """A value for people."""
    if isinstance(value, list | tuple):
        return ",".join(map(shown, value))
    if isinstance(value, bool) or not isinstance(value, float):
        return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return f"{value:g}"


def is_miou(metric: str) -> bool:
    """Whether a metric is a mean IoU, which people read in percent."""
    return metric.endswith(f"/{metric_names.MIOU}")
