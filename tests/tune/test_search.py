"""The search as its user runs it, on a Ray cluster whose workers know nothing but what the search gives them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

import psutil
import pytest
from conftest import empty_store
from mlflow import MlflowClient
from ray_examples import started

from tune import runner
from tune.__main__ import main
from tune.budget import Budget
from tune.ending import Ending
from tune.parent import RUN
from tune.report import say_result
from tune.runner import _Watching, run_search
from tune.search import Candidate, plan_search
from tune.study import COMPLETE, FAILED, RUNNING, Study
from wsss.data import open_dataset
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.process import machine
from wsss.run.method import WORK
from wsss.tracking import names
from wsss.tracking.liveness import mark_dead_runs, process_tags
from wsss.tracking.query import runs, search

FAST = {"localize.train.epochs": "1", "localize.train.crop": "33", "segment.train.epochs": "1"}
KEYS = ("refine.background.alpha", "refine.crf.bilateral_weight")
SECRET = "hidden-in-no-file"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a cluster of two cores, started without the variables that runs need."""
    with started(tmp_path_factory.mktemp("home"), 2) as address:
        yield address


@pytest.fixture(scope="module")
def workspace(cluster, template, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("workspace")
        empty_store(template, folder / "runs.db")
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/runs.db")
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "birds")
        patch.setenv("WSSS_STORE", str(folder / "elsewhere"))
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        make_shapes(folder / "data" / "little", images=20, val_images=2, size=40, classes=2)
        shutil.copytree(folder / "data" / "little", folder / "data" / "unmasked")
        for mask in (folder / "data" / "unmasked").glob("SegmentationClass*/*.png"):
            mask.unlink()
        yield folder


def parent():
    """The newest search's run."""
    return next(search(MlflowClient(), f"tags.`{names.KIND}` = '{names.SEARCH_RUN}'"))


def trials(run_id):
    """The runs of a search's trials, by number."""
    found = search(
        MlflowClient(), f"tags.`{names.KIND}` = '{names.TRIAL_RUN}' and tags.`{names.MLFLOW_PARENT}` = '{run_id}'"
    )
    return {int(run.data.tags[names.TRIAL]): run for run in found}


def test_equal_searches_have_equal_names(workspace):
    one, same = (plan_search("cam", "demo", "little", fixed=FAST) for _ in range(2))
    assert one.name == same.name != plan_search("cam", "demo", "little").name


def test_a_search_is_limited_continued_under_its_run_compared_and_enlarged(workspace, cluster, monkeypatch, capsys):
    plan = plan_search("cam", "demo", "little", keys=KEYS, fixed=FAST)
    for _ in range(2):  # the second one goes on, and has a limit as well
        with pytest.raises(
            UserError, match="no trial of the search finished: 1e-06 hours were not enough; more --hours"
        ):
            run_search(plan, Budget(trials=2, hours=1e-6), ray_address=cluster)
        assert parent().info.status == "FAILED" and runs() == []
    before = parent().info.run_id

    result = run_search(plan, Budget(trials=2), ray_address=cluster)
    assert result.run == before == parent().info.run_id and parent().info.status == "FINISHED" and result.left == 0
    assert [record.state for record in result.records] == [COMPLETE] * 2
    assert result.records[0].candidate.settings == {"refine.background.alpha": 6.0, "refine.crf.bilateral_weight": 10.0}

    of_trials = trials(before)
    assert sorted(of_trials) == [0, 1]
    for record in result.records:
        run = of_trials[record.number]
        assert run.info.status == "FINISHED" and run.data.tags[names.TRIAL_STATE] == COMPLETE
        assert run.data.metrics["dev/labels_crf/miou"] == pytest.approx(record.value)
        assert {key: json.loads(run.data.params[key]) for key in KEYS} == record.candidate.settings
    assert {MlflowClient().get_experiment(r.info.experiment_id).name for r in (*of_trials.values(), parent())} == {
        "birds"
    }

    steps = {fact["key"]: fact["how"] for record in result.records for fact in record.facts["steps"]}
    assert steps["localize.train"] == "reused"  # the trials share it
    store = workspace / "elsewhere"  # where WSSS_STORE says: the workers were told
    assert len(list((store / "localize.cam.train").iterdir())) == 1

    # The whole run of what is taken, and of the preset beside it: val is looked at there alone.
    whole = runs()
    assert result.verdict is not None and parent().data.tags[names.BEST_RUN] == result.verdict.taken.run
    assert result.verdict.taken.run in {record.id for record in whole} and len(whole) == 1 + result.verdict.better
    assert {"dev/pred_crf/miou", "val/pred_crf/miou"} == set(result.verdict.taken.final)
    assert not any("val/" in key for run in of_trials.values() for key in run.data.metrics)

    say_result(result, Budget(trials=2))
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if "--set" in line)
    words = shlex.split(line)
    from wsss.cli.runs import parse_settings

    taken = result.verdict.taken.candidate.settings
    assert parse_settings(words[words.index("--set") + 1 :: 2]) == {**FAST, **{k: str(v) for k, v in taken.items()}}
    assert not (workspace / ".dvc").exists()
    written = [path for path in (workspace / "work").rglob("*") if path.is_file()]
    assert written and not any(SECRET.encode() in path.read_bytes() for path in written)

    more = run_search(plan, Budget(trials=3), ray_address=cluster)
    assert more.run == before and [r.number for r in more.records] == [0, 1, 2]
    assert {n: run.info.run_id for n, run in trials(before).items() if n < 2} == {
        n: run.info.run_id for n, run in of_trials.items()
    }


def test_several_methods_in_one_study_by_quality_and_seconds_with_further_rngs(workspace, cluster):
    plan = plan_search(
        "cam,wildcat", "demo", "little", keys=("refine.crf",), fixed=FAST, objective="dev/labels_crf/miou,seconds"
    )
    result = run_search(plan, Budget(trials=3, seeds=1, top=2), ray_address=cluster, quiet=True)
    assert [record.candidate for record in result.records[:2]] == [part.default for part in plan.methods]
    assert result.verdict is not None and len(result.verdict.best.values) == 2
    assert {run.data.tags[names.METHOD] for run in trials(result.run).values()} == {"cam", "wildcat"}
    assert result.front and all(record.facts["seconds"] > 0 for record in result.front)


def test_a_dataset_without_masks_is_searched_by_what_its_runs_give(workspace, cluster):
    plan = plan_search("cam", "demo", "unmasked", fixed=FAST, objective="dev/tags/map")
    assert plan.methods[0].objective.until == "localize" and list(plan.methods[0].space) == ["localize.train.lr"]
    result = run_search(plan, Budget(trials=1), ray_address=cluster, quiet=True)
    assert result.verdict is not None and 0 <= result.verdict.best.value <= 1 and not result.verdict.better


@pytest.mark.filterwarnings("ignore:Fixed parameter:UserWarning")
def test_a_trial_that_fails_is_counted_and_the_search_goes_on(workspace, cluster):
    plan = plan_search("cam", "demo", "little", keys=("refine.background",), fixed=FAST, rng=5)
    Study(plan, WORK, trials=3).enqueue([Candidate("cam", {"refine.background.alpha": 1e6})])
    result = run_search(plan, Budget(trials=3, retries=1), ray_address=cluster, quiet=True)
    assert [record.state for record in result.records] == [COMPLETE, FAILED, COMPLETE]
    assert "refine.background.alpha" in result.records[1].facts["error"]
    assert {n: run.info.status for n, run in trials(result.run).items()} == {0: "FINISHED", 1: "FAILED", 2: "FINISHED"}


def test_a_process_that_is_lost_between_two_trials_loses_none(workspace, cluster, monkeypatch):
    """As where a machine dies: Ray hands the process of a trial that ended to the next one, and it is no more."""
    plan = plan_search("cam", "demo", "little", keys=("refine.background",), fixed=FAST, rng=6)
    complete, killed = _Watching.on_trial_complete, []

    def kill(self, iteration, trials, trial, **info):
        complete(self, iteration, trials, trial, **info)
        if not killed:
            killed.append(trial.last_result["pid"])
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(_Watching, "on_trial_complete", kill)
    result = run_search(plan, Budget(trials=2, cpus=2), ray_address=cluster, quiet=True)
    assert killed and [record.state for record in result.records] == [COMPLETE] * 2
    assert {n: run.info.status for n, run in trials(result.run).items()} == {0: "FINISHED", 1: "FINISHED"}


def test_where_no_trial_can_begin_the_search_ends_and_says_why(workspace, cluster, monkeypatch):
    plan = plan_search("cam", "demo", "little", keys=("refine.background",), fixed=FAST, rng=7)
    turns = []

    def none_begins(study, *rest):
        turns.append(study.take())
        study.put_back()

    monkeypatch.setattr(runner, "_trials", none_begins)
    with pytest.raises(UserError, match="no trial of the search finished: the processes .* were lost again and again"):
        run_search(plan, Budget(trials=2), ray_address=cluster, quiet=True)
    assert len(turns) == 1


def test_the_command_refuses_an_objective_that_the_data_cannot_give(workspace, monkeypatch, capsys):
    # As `mlflow run -e search` calls it: what isn't given is empty.
    arguments = ["--method", "cam", "--data", "unmasked", "--trials", "2", "--rng", "0"]
    monkeypatch.setattr(sys, "argv", ["tune", *arguments, "--objective", "", "--keys", "", "--set", ""])
    assert main() == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1
    assert "no masks for its split dev" in printed.err and "train/loss, dev/tags/map" in printed.err


def test_an_interrupted_search_keeps_its_trials_and_is_marked_killed(workspace, cluster, monkeypatch):
    """As Ctrl-C does while trials run; they go on when the search does."""
    plan = plan_search("cam", "demo", "little", keys=KEYS, fixed=FAST, rng=1)
    stop = Ending.stop_all

    def pressed(self):
        self._pressed = self._pressed or self._orderly
        return stop(self)

    monkeypatch.setattr(Ending, "stop_all", pressed)
    with pytest.raises(KeyboardInterrupt):
        run_search(plan, Budget(trials=2), ray_address=cluster, quiet=True)
    assert parent().info.status == "KILLED"
    assert all(record.state in (RUNNING, COMPLETE) for record in Study(plan, WORK, trials=2).records)
    monkeypatch.undo()
    result = run_search(plan, Budget(trials=2), ray_address=cluster, quiet=True)
    assert [record.state for record in result.records] == [COMPLETE] * 2 and sorted(trials(result.run)) == [0, 1]


def test_what_no_machine_has_is_refused_before_the_first_trial(workspace, cluster):
    plan = plan_search("cam", "demo", "little", fixed=FAST)
    with pytest.raises(UserError, match=r"asks for 3 cores and 0 GPUs, which no machine has: there is 2 cores, 0 GPUs"):
        run_search(plan, Budget(trials=4, cpus=3), ray_address=cluster)
    with pytest.raises(UserError, match="asks for 1 cores and 1 GPUs"):
        run_search(plan, Budget(trials=4, gpus=1), ray_address=cluster)
    assert parent().info.status == "FAILED" and trials(parent().info.run_id) == {}


def test_a_search_whose_process_is_gone_is_marked_by_the_next_command_with_its_trials(workspace):
    gone = psutil.Popen([sys.executable, "-c", ""])
    gone.wait()
    client = MlflowClient()
    tags = {names.KIND: names.SEARCH_RUN, **process_tags(), names.PROCESS: f"{machine()}-{gone.pid}-1"}
    dead = client.create_run("0", tags=tags).info.run_id
    alive = client.create_run("0", tags=tags | process_tags()).info.run_id
    trial = client.create_run("0", tags={names.KIND: names.TRIAL_RUN, names.MLFLOW_PARENT: dead}).info.run_id
    assert mark_dead_runs(client) == [dead]
    assert [client.get_run(run).info.status for run in (dead, alive, trial)] == ["FAILED", "RUNNING", "FAILED"]
    client.set_terminated(alive)


def test_two_processes_do_not_run_one_search(workspace):
    plan = plan_search("cam", "demo", "little", keys=KEYS, fixed=FAST, rng=2)
    run = MlflowClient().create_run("0", tags={names.KIND: names.SEARCH_RUN, **process_tags()})
    Study(plan, WORK, trials=5).keep(RUN, run.info.run_id)
    with pytest.raises(UserError, match=f"is being run by process {os.getpid()} on .*; wait until it ends"):
        run_search(plan, Budget(trials=5))
    assert MlflowClient().get_run(run.info.run_id).info.status == "RUNNING"
    MlflowClient().set_terminated(run.info.run_id)


def test_no_folder_of_ray_s_stays(workspace):
    assert open_dataset("little").splits["dev"] and not list(Path("work", "search").glob("*/*.pkl"))
