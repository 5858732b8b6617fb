"""Grids as they are run: interrupted and gone on with, their rows, page and figure, steps that fail."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from conftest import empty_store
from grid_examples import DEV, FAST, TRAIN, data, main_status
from mlflow import MlflowClient
from ray_examples import started

import tune.grid_run
from tune.__main__ import main
from tune.budget import Budget
from tune.grid import plan_grid
from tune.grid_rows import rows_of
from tune.grid_run import run_grid
from tune.shared import ComputedStep
from wsss.tables import ablation
from wsss.tables.groups import same_but_for_rng
from wsss.tracking import names
from wsss.tracking.query import runs

_FIXTURES = (data,)
pytestmark = pytest.mark.usefixtures("surroundings")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a cluster of one core."""
    with started(tmp_path_factory.mktemp("home"), 1) as address:
        yield address


@pytest.fixture(scope="module")
def ran(data: Path, template, cluster):
    """A grid of four runs that was interrupted before the third was written, and then run again."""
    folder = data.parent.parent
    with pytest.MonkeyPatch.context() as patch:
        empty_store(template, folder / "mlflow.db")
        patch.chdir(folder)
        for name in [name for name in os.environ if name.startswith(("WSSS_STORE", "MLFLOW_TRACKING", "MLFLOW_RUN"))]:
            patch.delenv(name)
        patch.setenv("RAY_ADDRESS", cluster)
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


def test_a_name_of_another_grid_is_refused(ran, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    grid, *_ = ran
    shutil.copy(f"work/search/{grid.name}.json", "work/search/mine.json")
    monkeypatch.setattr(sys, "argv", ["tune", "--grid=rng=0,1", "--data=little", "--name=mine"])
    assert main() == 2 and "choose another --name" in capsys.readouterr().err


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

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
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
