"""`wsss results --combine`: run and show every combination, then the best of them to its figures on val."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tune.budget import Budget
from tune.combine import plan_combinations
from tune.grid import Cell, Grid
from tune.grid_command import carry_out
from wsss.data import open_dataset
from wsss.tables.ablation import Row
from wsss.tables.measure import measure
from wsss.tables.rows import Entry
from wsss.tracking import names


def combine(
    chosen: Sequence[str],
    preset: str,
    data: str,
    *,
    rngs: Sequence[int],
    fixed: Mapping[str, str],
    device: str = "auto",
) -> None:
    """Run what is missing of every combination, write its pages below work/search, and run the best on dev whole.

    Args:
        chosen, preset, data, rngs, fixed, device: see `plan_combinations`.

    Raises:
        UserError: see `plan_combinations` and `carry_out`; the best is not run where a combination failed.
    """
    grid = plan_combinations(chosen, preset, data, rngs=rngs, fixed=fixed, device=device)
    best = best_of(grid, carry_out(grid, Budget(), intervals=True))
    entry = Entry(best.candidate.method, {key: str(value) for key, value in best.candidate.settings.items()})
    which = " with ".join(map(str, best.values.values()))
    print(f"best of {len(grid.cells)} on {grid.metrics[0].partition('/')[0]}: {which}", flush=True)
    tags = {names.GRID: grid.name, names.CHOSEN_FROM: str(len(grid.cells))}
    measure(open_dataset(data), preset, rngs, [entry], {}, tags=tags)


def best_of(grid: Grid, rows: Sequence[Row]) -> Cell:
    """The combination whose rngs have the largest mean of what is compared; one without a figure is no choice."""
    means = [row.mean(grid.metrics[0]) for row in rows]
    return max(zip(means, grid.cells, strict=True), key=lambda each: (each[0] == each[0], each[0]))[1]
