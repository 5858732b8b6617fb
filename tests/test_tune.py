"""A search on a Ray cluster whose workers know nothing but what the search gives them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sqlite3
import sys
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from ray.cluster_utils import Cluster

from tune.__main__ import main
from tune.parent import TRIAL
from tune.progress import Progress
from tune.runner import run_search
from tune.search import plan_search
from wsss.cli.runs import parse_settings
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.process import machine
from wsss.tracking import names
from wsss.tracking.liveness import mark_dead_runs, process_tags
from wsss.tracking.query import runs, search

FAST = {"localize.train.epochs": "1", "localize.train.crop": "33"}
KEYS = ("refine.background.alpha", "refine.crf.bilateral_weight")
SECRET = "hidden-in-no-file"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a cluster of two cores, started without the variables that runs need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        for name in list(os.environ):
            if name.startswith(("WSSS_", "MLFLOW_TRACKING", "MLFLOW_EXPERIMENT", "AWS_")):
                patch.delenv(name)
        machine = Cluster(True, head_node_args={"num_cpus": 2, "object_store_memory": 100 * 2**20})
        yield machine.address
        machine.shutdown()


@pytest.fixture(scope="module")
def workspace(cluster, template, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("workspace")
        shutil.copy(template, folder / "runs.db")
        with sqlite3.connect(folder / "runs.db") as database:
            database.execute("UPDATE experiments SET artifact_location = ?", (f"{folder}/mlruns/0",))
        patch.chdir(folder)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/runs.db")
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "birds")
        patch.setenv("WSSS_STORE", str(folder / "elsewhere"))
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        make_shapes(folder / "data" / "little", images=16, val_images=2, size=40, classes=2)
        shutil.copytree(folder / "data" / "little", folder / "data" / "unmasked")
        for mask in (folder / "data" / "unmasked").glob("SegmentationClass*/*.png"):
            mask.unlink()
        yield folder


@pytest.fixture
def parent(workspace):
    """The newest search's run."""
    return lambda: next(search(MlflowClient(), f"tags.`{names.KIND}` = '{names.SEARCH_RUN}'"))


def test_equal_searches_have_equal_names(workspace):
    one, same = (plan_search("cam", "demo", "little", trials=2, fixed=FAST) for _ in range(2))
    assert one.name == same.name != plan_search("cam", "demo", "little", trials=2).name


def test_a_search_is_limited_continued_under_its_run_reused_and_found_again(workspace, cluster, parent):
    plan = plan_search("cam", "demo", "little", trials=2, keys=KEYS, fixed=FAST)
    for _ in range(2):  # the second one is restored, and has a limit as well
        with pytest.raises(UserError, match=r"no trial of the search finished: 0\.01 seconds were not enough.*goes on"):
            run_search(plan, ray_address=cluster, max_seconds=0.01)
        assert parent().info.status == "FAILED" and runs() == []
    before = parent().info.run_id

    result = run_search(plan, ray_address=cluster)
    assert result.trials == 2 and result.failed == 0 and set(result.settings) == set(KEYS)
    assert result.search_run == before == parent().info.run_id

    trials = {record.id: record for record in runs()}
    assert len(trials) == 2 and result.run in trials
    assert {record.tags[names.MLFLOW_PARENT] for record in trials.values()} == {before}
    assert all(TRIAL in record.tags for record in trials.values())
    settings = [{key: json.loads(record.params[key]) for key in KEYS} for record in trials.values()]
    assert plan.first == {"refine.background.alpha": 6.0, "refine.crf.bilateral_weight": 10.0} == settings[-1]
    values = [record.metrics["dev/labels_crf/miou"] for record in trials.values()]
    assert result.value == pytest.approx(max(values))
    assert {key: json.loads(trials[result.run].params[key]) for key in KEYS} == result.settings

    client = MlflowClient()
    experiments = {client.get_run(run_id).info.experiment_id for run_id in (*trials, before)}
    assert [client.get_experiment(experiment).name for experiment in experiments] == ["birds"]
    assert parent().info.status == "FINISHED" and parent().data.tags[names.PID] == str(os.getpid())
    assert parent().data.metrics["dev/labels_crf/miou"] == pytest.approx(result.value)

    store = workspace / "elsewhere"  # where WSSS_STORE says: the workers were told
    assert len(list((store / "localize.cam.train").iterdir())) == 1
    assert len(list((store / "refine.cam.crf").iterdir())) == 2
    assert not list(store.glob("segment*")) and not (workspace / ".dvc").exists()
    written = [path for path in (workspace / "work").rglob("*") if path.is_file()]
    assert written and not any(SECRET.encode() in path.read_bytes() for path in written)

    words = shlex.split(result.command)
    assert parse_settings(words[words.index("--set") + 1 :: 2]) == {
        **FAST,
        **{key: str(value) for key, value in result.settings.items()},
    }
    assert run_search(plan) == result
    assert {record.id for record in runs()} == set(trials)


def test_a_dataset_without_masks_is_searched_by_what_its_runs_give(workspace, cluster):
    plan = plan_search("cam", "demo", "unmasked", trials=1, fixed=FAST, objective="dev/tags/map")
    assert plan.objective.until == "localize"
    result = run_search(plan, ray_address=cluster)
    assert 0 <= result.value <= 1 and result.settings == plan.first and set(result.settings) == {"localize.train.lr"}


def test_the_command_refuses_an_objective_that_the_data_cannot_give(workspace, monkeypatch, capsys):
    # As `mlflow run -e search` calls it: what isn't given is empty.
    arguments = ["--method", "cam", "--data", "unmasked", "--trials", "2", "--rng", "0"]
    monkeypatch.setattr(sys, "argv", ["tune", *arguments, "--objective", "", "--keys", "", "--set", ""])
    assert main() == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1
    assert "no masks for its split dev" in printed.err and "train/loss, dev/tags/map" in printed.err


def test_an_interrupted_search_says_so_and_is_marked_killed(workspace, cluster, parent, monkeypatch):
    """Ray ends in order without an error, also with no trial finished and no time limit."""
    plan = plan_search("cam", "demo", "little", trials=3, keys=KEYS, fixed=FAST)
    monkeypatch.setattr(Progress, "on_step_begin", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run_search(plan, ray_address=cluster)
    assert parent().info.status == "KILLED"


def test_what_no_machine_has_is_refused_before_the_first_trial(workspace, cluster, parent, monkeypatch):
    plan = plan_search("cam", "demo", "little", trials=4, fixed=FAST, device="cuda")
    with pytest.raises(UserError, match=r"no machine has a GPU .* 1 machine \(2 cores, 0 GPUs\)"):
        run_search(plan, ray_address=cluster)
    assert parent().info.status == "FAILED"


def test_a_search_whose_process_is_gone_is_marked_by_the_next_command(workspace):
    gone = psutil.Popen([sys.executable, "-c", ""])
    gone.wait()
    client = MlflowClient()
    tags = {names.KIND: names.SEARCH_RUN, **process_tags(), names.PROCESS: f"{machine()}-{gone.pid}-1"}
    dead = client.create_run("0", tags=tags).info.run_id
    alive = client.create_run("0", tags=tags | process_tags()).info.run_id
    assert mark_dead_runs(client) == [dead]
    assert [client.get_run(run).info.status for run in (dead, alive)] == ["FAILED", "RUNNING"]
    client.set_terminated(alive)


def test_two_processes_do_not_run_one_search(workspace, parent):
    plan = plan_search("cam", "demo", "little", trials=5, keys=KEYS, fixed=FAST)
    run = MlflowClient().create_run("0", tags={names.KIND: names.SEARCH_RUN, **process_tags()})
    note = Path("work", "search", plan.name, "mlflow_run")
    note.parent.mkdir(parents=True)
    note.write_text(run.info.run_id)
    with pytest.raises(UserError, match=f"is being run by process {os.getpid()} on .*; wait until it ends"):
        run_search(plan)
    assert MlflowClient().get_run(run.info.run_id).info.status == "RUNNING"
