"""The figures and the page of a grid, drawn of rows that need no run."""

from __future__ import annotations

import itertools
import json
import math
from xml.etree import ElementTree

import pytest
from grid_examples import DEV, TRAIN

from tune.grid import Cell, Grid
from tune.grid_figure import as_figure
from tune.grid_page import csv_of, html_of, json_of
from tune.grid_rows import rows_of
from tune.grid_run import GridRun
from tune.search import Candidate, SearchPlan
from wsss.tables.ablation import Row

pytestmark = pytest.mark.usefixtures("surroundings")


def drawn(values: dict[str, list], miou=lambda cell: 0.5, rngs: int = 3) -> tuple[Grid, list[Row]]:
    """A grid of made-up runs over all combinations of values."""
    cells = [
        Cell(
            Candidate("affinity", dict(zip(values, own, strict=True))), dict(zip(values, own, strict=True)), frozenset()
        )
        for own in itertools.product(*values.values())
    ]
    search = SearchPlan((), "demo", "shapes", "", 0, {}, "cpu", given="g<b>$x_1$")
    axes = {key: tuple(map(str, own)) for key, own in values.items()}
    grid = Grid(search, axes, tuple(range(rngs)), tuple(cells), "refine", (DEV, TRAIN))
    made = [
        GridRun(cell, rng, f"run{i}-{rng}", {DEV: miou(cell) + rng / 100, TRAIN: miou(cell)})
        for i, cell in enumerate(cells)
        for rng in range(rngs)
        if miou(cell) is not None
    ]
    return grid, rows_of(grid, made)


def test_two_keys_are_curves_and_a_heat_map_one_key_is_a_curve() -> None:
    grid, rows = drawn({"refine.walk.beta": [2.0, 4.0], "refine.walk.steps": [16, 64]})
    texts = "".join(ElementTree.fromstring(as_figure(grid, rows)).itertext())
    assert "steps 16" in texts and "refine.walk.steps" in texts and "51.0" in texts and "± 1.0" in texts
    grid, rows = drawn({"refine.walk.beta": [2.0, 4.0]})
    assert "± 1.0" not in "".join(ElementTree.fromstring(as_figure(grid, rows)).itertext())


@pytest.mark.parametrize(
    "values",
    [
        {"method": ["a<b>&", "$x^$"]},
        {"refine.walk.background": [True, False], "method": ["cam", "affinity"]},
        {"localize.infer.scales": [[1.0, 2.0], [1.0]], "refine.walk.beta": [2.0, 4.0]},
        {"refine.walk.beta": [0.0, 64.0]},
        {"refine.walk.beta": [None, 64.0, 2.0]},
        {"a": [1, 2], "b": [1, 2], "c": [1, 2]},
        {"a": [1]},
    ],
)
def test_whatever_the_values_are_there_is_a_page(values) -> None:
    grid, rows = drawn(values, lambda cell: 0.4)
    svg = as_figure(grid, rows)
    page = html_of(grid, rows, svg)
    assert bool(svg) == (1 <= len(grid.varied) <= 2) and "<b>" not in page
    assert csv_of(grid, rows) and json.loads(json_of(grid, rows, []))


def test_combinations_without_a_run_are_left_blank() -> None:
    grid, rows = drawn({"a": [1, 2], "b": [1, 2]}, lambda cell: None if cell.values == {"a": 1, "b": 1} else 0.5)
    assert as_figure(grid, rows) and math.isnan(rows[0].mean(DEV))
    assert csv_of(grid, rows).splitlines()[1].startswith("affinity,1,1,,,,,")


def test_equal_grids_give_equal_figures() -> None:
    grid, rows = drawn({"refine.walk.beta": [2.0, 4.0]})
    assert as_figure(grid, rows) == as_figure(grid, rows)
