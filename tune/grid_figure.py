"""The figure of a grid: curves of one or two keys, and a heat map of two; of names the heat map alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tune.grid import Grid
from tune.page import as_svg, drawing
from wsss.tables.ablation import Row, is_miou, label, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SPREAD = 8
"""Numbers whose largest is so many times the smallest lie on a logarithmic axis."""


def as_figure(grid: Grid, rows: Sequence[Row]) -> str:
    """Curves of one or two keys, and a heat map of two, for each metric; SVG, or "" where there is nothing to draw.

    Two keys whose values are names give the heat map alone.
    """
    varied = grid.varied
    metrics = [metric for metric in grid.metrics if any(row.values[metric] for row in rows)]
    if not metrics or not 1 <= len(varied) <= 2:
        return ""
    with drawing():
        from matplotlib.figure import Figure

        named = len(varied) == 2 and all(isinstance(value, str) for values in varied.values() for value in values)
        lines = 1 if named else len(varied)
        figure = Figure(figsize=((5.6 if named else 4.6) * len(metrics), 3.3 * lines), layout="constrained")
        axes = figure.subplots(lines, len(metrics), squeeze=False)
        for column, metric in enumerate(metrics):
            if not named:
                _curves(axes[0][column], varied, rows, metric)
            if len(varied) == 2:
                _heat_map(figure, axes[-1][column], varied, rows, metric)
                if named:
                    axes[-1][column].set_title(label(metric))
        return as_svg(figure)


def _curves(axes: Axes, varied: Mapping[str, list[Any]], rows: Sequence[Row], metric: str) -> None:
    (along, xs), *other = varied.items()
    places = _places(axes, along, xs)
    scale = 100 if is_miou(metric) else 1
    for value in other[0][1] if other else [None]:
        own = [
            row
            for row in rows
            if row.values[metric] and row.setting(along) in places and (not other or row.setting(other[0][0]) == value)
        ]
        own.sort(key=lambda row: places[row.setting(along)])
        axes.errorbar(
            [places[row.setting(along)] for row in own],
            [scale * row.mean(metric) for row in own],
            yerr=[0 if math.isnan(row.deviation(metric)) else scale * row.deviation(metric) for row in own],
            label=f"{_short(other[0][0])} {shown(value)}" if other else None,
            marker="o",
            markersize=4,
            capsize=3,
            linestyle="-" if all(_is_number(x) for x in xs) else "",
        )
    axes.set_title(label(metric))
    axes.set_ylabel("%" if scale == 100 else "")
    axes.grid(alpha=0.3)
    if other:
        axes.legend(fontsize=8)


def _heat_map(figure: Figure, axes: Axes, varied: Mapping[str, list[Any]], rows: Sequence[Row], metric: str) -> None:
    (across, xs), (down, ys) = varied.items()
    scale = 100 if is_miou(metric) else 1
    of_cell = {(row.setting(down), row.setting(across)): row for row in rows}
    cells = [[of_cell.get((y, x)) for x in xs] for y in ys]
    means = [[scale * cell.mean(metric) if cell else math.nan for cell in line] for line in cells]
    image = axes.pcolormesh(means, cmap="viridis", edgecolors="white", linewidth=0.5)
    known = [value for line in means for value in line if not math.isnan(value)]
    middle = (min(known) + max(known)) / 2
    for i, line in enumerate(cells):
        for j, cell in enumerate(line):
            if cell and cell.values[metric]:
                colour = "black" if means[i][j] > middle else "white"
                axes.text(
                    j + 0.5,
                    i + 0.5,
                    cell.text(metric).replace(" ± ", "\n± ").replace(" [", "\n["),
                    ha="center",
                    va="center",
                    color=colour,
                    fontsize=8 if cell.intervals else None,
                )
    axes.set_xticks([j + 0.5 for j in range(len(xs))], [shown(x) for x in xs])
    axes.set_yticks([i + 0.5 for i in range(len(ys))], [shown(y) for y in ys])
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    figure.colorbar(image, ax=axes)


def _places(axes: Axes, key: str, xs: Sequence[Any]) -> dict[Any, float]:
    """Where each value lies on the x axis, which is given its ticks."""
    if all(_is_number(x) for x in xs):
        places = {x: float(x) for x in xs}
        if min(xs) > 0 and max(xs) >= _SPREAD * min(xs):
            axes.set_xscale("log")
    else:
        places = {x: float(number) for number, x in enumerate(xs)}
        axes.set_xlim(-0.5, len(xs) - 0.5)
    turned = sum(len(shown(x)) for x in xs) > 48
    axes.set_xticks(list(places.values()), [shown(x) for x in xs], rotation=60 if turned else 0)
    axes.minorticks_off()
    axes.set_xlabel(key)
    return places


def _short(key: str) -> str:
    return key.rpartition(".")[2]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
