"""Tracking when something goes wrong: killed processes, stores that can't be used, a server that goes away."""

import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import empty_store
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from tracking_examples import CLASSES, INFO, artifact, step

from wsss.errors import UserError
from wsss.git import GitState
from wsss.scores import Evaluation
from wsss.tracking import connection, liveness, names, outbox, query
from wsss.tracking.connection import mlflow_client
from wsss.tracking.liveness import find_interrupted, mark_dead_runs
from wsss.tracking.runs import method_run
from wsss.tracking.unsent import UnsentWrites
from wsss.tracking.writes import Write, batch, merged

FORK = multiprocessing.get_context("fork")


def work_until_killed(fingerprint, started):
    """A process that begins a run, says so, and then works."""
    with method_run(replace(INFO, fingerprint=fingerprint)) as run, run.stage("localize") as stage:
        stage.metrics({"train/loss": 1.0}, 0)
        run.flush()
        started.put((fingerprint, run.id))
        time.sleep(100)


@pytest.fixture(scope="session")
def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="session", autouse=True)
def server(template, tmp_path_factory, free_port):
    """An `mlflow server`, which takes its time to start while the other tests run; artifacts go past it."""
    folder = tmp_path_factory.mktemp("server")
    empty_store(template, folder / "mlflow.db")
    store_uri = f"sqlite:///{folder}/mlflow.db"
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(free_port), "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "--backend-store-uri", store_uri, "--no-serve-artifacts"],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    yield SimpleNamespace(uri=f"http://127.0.0.1:{free_port}", store_uri=store_uri, process=process)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


# A process that is gone


def test_a_killed_process_leaves_a_run_to_continue(tmp_path, monkeypatch):
    """Two processes begin at once, where there is no store yet; one is killed."""
    monkeypatch.chdir(tmp_path)
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(variable, raising=False)
    started = FORK.SimpleQueue()
    workers = [FORK.Process(target=work_until_killed, args=(digit * 64, started)) for digit in "12"]
    try:
        for worker in workers:
            worker.start()
        ids = dict(started.get() for _ in workers)
        first, second = ids["1" * 64], ids["2" * 64]
        store = mlflow_client()
        assert mark_dead_runs(store) == []
        assert find_interrupted(store, "1" * 64) is None

        workers[0].kill()
        workers[0].join()
        with method_run(replace(INFO, fingerprint="1" * 64)) as run, run.stage("localize") as stage:
            assert run.id == first
            assert store.get_run(second).info.status == "RUNNING"
            stage.metrics({"train/loss": 0.5}, 1)
        child = query.stage_runs(store, "0", first)["localize"]
        assert [m.value for m in store.get_metric_history(child.info.run_id, "train/loss")] == [1.0, 0.5]

        workers[1].kill()
        workers[1].join()
        assert mark_dead_runs(store) == [second]
        assert store.get_run(second).info.status == "FAILED"
        assert query.stage_runs(store, "0", second)["localize"].info.status == "FAILED"
    finally:
        for worker in workers:
            worker.kill()


def test_the_heartbeat_is_renewed(store, monkeypatch):
    monkeypatch.setattr(liveness, "BEAT_S", 0.05)
    with method_run(INFO) as run:
        store.set_tag(run.id, names.HEARTBEAT, "0")
        time.sleep(0.3)
        assert time.time() - float(store.get_run(run.id).data.tags[names.HEARTBEAT]) < 10


# A store that can't be used


@pytest.mark.parametrize("uri", ["file:///tmp/somewhere", "./mlruns", None])
def test_a_folder_of_files_is_refused_with_the_way_out(tmp_path, monkeypatch, uri):
    monkeypatch.chdir(tmp_path)
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    else:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        (tmp_path / "mlruns/0").mkdir(parents=True)
        (tmp_path / "mlruns/0/meta.yaml").write_text("name: Default")
    with pytest.raises(UserError, match="mlflow migrate-filestore"):
        mlflow_client()


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("uri", ["http://127.0.0.1:{port}", "postgresql://user:secret@127.0.0.1:{port}/mlflow"])
def test_a_server_that_does_not_answer_stops_the_start(monkeypatch, uri, listens):
    monkeypatch.setattr(connection, "ANSWER_S", 1)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if listens:
            listener.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(port=listener.getsockname()[1]))
        began = time.monotonic()
        with pytest.raises(UserError, match="does not answer") as raised:
            mlflow_client()
        assert time.monotonic() - began < 10
        assert "MLFLOW_TRACKING_URI" in str(raised.value) and "secret" not in str(raised.value)


def test_a_file_that_is_no_database_is_refused(tmp_path, monkeypatch):
    (tmp_path / "mlflow.db").write_text("this is not a database, it is a sentence")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(UserError, match="not a database"):
        mlflow_client()


def test_a_database_of_another_mlflow_is_refused_with_the_way_out(store, monkeypatch):
    shutil.copy("mlflow.db", "old.db")
    with sqlite3.connect("old.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'bd07f7e963c5'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///old.db")
    with pytest.raises(UserError, match="mlflow db upgrade"):
        mlflow_client()


# A server that goes away


def test_neighbouring_batches_are_put_together():
    one, two = batch("a", [("x", 1.0, 0, 0)]), batch("a", [("x", 2.0, 0, 1)], tags={"t": "v"})
    other = Write("status", "a", {"status": "FINISHED", "time": 0})
    together = batch("a", [("x", 1.0, 0, 0), ("x", 2.0, 0, 1)], tags={"t": "v"})
    assert list(merged([one, two, other, one])) == [together, other, one]
    full = batch("a", [("x", 1.0, 0, i) for i in range(1000)])
    assert list(merged([full, one])) == [full, one]


def test_what_an_earlier_process_could_not_send_is_sent_by_the_next_command(store):
    with method_run(INFO) as run:
        pass
    folder = Path("work/tracking-spool") / run.id
    (folder / "files/box").mkdir(parents=True)
    (folder / "files/box/late.txt").write_text("late")
    writes = [
        Write("start", "new", {"experiment": "0", "stage": "refine", "user": "me", "time": 1}),
        batch("new", [("train/loss", 0.5, 2, 7)]),
        batch("1" * 32, [("x", 0.5, 2, 7)]),
        Write("files", run.id, {"folder": "box"}),
        Write("status", "new", {"status": "FINISHED", "time": 3}),
    ]
    (folder / "writes.jsonl").write_text("".join(write.to_json() + "\n" for write in writes) + '{"kind": "torn')
    with method_run(replace(INFO, fingerprint="2" * 64)):
        pass
    child = query.stage_runs(store, "0", run.id)["refine"]
    assert (child.data.metrics, child.info.status) == ({"train/loss": 0.5}, "FINISHED")
    assert artifact(store, run.id, "late.txt") == b"late"
    with sqlite3.connect(folder / "unsent.db") as database:
        ((refused,),) = database.execute("SELECT write FROM refused")
    assert Write.from_json(refused) == writes[2]


@pytest.mark.parametrize(
    "said",
    [
        '(psycopg.errors.UniqueViolation) duplicate key value violates unique constraint "dataset_pk" [SQL: INSERT '
        "INTO datasets ...",
        "(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id, datasets.name, datasets.digest",
    ],
)
def test_a_dataset_that_another_run_brings_at_the_same_moment_is_found(store, monkeypatch, said):
    log, said_once = MlflowClient.log_inputs, [MlflowException(said)]

    def log_inputs(self, *arguments):
        if said_once:
            raise said_once.pop()
        log(self, *arguments)

    monkeypatch.setattr(MlflowClient, "log_inputs", log_inputs)
    with method_run(INFO) as run:
        pass
    inputs = store.get_run(run.id).inputs.dataset_inputs
    assert len(inputs) == len(INFO.dataset.inputs) > 0


def test_a_server_that_goes_away_costs_nothing(server, template, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(outbox, "SEND_EVERY_S", 0.1)
    monkeypatch.setattr(outbox, "RETRY_EVERY_S", 0.5)
    spool = tmp_path / "work/tracking-spool"
    store = _when_it_answers(server)
    info = replace(INFO, supervision=frozenset(), settings={"x.empty": ""}, git=GitState(None, False))
    with method_run(info) as run:
        (record,) = query.runs(finished=False)
        assert (record.supervision, record.params, record.tags["git.commit"]) == (frozenset(), {"x.empty": ""}, "")
        with run.stage("localize") as stage:
            stage.metrics({"train/loss": 3.0}, 0)
            run.flush()

            os.killpg(server.process.pid, signal.SIGSTOP)
            stage.metrics({"train/loss": 2.0}, 1)
            run.flush()
            stage.metrics({"train/loss": 1.0}, 2)
            run.flush()
            assert len(list(UnsentWrites(spool / run.id).writes())) == 2
            os.killpg(server.process.pid, signal.SIGCONT)
            _until(lambda: not (spool / run.id / "unsent.db").exists())
            child = query.stage_runs(store, "0", run.id)["localize"].info.run_id
            assert {m.step: m.value for m in store.get_metric_history(child, "train/loss")} == {0: 3.0, 1: 2.0, 2: 1.0}

        run.flush()
        os.killpg(server.process.pid, signal.SIGKILL)
        with run.stage("refine") as stage:
            stage.metrics({"train/loss": 0.5}, 0)
            stage.step_done(step("refine.walk"))
        run.evaluation(Evaluation("train", "cam", ("a",), CLASSES, np.ones((1, 3, 3), np.int32)))
    assert [record.levelname for record in caplog.records if "does not answer" in record.message] == ["WARNING"] * 2
    assert (spool / run.id / "unsent.db").exists()

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{template}")
    assert outbox.send_left_behind(mlflow_client(), Path("work")) == 0, "another store does not have the run"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.store_uri)
    store = mlflow_client()
    assert outbox.send_left_behind(store, Path("work")) > 0
    kept, stages = store.get_run(run.id), query.stage_runs(store, "0", run.id)
    assert kept.info.status == "FINISHED"
    assert {name: stage.info.status for name, stage in stages.items()} == dict.fromkeys(stages, "FINISHED")
    assert stages["refine"].data.metrics == {
        "train/loss": 0.5,
        "time/refine.walk_s": 12.5,
        "memory/refine.walk_mb": 900.0,
    }
    assert kept.data.metrics["train/cam/miou"] == pytest.approx(1 / 5)
    assert artifact(store, run.id, "per_image/train/cam.json")
    assert not list(spool.glob("*"))


def _when_it_answers(server):
    for _ in range(1000):
        try:
            return mlflow_client()
        except UserError:
            assert server.process.poll() is None
            time.sleep(0.25)
    raise AssertionError("mlflow server did not start within four minutes")


def _until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
