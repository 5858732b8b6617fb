"""What a stack does under load and when its parts fail: work finishes, and no logged result is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from stack_examples import call, researcher, surroundings

from benchmarks.stack_logging import log_from
from infra.stack.layout import Layout
from infra.stack.processes import Started, session
from wsss import storage

_FIXTURES = (researcher,)
WRITER = """
import sys
import time
from pathlib import Path
from wsss.git import GitState
from wsss.tracking.info import DatasetInfo, RunInfo
from wsss.tracking.runs import method_run
data = DatasetInfo("random", "", "0" * 64, {"train": 1})
info = RunInfo("cam", "demo", data, {}, frozenset(), 0, sys.argv[1] * 64, "0" * 64, GitState(None, False), "wsss run")
with method_run(info) as run:
    print(run.id, flush=True)
    for step in range(40):
        run.metrics({"train/loss": float(step)}, step)
        time.sleep(float(Path("pause").read_text()))
"""
"""A run that logs forty losses, as slowly as the file `pause` says."""


def losses(client, run: str) -> list[float]:
    return [each.value for each in client.get_metric_history(run, "train/loss")]


def test_eight_writers_lose_no_run_and_double_none(stack, researcher):
    log_from(stack, 8, 2, "load")
    (experiment,) = researcher.search_experiments(filter_string="name = 'logging'")
    runs = researcher.search_runs([experiment.experiment_id], "tags.fingerprint LIKE 'load-%'", max_results=1000)
    assert Counter(run.data.tags["fingerprint"] for run in runs).most_common(1)[0][1] == 1
    assert len(runs) == 16 and {run.info.status for run in runs} == {"FINISHED"}
    assert all(run.data.metrics["train/loss"] == 4 and "val/pred/miou" in run.data.metrics for run in runs)
    artifacts = {each.path for each in researcher.list_artifacts(runs[0].info.run_id)}
    assert {"confusion", "settings.json"} <= artifacts
    assert not list((stack.folder / "scratch").rglob("mlruns"))


@pytest.fixture
def writer(stack, tmp_path):
    """A run that goes on, with its id and the folder that it works in."""
    (tmp_path / "pause").write_text("0.25")
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, "a"],
        cwd=tmp_path,
        env=surroundings(stack, "researcher"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    run = process.stdout.readline().strip()
    yield process, run, tmp_path
    process.kill()
    process.communicate()


def ends(writer, client, stack) -> None:
    """The run ends, and all forty losses are in MLflow once, at the latest after the next run."""
    process, run, folder = writer
    (folder / "pause").write_text("0")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0 and "Traceback" not in said
    if len(losses(client, run)) < 40:
        words = [sys.executable, "-c", WRITER, "b"]
        subprocess.run(words, cwd=folder, env=surroundings(stack, "researcher"), check=True, capture_output=True)
    assert losses(client, run) == list(map(float, range(40)))
    assert client.get_run(run).info.status == "FINISHED"
    assert not {"mlflow.db", "mlruns"} & {path.name for path in folder.iterdir()}


def test_a_database_that_is_restarted_costs_no_logged_result(stack, writer, researcher):
    assert call(stack.folder, "stop", "postgres").returncode == 0
    time.sleep(1)
    assert call(stack.folder, "start", "postgres").returncode == 0
    ends(writer, researcher, stack)


def refuse_for(stack: Layout, seconds: float) -> None:
    """Have the objects' server answer nothing for a while."""
    pid = Started(stack, "objects").pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(seconds, os.kill, (pid, signal.SIGCONT)).start()


@pytest.mark.parametrize("seconds", [3, pytest.param(30, marks=pytest.mark.soak)])
def test_a_store_that_answers_nothing_for_a_while_is_waited_for(stack, researcher, seconds):
    refuse_for(stack, seconds)
    began = time.monotonic()
    assert storage.write_bytes("s3://wsss-store/steps/a/b", b"1", if_absent=True) is True
    assert time.monotonic() - began > seconds - 1
    assert storage.read_bytes("s3://wsss-store/steps/a/b") == b"1"
    storage.remove("s3://wsss-store/steps/a")


def test_labels_go_to_the_bucket_and_come_back(stack, tmp_path):
    def run(*words: str) -> None:
        done = subprocess.run(
            words, cwd=tmp_path, env=surroundings(stack, "researcher"), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    dvc = [sys.executable, "-m", "dvc"]
    run("git", "init", "--quiet")
    run(*dvc, "init", "--quiet")
    run(*dvc, "remote", "add", "--default", "team", "s3://wsss-store/dvc")
    (tmp_path / "labels").mkdir()
    for number in range(3):
        (tmp_path / f"labels/{number}.tar").write_bytes(bytes([number]) * 100_000)
    run(*dvc, "add", "--quiet", "labels")
    run(*dvc, "push", "--quiet")
    for folder in ("labels", ".dvc/cache"):
        subprocess.run(["rm", "-r", str(tmp_path / folder)], check=True)
    run(*dvc, "pull", "--quiet")
    assert [(tmp_path / f"labels/{n}.tar").read_bytes()[:1] for n in range(3)] == [b"\0", b"\1", b"\2"]


@pytest.mark.soak
def test_a_tracking_server_that_is_killed_costs_no_logged_result(stack, writer, researcher):
    leader = Started(stack, "mlflow").pid
    assert leader
    for pid in session(leader):
        os.kill(pid, signal.SIGKILL)
    told = call(stack.folder, "status")
    assert told.returncode == 1 and re.search(r"mlflow +died", told.stdout)
    assert call(stack.folder, "start", "mlflow").returncode == 0
    ends(writer, researcher, stack)


@pytest.mark.soak
def test_a_hundred_runs_of_eight_writers_are_all_there_once(stack, researcher):
    log_from(stack, 8, 13, "hundred")
    runs = researcher.search_runs(
        [each.experiment_id for each in researcher.search_experiments()],
        "tags.fingerprint LIKE 'hundred-%'",
        max_results=1000,
    )
    assert len(runs) == len({run.data.tags["fingerprint"] for run in runs}) == 104
    assert {run.info.status for run in runs} == {"FINISHED"}
