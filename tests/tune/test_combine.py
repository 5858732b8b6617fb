"""Every localizer with every refiner: which combinations there are, with which settings, and what comes of them."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import empty_store
from grid_examples import data
from test_grid_page import DEV, TRAIN, drawn
from typer.testing import CliRunner

from tune.combine import LOCALIZER, REFINER, plan_combinations
from tune.combine_command import best_of
from tune.grid_figure import as_figure
from wsss import methods
from wsss.cli import app
from wsss.errors import UserError
from wsss.run.plan import make_plan
from wsss.tracking.query import runs

pytestmark = pytest.mark.usefixtures("surroundings")
_FIXTURES = (data,)

FAST = {
    "localize.train.epochs": "1",
    "localize.train.crop": "33",
    "refine.crf.iterations": "0",
    "segment.train.epochs": "1",
    "segment.train.crop": "33",
}


def planned(data: Path, *chosen: str, **options):
    grid = plan_combinations(chosen or ("all",), "demo", str(data), **options)
    return grid, {tuple(cell.values.values()): cell.candidate for cell in grid.cells}


def test_each_localizer_meets_each_refiner_once(data: Path) -> None:
    grid, cells = planned(data, rngs=(0, 1))
    stages = {kind: {m.stages[kind].name for m in map(methods.load, methods.names()) if kind in m.stages}
              for kind in ("localize", "refine")}  # fmt: skip
    assert set(grid.axes[LOCALIZER]) == stages["localize"]
    background_and_crf = {"cam", "dcsm", "mcis"}
    assert set(grid.axes[REFINER]) == stages["refine"] - background_and_crf - {"imported"} | {"cam"}
    assert len(cells) == len(grid.axes[LOCALIZER]) * len(grid.axes[REFINER]) == len(grid.cells)
    assert grid.until == "refine" and grid.metrics == (DEV, TRAIN) and not grid.left_out and grid.rngs == (0, 1)


def test_what_is_a_method_of_its_own_is_run_as_that_method(data: Path) -> None:
    _, cells = planned(data)
    for name in filter(lambda name: name not in ("bound", "imported"), methods.names()):
        assert name in {candidate.method for candidate in cells.values() if not candidate.settings}
    for (localizer, refiner), candidate in cells.items():
        plan = make_plan(candidate.method, "demo", candidate.settings)
        assert {p.implementation for p in plan.steps if p.stage == "localize"} == {localizer}
        assert refiner == "cam" or {p.implementation for p in plan.steps if p.stage == "refine"} == {refiner}


def test_exponents_follow_from_those_that_fit_each_localizers_maps(data: Path) -> None:
    """(1 - M)^a = (1 - M')^a' at an object's edge: what fits one localizer's maps is a constant times what fits the
    other's, whatever the refiner.
    """
    _, cells = planned(data)
    fits = {name: make_plan(name, "demo").settings["refine.background.alpha"] for name in ("cam", "dcsm", "wildcat")}
    own = make_plan("affinity", "demo").settings
    for localizer in ("dcsm", "wildcat"):
        candidate = cells[localizer, "affinity"]
        settings = make_plan(candidate.method, "demo", candidate.settings).settings
        for key in ("refine.labels.alpha_low", "refine.labels.alpha_high", "refine.walk.alpha"):
            expected = min(max(own[key] * fits[localizer] / fits["cam"], 0.05), 256)
            assert settings[key] == pytest.approx(expected, abs=1e-5)
    assert set(cells["wildcat", "affinity"].settings) == {"localize.name"}, "its maps fit as CAM's do"


def test_methods_can_be_chosen_and_settings_hold_where_they_are_known(data: Path) -> None:
    _, cells = planned(data, "cam", "affinity", "dcsm", fixed={"refine.walk.beta": "4"})
    assert set(cells) == {(a, b) for a in ("cam", "dcsm") for b in ("cam", "affinity")}
    assert {pair for pair, candidate in cells.items() if "refine.walk.beta" in candidate.settings} == {
        ("cam", "affinity"), ("dcsm", "affinity")
    }  # fmt: skip


def test_what_can_not_be_is_left_out_and_named_or_refused(data: Path) -> None:
    grid, cells = planned(data, "cam", "affinity", fixed={"refine.labels.alpha_low": "200"})
    assert set(cells) == {("cam", "cam")} and "cam with affinity: refine.labels.alpha_low = 200" in grid.left_out[0]
    with pytest.raises(UserError, match="no combination can be"):
        planned(data, "bound")
    with pytest.raises(UserError, match=r"no combination has a setting refine\.walk\.bata"):
        planned(data, fixed={"refine.walk.bata": "4", "refine.walk.beta": "4"})
    with pytest.raises(UserError, match="unknown method 'best'"):
        planned(data, "best")


def test_two_keys_of_names_are_a_heat_map_alone() -> None:
    grid, rows = drawn({LOCALIZER: ["cam", "dcsm"], REFINER: ["cam", "affinity", "ial"]}, lambda cell: 0.5)
    texts = [text.strip() for text in ElementTree.fromstring(as_figure(grid, rows)).itertext() if text.strip()]
    assert {LOCALIZER, REFINER, "ial", "± 1.0"} <= set(texts) and "refiner ial" not in texts


def test_one_without_a_figure_is_never_the_best() -> None:
    grid, rows = drawn({LOCALIZER: ["a", "b"]}, lambda cell: 0.1 if cell.values[LOCALIZER] == "b" else None)
    assert best_of(grid, rows).values[LOCALIZER] == "b"


def test_from_one_command_to_a_heat_map_with_intervals_and_a_row_of_the_best(
    data: Path, template, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = data.parent.parent
    empty_store(template, folder / "mlflow.db")
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith(("WSSS_STORE", "MLFLOW_TRACKING", "MLFLOW_RUN"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WSSS_CORES", "1")
    line = ["results", "--data", "little", "--preset", "demo"]
    sets = [part for key, value in FAST.items() for part in ("--set", f"{key}={value}")]
    refused = CliRunner().invoke(app, [*line, "--combine", "--offline", "out"])
    assert isinstance(refused.exception, UserError) and "--offline can't stand beside it" in str(refused.exception)
    done = CliRunner().invoke(app, [*line, "--combine", "--run", "cam,wildcat", *sets, "--to", "page.md"])
    assert not done.exception, done.output
    [table] = Path("work/search").glob("combinations-demo-little-*.csv")
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [(row[LOCALIZER], row[REFINER]) for row in rows] == [("cam", "cam"), ("wildcat", "cam")]
    for row in rows:
        assert float(row[f"{DEV}/low"]) <= float(row[DEV]) <= float(row[f"{DEV}/high"])
    best = max(rows, key=lambda row: float(row[DEV]))
    assert f"best of 2 on dev: {best[LOCALIZER]} with cam" in done.output
    ElementTree.fromstring(table.with_suffix(".svg").read_text(encoding="utf-8"))
    [whole] = [run for run in runs() if "val/pred_crf/miou" in run.metrics]
    assert whole.method == best["method"]
    page = Path("page.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith(("| cam ", "| wildcat "))]
    assert len(lines) == 3 and all("(best of 2 combinations on dev)" in each for each in lines), (
        "figures, runs, seconds"
    )
    again = CliRunner().invoke(app, [*line, "--combine", "--run", "cam,wildcat", *sets])
    assert not again.exception and len(runs()) == 3, "what is there is not run again"
