"""Grids: comparison tables and ablations as they are planned, and what is refused before anything runs."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
from grid_examples import DEV, TRAIN, WALK, data

import tune.grid_run
from tune.__main__ import main
from tune.grid import Grid, plan_grid
from tune.grid_axes import parse_axes
from tune.grid_run import GridRun
from wsss import methods
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.run.plan import stands_alone

_FIXTURES = (data,)
pytestmark = pytest.mark.usefixtures("surroundings")


def test_what_needs_a_background_is_found_before_anything_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bare") / "tissue"
    folder.mkdir()
    make_shapes(folder, images=12, val_images=2, size=40, classes=2, rng=0, background=False)
    axes = {"localize.infer.references": ["1", "3"]}
    with pytest.raises(UserError, match="no combination .* has no background: .*saliency says where the background is"):
        plan_grid(axes, method="mcis", data=str(folder), fixed={"refine.background.saliency": str(folder)})
    both = plan_grid({"refine.background.saliency": ["none", str(folder)]}, method="mcis", data=str(folder))
    assert len(both.cells) == 1 and "which has no background" in both.left_out[0]


def planned(data: Path, axes: dict[str, list[str]], **options) -> Grid:
    return plan_grid(axes, **{"data": str(data)} | options)


def test_every_combination_is_run_with_every_rng(data: Path) -> None:
    grid = planned(data, {**WALK, "rng": ["0", "1", "2"]})
    settings = [tuple(cell.candidate.settings.values()) for cell in grid.cells]
    assert settings == [(beta, steps) for beta in (2.0, 4.0, 8.0, 16.0) for steps in (16, 64, 256)]
    assert grid.rngs == (0, 1, 2) and grid.until == "refine"
    assert grid.metrics == (DEV, TRAIN)
    assert planned(data, {**WALK, "rng": ["0", "1", "2"]}).name == grid.name != planned(data, WALK).name


def test_a_comparison_table_is_of_whole_runs_of_all_methods(data: Path) -> None:
    grid = planned(data, {"method": ["all"], "rng": ["0", "1"]})
    assert [cell.candidate.method for cell in grid.cells] == list(filter(stands_alone, methods.names()))
    assert grid.until is None and grid.metrics[0] == "dev/pred_crf/miou"


@pytest.mark.parametrize(
    ("axes", "objective", "until"),
    [
        ({"localize.train.lr": ["0.1", "0.2"]}, None, "refine"),
        ({"localize.train.lr": ["0.1", "0.2"]}, "dev/cam/miou", "localize"),
        ({"segment.train.lr": ["0.1", "0.2"]}, None, None),
        ({"refine.name": ["cam", "affinity"]}, None, "refine"),
        ({"evaluate.cam.threshold": ["none", "0.2"]}, "dev/cam/miou", "localize"),
    ],
)
def test_runs_go_as_far_as_what_is_compared(data: Path, axes, objective, until) -> None:
    grid = planned(data, axes, objective=objective)
    assert grid.until == until and len(grid.cells) == 2


def test_a_setting_that_a_method_lacks_does_not_multiply_its_runs(data: Path) -> None:
    grid = planned(data, {"method": ["cam", "affinity"], "refine.walk.beta": ["2", "4"]})
    assert [(c.candidate.method, c.values["refine.walk.beta"]) for c in grid.cells] == [
        ("cam", None), ("affinity", 2.0), ("affinity", 4.0)
    ]  # fmt: skip


def test_values_that_are_the_same_number_are_one_combination(data: Path) -> None:
    assert len(planned(data, {"refine.walk.beta": ["2", "2.0", "4"]}).cells) == 2
    assert len(planned(data, {"localize.infer.scales": ["[1,2]", "[1]"]}, method="cam").cells) == 2


@pytest.mark.parametrize("text", ["", "refine.walk.beta", "refine.walk.beta=", "=2,4", "rng= , "])
def test_what_is_no_grid_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"is not KEY=VALUE,VALUE"):
        parse_axes([text])


def test_lists_stand_in_brackets() -> None:
    assert parse_axes(["localize.infer.scales=[1,2],[0.5, 1]"]) == {"localize.infer.scales": ("[1,2]", "[0.5, 1]")}


@pytest.mark.parametrize(
    ("axes", "options", "sentence"),
    [
        ({"refine.walk.t": ["2", "4"]}, {}, "unknown setting in refine.walk: 't'; choose from .*beta.*steps"),
        ({"method": ["cam", "best"]}, {}, "unknown method 'best'; choose from affinity"),
        (
            {"method": ["cam", "ial"], "refine.walk.beta": ["2"]},
            {},
            "none of the methods cam, ial has a setting refine.wa",
        ),
        ({"rng": ["0", "-1", "x"]}, {}, "rng = -1, x is no seed"),
        ({"refine.walk.beta": ["0.1", "few", "2", "100", "-4"]}, {}, r"beta = 0.1 is.*allowed: 1 to 64.*and 1 more"),
        (
            {"refine.walk.beta": ["2"]},
            {"fixed": {"refine.walk.beta": "4"}},
            "refine.walk.beta can't be in --grid and fi",
        ),
        ({"refine.walk.beta": ["2", "4"]}, {"objective": "dev/cam/miou"}, "refine.walk.beta can't move dev/cam/miou"),
        ({"refine.walk.beta": ["2", "4"]}, {"objective": "val/pred/miou"}, "looks at val"),
        (
            {"refine.train.lr": ["2", "4"]},
            {"objective": "train/loss"},
            "not train/loss; with --objective it can be .*dev/l",
        ),
        (
            {"refine.labels.alpha_low": ["200"]},
            {},
            "no combination of the grid is one that the steps take: .*alpha_high",
        ),
        ({"rng": ["0", "1"]}, {"preset": "big"}, "unknown preset 'big'|big"),
    ],
)
def test_what_can_not_be_run_is_refused_before_anything_runs(data: Path, axes, options, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        planned(data, axes, **options)


def test_combinations_that_contradict_themselves_are_left_out_and_named(data: Path) -> None:
    grid = planned(data, {"refine.labels.alpha_low": ["1", "20"], "refine.labels.alpha_high": ["8", "32"]})
    assert len(grid.cells) == 3 and "alpha_low = 20.0 is above alpha_high = 8.0" in grid.left_out[0]


def test_what_runs_share_is_one_step_and_comes_first(data: Path) -> None:
    grid = planned(data, {**WALK, "rng": ["0", "1"]})
    all_runs = [GridRun(cell, rng) for rng in grid.rngs for cell in grid.cells]
    steps, needs = tune.grid_run._steps(grid, all_runs)
    count = Counter(step.planned.key for step in steps.values())
    assert count["localize.train"] == count["refine.train"] == 2 and count["refine.walk"] == count["refine.crf"] == 24
    assert not any(key.startswith("segment") or key == "evaluate.pred" for key in count)
    assert {step.wanted for step in steps.values() if step.planned.key == "refine.train"} == {12}
    assert all(len(own) == len(set(own)) and set(own) <= steps.keys() for own in needs)


@pytest.mark.parametrize("more", [["--keys=refine"], ["--resume=x"], ["--warm=x"], ["--hours=1"], ["--seeds=2"]])
def test_options_of_a_search_are_refused_beside_a_grid(more, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["tune", "--grid=rng=0,1", *more])
    assert main() == 2
    assert more[0].partition("=")[0] in capsys.readouterr().err
