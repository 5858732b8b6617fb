"""Grids: comparison tables and ablations, planned, run, interrupted and shown."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import sys
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from conftest import empty_store
from mlflow import MlflowClient

import tune.grid_run
from tune.__main__ import main
from tune.budget import Budget
from tune.grid import Grid, plan_grid
from tune.grid_axes import parse_axes
from tune.grid_rows import rows_of
from tune.grid_run import GridRun, run_grid
from tune.shared import ComputedStep
from wsss import methods
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.run.plan import stands_alone
from wsss.tables import ablation
from wsss.tables.groups import same_but_for_rng
from wsss.tracking import names
from wsss.tracking.query import runs

pytestmark = pytest.mark.usefixtures("surroundings")

FAST = {"localize.train.epochs": "1", "localize.train.crop": "33", "refine.crf.iterations": "0"}
WALK = {"refine.walk.beta": ["2", "4", "8", "16"], "refine.walk.steps": ["16", "64", "256"]}
DEV, TRAIN = "dev/labels_crf/miou", "train/labels_crf/miou"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Scenes of 40 px and two classes."""
    folder = tmp_path_factory.mktemp("grid") / "data" / "little"
    folder.mkdir(parents=True)
    make_shapes(folder, images=16, val_images=2, size=40, classes=2, rng=0)
    return folder


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


@pytest.fixture(scope="module")
def ran(data: Path, template, tmp_path_factory):
    """A grid of four runs that was interrupted before the third was written, and then run again."""
    folder = data.parent.parent
    with pytest.MonkeyPatch.context() as patch:
        empty_store(template, folder / "mlflow.db")
        patch.chdir(folder)
        for name in [name for name in os.environ if name.startswith(("WSSS_STORE", "MLFLOW_TRACKING", "MLFLOW_RUN"))]:
            patch.delenv(name)
        patch.setenv("WSSS_CORES", "1")
        axes = {"refine.background.alpha": ["4", "1"], "rng": ["0", "1"]}
        grid = plan_grid(axes, method="cam", data="little", fixed=FAST)
        written, write = [], tune.grid_run.run_method

        def interrupted(*arguments, **options):
            if len(written) == 2:
                raise KeyboardInterrupt
            written.append(write(*arguments, **options))
            return written[-1]

        patch.setattr(tune.grid_run, "run_method", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_grid(grid, Budget(), quiet=True)
        patch.setattr(tune.grid_run, "run_method", write)
        steps_before = {path: path.stat().st_ino for path in Path("work/store").glob("*/*/manifest.json")}
        options = [f"--fix={key}={value}" for key, value in FAST.items()]
        sets = [f"--grid={key}={','.join(values)}" for key, values in axes.items()]
        patch.setattr(sys, "argv", ["tune", "--method=cam", "--data=little", *options, *sets])
        assert main_status() == 0
        yield grid, [outcome.run_id for outcome in written], steps_before


def test_interrupted_the_same_command_goes_on(ran) -> None:
    grid, before, steps_before = ran
    records = runs()
    assert len(records) == 4 and set(before) < {record.id for record in records}
    assert {record.tags[names.GRID] for record in records} == {grid.name}
    assert {(record.rng, record.params["refine.background.alpha"]) for record in records} == {
        (0, "1.0"), (0, "4.0"), (1, "1.0"), (1, "4.0")
    }  # fmt: skip
    now = {path: path.stat().st_ino for path in Path("work/store").glob("*/*/manifest.json")}
    assert steps_before.items() <= now.items(), "a step that was there was computed again"
    assert len(list(Path("work/store/localize.cam.train").glob("*/manifest.json"))) == 2


def test_its_runs_are_runs_like_any_other(ran) -> None:
    client = MlflowClient()
    assert [[run.rng for run in row] for row in same_but_for_rng(runs())] == [[0, 1], [0, 1]], "what compare shows"
    for record in runs():
        assert "mlflow.parentRunId" not in record.tags and {DEV, TRAIN} <= record.metrics.keys()
        assert "confusion" in {file.path for file in client.list_artifacts(record.id)}


def test_the_data_say_mean_and_deviation_over_rngs(ran) -> None:
    grid, *_ = ran
    rows = list(csv.DictReader(io.StringIO(Path(f"work/search/{grid.name}.csv").read_text())))
    assert [row["refine.background.alpha"] for row in rows] == ["4", "1"]
    content = json.loads(Path(f"work/search/{grid.name}.json").read_text())
    for row, of_json in zip(rows, content["rows"], strict=True):
        values = {}
        for record in runs():
            if float(record.params["refine.background.alpha"]) == float(row["refine.background.alpha"]):
                values[record.rng] = record.metrics[DEV]
        assert of_json["metrics"][DEV]["values"] == [values[0], values[1]]
        assert float(row[DEV]) == pytest.approx(mean(values.values()), abs=1e-6)
        assert float(row[f"{DEV}/deviation"]) == pytest.approx(stdev(values.values()), abs=1e-6)


def test_the_dashboard_finds_the_same_rows_among_all_runs(ran) -> None:
    grid, *_ = ran
    keys = ("refine.background.alpha",)
    [found] = ablation.kinds(runs()).values()
    assert found.telling_keys(DEV) == keys and len(found.bases(keys, DEV)) == 1
    shown = found.bases(keys, DEV)[0].rows(keys, grid.metrics)
    expected = sorted(rows_of(grid, run_grid(grid, Budget())), key=lambda row: row.settings[keys[0]])
    assert [(row.settings, row.rngs, row.runs, row.values) for row in shown] == [
        (row.settings, row.rngs, row.runs, row.values) for row in expected
    ]
    assert [row.text(DEV) for row in shown] == [row.text(DEV) for row in expected]


def test_the_page_and_the_figure_stand_alone(ran) -> None:
    grid, *_ = ran
    page = Path(f"work/search/{grid.name}.html").read_text()
    svg = Path(f"work/search/{grid.name}.svg").read_text()
    ElementTree.fromstring(svg)
    assert "train/labels_crf mIoU (analysis)" in page and "train/labels_crf mIoU (analysis)" in svg
    assert "<svg" in page and not re.search(r'(src|href)="https?:', page)


def test_a_grid_that_is_done_runs_nothing(ran, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, *_ = ran
    monkeypatch.setattr(tune.grid_run, "connected", lambda address: pytest.fail("a cluster was asked for"))
    assert all(each.run for each in run_grid(grid, Budget()))


@pytest.mark.parametrize("more", [["--keys=refine"], ["--resume=x"], ["--warm=x"], ["--hours=1"], ["--seeds=2"]])
def test_options_of_a_search_are_refused_beside_a_grid(more, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["tune", "--grid=rng=0,1", *more])
    assert main() == 2
    assert more[0].partition("=")[0] in capsys.readouterr().err


def test_a_name_of_another_grid_is_refused(ran, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    grid, *_ = ran
    shutil.copy(f"work/search/{grid.name}.json", "work/search/mine.json")
    monkeypatch.setattr(sys, "argv", ["tune", "--grid=rng=0,1", "--data=little", "--name=mine"])
    assert main() == 2 and "choose another --name" in capsys.readouterr().err


def main_status() -> int:
    """What the command ends with."""
    try:
        return main()
    except SystemExit as ended:
        return int(ended.code or 0)


@pytest.fixture
def without_ray(data: Path, store, monkeypatch: pytest.MonkeyPatch):
    """Steps that are done at once, but for those whose key is in the set; the runs that were written."""
    shutil.copytree(data, "data/little")
    failing, written = set(), []

    def compute(around, steps, there, most, *, quiet):
        done = set()
        while True:
            ready = [each for each, step in steps.items() if each not in done and step.inputs <= done]
            for each in ready:
                key = steps[each].planned.key
                if key in failing:
                    yield ComputedStep(each, steps[each].planned, error="CUDA out of memory")
                    del steps[each]
                else:
                    done.add(each)
                    yield ComputedStep(each, steps[each].planned)
            if not ready:
                return

    def write(method, preset, data, **options):
        written.append((method, options["rng"]))
        return SimpleNamespace(run_id=f"run{len(written)}", steps={}, metrics={DEV: 0.5, "dev/pred_crf/miou": 0.5})

    monkeypatch.setattr(tune.grid_run, "connected", lambda address: nullcontext())
    monkeypatch.setattr(tune.grid_run, "machines", lambda: [{"CPU": 1.0}])
    monkeypatch.setattr(tune.grid_run, "compute_steps", compute)
    monkeypatch.setattr(tune.grid_run, "run_method", write)
    return failing, written


def test_a_run_whose_step_fails_is_counted_and_the_others_go_on(without_ray, monkeypatch, capsys) -> None:
    failing, written = without_ray
    failing.add("refine.walk")
    monkeypatch.setattr(
        sys, "argv", ["tune", "--grid=method=cam,affinity", "--grid=rng=0,1", "--data=little", "--name=mine"]
    )
    assert main() == 2
    said = capsys.readouterr()
    assert sorted(written) == [("cam", 0), ("cam", 1)]
    assert "2 of 4 runs of the grid failed" in said.err and "refine.affinity.walk: CUDA out of memory" in said.err
    content = json.loads(Path("work/search/mine.json").read_text())
    assert [(each["method"], each["rng"]) for each in content["failed"]] == [("affinity", 0), ("affinity", 1)]
    assert "wsss results --data little --preset demo" in said.out.replace("\n", " ")


def test_a_driver_without_a_gpu_does_not_leave_steps_to_those_that_have_one(without_ray, monkeypatch, capsys) -> None:
    _, written = without_ray

    @contextmanager
    def looked_at(around, address, there):
        yield replace(around, device="cpu" if around.search.device == "cpu" else "cuda")

    monkeypatch.setattr(tune.grid_run, "looked_at", looked_at)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["tune", "--grid=rng=0,1", "--method=cam", "--data=little"])
    assert main() == 2 and not written
    assert "start the command on a machine with one, or give --device cpu" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--device=cpu"])
    assert not main_status() and len(written) == 2


def test_a_grid_of_failures_alone_writes_nothing(without_ray, monkeypatch, capsys) -> None:
    failing, written = without_ray
    failing.add("localize.train")
    monkeypatch.setattr(sys, "argv", ["tune", "--grid=method=cam,affinity", "--data=little"])
    assert main() == 2
    assert "none of the 2 runs of the grid ended well" in capsys.readouterr().err
    assert not written and not Path("work/search").exists()
