"""`python -m tune --grid ...`: plan, run, write and show a grid."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from tune.budget import Budget
from tune.grid import Grid, plan_grid
from tune.grid_axes import parse_axes
from tune.grid_page import check_name, results_command, text_of, write_pages
from tune.grid_rows import rows_of, with_intervals
from tune.grid_run import run_grid
from wsss.errors import UserError
from wsss.run.method import WORK
from wsss.tables.ablation import Row


def grid_command(
    texts: Sequence[str],
    *,
    method: str,
    preset: str,
    data: str,
    rng: int,
    objective: str,
    fixed: Mapping[str, str],
    device: str,
    name: str,
    budget: Budget,
    ray_address: str | None,
    quiet: bool,
    idle: Mapping[str, object],
) -> None:
    """Run a grid, or go on with it, and write what came of it below work/search.

    Args:
        texts: each "KEY=VALUE,VALUE".
        method, preset, data, rng, objective, fixed, device, name: see `plan_grid`.
        budget: the cores and GPUs of a step.
        ray_address, quiet: see `run_grid`.
        idle: options that mean nothing beside a grid, by name; what was given of them is refused.

    Raises:
        UserError: see `plan_grid` and `run_grid`; or runs failed, after the others and the pages were written.
    """
    if given := [option for option, value in idle.items() if value]:
        raise UserError(f"--grid tries every combination, so {', '.join(given)} can't stand beside it; leave it away")
    grid = plan_grid(
        parse_axes(texts),
        method=method,
        preset=preset,
        data=data,
        rng=rng,
        objective=objective or None,
        fixed=fixed,
        device=device,
        name=name,
    )
    carry_out(grid, budget, ray_address=ray_address, quiet=quiet)


def carry_out(
    grid: Grid, budget: Budget, *, ray_address: str | None = None, quiet: bool = False, intervals: bool = False
) -> list[Row]:
    """Run what is missing of a grid, write its pages below work/search, and show its table.

    Args:
        grid, budget, ray_address, quiet: see `run_grid`.
        intervals: with bootstrap intervals over images.

    Returns:
        The rows.

    Raises:
        UserError: see `run_grid`; or runs failed, after the others and the pages were written.
    """
    folder = WORK / "search"
    check_name(grid, folder)
    if not quiet:
        what = "whole runs" if grid.until is None else f"runs up to stage {grid.until}"
        print(f"grid {grid.name}: {len(grid.cells) * len(grid.rngs)} {what}", flush=True)
        for why in grid.left_out:
            print(f"left out: {why}", flush=True)
    all_runs = run_grid(grid, budget, ray_address=ray_address, quiet=quiet)
    failed = [each for each in all_runs if each.error]
    if len(failed) == len(all_runs):
        raise UserError(f"none of the {len(failed)} runs of the grid ended well: {failed[0].error}")
    rows = rows_of(grid, all_runs)
    if intervals:
        rows = with_intervals(grid, rows)
    paths = write_pages(grid, rows, all_runs, folder)
    print(f"\n{text_of(grid, rows)}\n\n{', '.join(os.fspath(path) for path in paths)}")
    if grid.until is None:
        print(f"Whole runs with their figures on val:\n  {results_command(grid)}")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(all_runs)} runs of the grid failed, the first with: {failed[0].error}; "
            "the same command tries them again"
        )
    return rows
