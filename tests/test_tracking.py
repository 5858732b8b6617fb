import io
import json
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

import mlflow
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsss.classes import palette
from wsss.errors import UserError
from wsss.git import GitState
from wsss.progress import ConsoleReporter
from wsss.steps import StepResult
from wsss.tracking import connection, liveness, names, outbox, panels, query
from wsss.tracking.connection import mlflow_client
from wsss.tracking.info import DatasetInfo, RunInfo
from wsss.tracking.liveness import find_interrupted, mark_dead_runs, process_gone, process_tags
from wsss.tracking.runs import method_run
from wsss.tracking.writes import Write, batch, merged
from wsss.versions import Version

DATA = Version("1" * 32 + ".dir", 48, 1000)
INFO = RunInfo(
    method="affinity",
    preset="demo",
    dataset=DatasetInfo("shapes", "data/shapes", "d" * 64, {"train": 40, "val": 8}, DATA),
    settings={"refine.walk.beta": 8.0, "localize.infer.scales": [1.0, 0.5], "localize.name": "cam", "x.none": None},
    supervision=frozenset({"saliency", "masks"}),
    rng=3,
    fingerprint="f" * 64,
    group="a" * 64,
    git=GitState("c" * 40, True),
    command="wsss run --method affinity",
    tags={names.BACKBONE: "tiny"},
)
CLASSES = ("background", "cat", "traffic light/red*")

FORK = multiprocessing.get_context("fork")


def work_until_killed(fingerprint, started):
    """A process that begins a run, says so, and then works."""
    with method_run(replace(INFO, fingerprint=fingerprint)) as run, run.stage("localize") as stage:
        stage.metrics({"train/loss": 1.0}, 0)
        run.flush()
        started.put((fingerprint, run.id))
        time.sleep(100)


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A tracking store with its tables, which take seconds to make."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        mlflow_client()
    return folder / "mlflow.db"


@pytest.fixture
def store(template, tmp_path, monkeypatch):
    """A tracking store in the current folder, where MLflow looks for it when it is told nothing."""
    shutil.copy(template, tmp_path / "mlflow.db")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE experiments SET artifact_location = ?", (f"{tmp_path}/mlruns/0",))
    monkeypatch.chdir(tmp_path)
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(variable, raising=False)
    return mlflow_client()


@pytest.fixture(scope="session")
def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="session", autouse=True)
def server(template, tmp_path_factory, free_port):
    """An `mlflow server`, which takes its time to start while the other tests run; artifacts go past it."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(template, folder / "mlflow.db")
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("UPDATE experiments SET artifact_location = ?", (f"{folder}/mlruns/0",))
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


def step(key="localize.train", **metrics):
    return StepResult(key, "e" * 64, Path(), False, 12.5, 900.0, metrics)


def artifact(client, run_id, path):
    return Path(client.download_artifacts(run_id, path)).read_bytes()


# Names


@given(st.text(min_size=1, max_size=30))
def test_a_class_name_comes_back_from_a_metric_key(name):
    part = names.class_in_key(name)
    assert "/" not in part and set(part) != {"."}
    assert names.class_of_key(part) == name


def test_names_read_as_the_design_says():
    assert names.metric("train", "cam", "miou") == "train/cam/miou"
    assert names.metric("val", "pred_crf", "iou", "cat") == "val/pred_crf/iou/cat"
    assert names.class_in_key("cat/dog*") == "cat:2f:dog:2a:"
    assert names.step_time("refine.walk") == "time/refine.walk_s"


def test_mlflow_takes_every_class_name(store):
    odd = ["..", ".", "a/b", "x*", "50%", "ça va", "a:2f:b", '"', "\n", "日本"]
    run = store.create_run("0").info.run_id
    store.log_batch(run, [_metric(names.metric("val", "pred", "iou", name)) for name in odd])
    found = store.get_run(run).data.metrics
    assert sorted(names.class_of_key(key.split("/")[3]) for key in found) == sorted(odd)


def _metric(key):
    from mlflow.entities import Metric

    return Metric(key, 1.0, 0, 0)


# What a run leaves behind


def test_a_run_leaves_params_tags_inputs_and_settings(store):
    with method_run(INFO) as run:
        pass
    kept = store.get_run(run.id)
    assert kept.info.status == "FINISHED"
    assert kept.data.params == {
        "refine.walk.beta": "8.0",
        "localize.infer.scales": "[1.0, 0.5]",
        "localize.name": "cam",
        "x.none": "null",
    }
    expected = {
        "method": "affinity", "preset": "demo", "dataset": "shapes", "supervision": "masks, saliency", "rng": "3",
        "fingerprint": "f" * 64, "group": "a" * 64, "data.md5": DATA.md5, "git.commit": "c" * 40, "git.dirty": "true",
        "host": socket.gethostname(), "pid": str(os.getpid()), "backbone": "tiny",
    }  # fmt: skip
    assert expected.items() <= kept.data.tags.items()
    assert time.time() - float(kept.data.tags["heartbeat"]) < 60

    inputs = {entry.dataset.name: entry for entry in kept.inputs.dataset_inputs}
    assert set(inputs) == {"shapes/train", "shapes/val"}
    assert inputs["shapes/train"].dataset.digest == DATA.md5
    tags = {tag.key: tag.value for tag in inputs["shapes/train"].tags}
    assert tags["mlflow.data.context"] == "train"
    assert (tags["dvc.md5"], tags["dvc.nfiles"], tags["images"]) == (DATA.md5, "48", "40")

    assert mlflow.data.get_source(inputs["shapes/val"]).uri == "data/shapes"
    assert json.loads(artifact(store, run.id, "settings.json")) == dict(INFO.settings)
    assert "mlflow==" in artifact(store, run.id, "environment.txt").decode()
    assert not list(Path("work/tracking-spool").glob("*"))


def test_data_that_dvc_does_not_know_has_the_digest_of_its_content(store):
    with method_run(replace(INFO, dataset=replace(INFO.dataset, version=None))) as run:
        pass
    kept = store.get_run(run.id)
    assert {entry.dataset.digest for entry in kept.inputs.dataset_inputs} == {"d" * 36}
    assert "data.md5" not in kept.data.tags


def test_a_stage_is_a_child_run_with_the_steps_figures(store):
    with method_run(INFO) as run, run.stage("localize") as stage:
        listener = stage.reporter("localize.train")
        for iteration in range(5):
            listener.metrics({"train/loss": 1.0 / (iteration + 1), "train/nan": float("nan")}, iteration)
            listener.progress(iteration + 1, 5, "images")
        stage.step_done(step(**{"tags/map": 0.75, "images_per_s": 9.0}))
    method = store.get_run(run.id)
    child = query.stage_runs(store, "0", run.id)["localize"]
    assert child.data.tags["mlflow.parentRunId"] == run.id
    assert (child.info.status, child.info.run_name) == ("FINISHED", "localize")
    history = store.get_metric_history(child.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(i, 1.0 / (i + 1)) for i in range(5)]
    assert "train/nan" not in child.data.metrics
    assert child.data.metrics["images_per_s"] == 9.0
    assert child.data.tags["fingerprint.localize.train"] == "e" * 64
    assert child.data.tags["reused.localize.train"] == "false"
    assert method.data.metrics == {
        "time/localize.train_s": 12.5,
        "memory/localize.train_mb": 900.0,
        "tags/map": 0.75,
    }


def test_an_evaluation_is_one_write_with_matrices_and_a_table(store):
    matrices = np.zeros((3, 3, 3), np.int32)
    matrices[0, :2, :2] = [[6, 2], [1, 3]]
    matrices[1, 0, 0] = 10
    with method_run(INFO) as run:
        run.scores("train", "labels_crf", CLASSES, matrices, ["a", "b", "c"], interval=(0.25, 0.75))
    kept = store.get_run(run.id)
    iou = np.array([16 / 19, 3 / 6])
    expected = {
        "train/labels_crf/miou": iou.mean(),
        "train/labels_crf/miou_low": 0.25,
        "train/labels_crf/miou_high": 0.75,
        "train/labels_crf/fp": (1 / 19 + 2 / 6) / 2,
        "train/labels_crf/fn": (2 / 19 + 1 / 6) / 2,
        "train/labels_crf/pixel_accuracy": 19 / 22,
        "train/labels_crf/iou/background": iou[0],
        "train/labels_crf/iou/cat": iou[1],
    }
    assert kept.data.metrics == pytest.approx(expected)
    assert len({store.get_metric_history(run.id, key)[0].timestamp for key in expected}) == 1

    with np.load(io.BytesIO(artifact(store, run.id, "confusion/train/labels_crf.npz")), allow_pickle=False) as file:
        np.testing.assert_array_equal(file["matrices"], matrices)
        np.testing.assert_array_equal(file["summed"], matrices.sum(0))
        assert (file["matrices"].dtype, file["ids"].tolist()) == (np.int32, ["a", "b", "c"])
        assert (str(file["split"]), str(file["what"]), file["classes"].tolist()) == (
            "train",
            "labels_crf",
            list(CLASSES),
        )
    table = json.loads(artifact(store, run.id, "per_image/train/labels_crf.json"))
    assert table["columns"] == ["image", "miou"]
    assert table["data"] == [["a", pytest.approx((6 / 9 + 3 / 6) / 2, abs=1e-6)], ["b", 1.0], ["c", None]]
    assert {"path": "per_image/train/labels_crf.json", "type": "table"} in json.loads(
        kept.data.tags["mlflow.loggedArtifacts"]
    )


def test_labels_and_panels_are_kept_with_the_run(store, tmp_path):
    labels = Version("2" * 32 + ".dir", 40, 500)
    (tmp_path / "notes.txt").write_text("seen")
    with method_run(INFO) as run:
        run.labels(labels, "labels/shapes/affinity-demo-3", [{"md5": "9", "relpath": "index.json"}])
        run.panels("img_1", b"panel", {"cam": b"cam", "labels_crf": b"crf"})
        run.artifacts({"more/notes.txt": tmp_path / "notes.txt"})
    kept = store.get_run(run.id)
    assert kept.data.tags["labels.md5"] == labels.md5
    assert ("labels", labels.md5) in [(i.dataset.name, i.dataset.digest) for i in kept.inputs.dataset_inputs]
    assert json.loads(artifact(store, run.id, "dvc/labels.json")) == [{"md5": "9", "relpath": "index.json"}]
    assert artifact(store, run.id, "panels/img_1.png") == b"panel"
    assert artifact(store, run.id, "maps/labels_crf/img_1.png") == b"crf"
    assert artifact(store, run.id, "more/notes.txt") == b"seen"


@pytest.mark.parametrize(("error", "status"), [(ValueError("no light"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_run_that_breaks_says_so(store, error, status):
    with pytest.raises(type(error)), method_run(INFO) as run, run.stage("refine"):
        raise error
    kept = store.get_run(run.id)
    assert (kept.info.status, query.stage_runs(store, "0", run.id)["refine"].info.status) == (status, status)
    assert kept.data.tags["error"].startswith(type(error).__name__)


# Which run is written to


def test_under_mlflow_run_the_given_run_is_used(store, monkeypatch):
    given_run = store.create_run("0").info.run_id
    for key, value in {"method": "affinity", "refine.walk.beta": "8"}.items():
        store.log_param(given_run, key, value)
    monkeypatch.setenv("MLFLOW_RUN_ID", given_run)
    with method_run(INFO) as run:
        assert run.id == given_run
        assert "MLFLOW_RUN_ID" not in os.environ
    kept = store.get_run(given_run)
    assert kept.data.params.items() >= {"method": "affinity", "refine.walk.beta": "8", "localize.name": "cam"}.items()
    assert kept.data.tags["fingerprint"] == "f" * 64

    monkeypatch.setenv("MLFLOW_RUN_ID", given_run)
    with (
        pytest.raises(UserError, match="other settings or other data"),
        method_run(replace(INFO, fingerprint="0" * 64)),
    ):
        pass
    monkeypatch.setenv("MLFLOW_RUN_ID", "1" * 32)
    with pytest.raises(UserError, match="does not have"), method_run(INFO):
        pass


def test_a_failed_run_goes_on_under_its_id_and_a_finished_one_does_not(store):
    with pytest.raises(ValueError, match="first"), method_run(INFO) as first, first.stage("localize"):
        raise ValueError("first")
    with method_run(INFO) as second, second.stage("localize"):
        pass
    with method_run(INFO) as third:
        pass
    assert second.id == first.id != third.id
    kept = store.get_run(first.id)
    assert kept.info.status == "FINISHED" and "error" not in kept.data.tags
    stages = list(query.search(store, f"tags.`mlflow.parentRunId` = '{first.id}'"))
    assert [stage.info.status for stage in stages] == ["FINISHED"]


def test_a_part_of_a_search_is_its_child(store):
    search = store.create_run("0").info.run_id
    with method_run(INFO, parent=search) as run:
        pass
    assert store.get_run(run.id).data.tags["mlflow.parentRunId"] == search


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


def test_when_a_process_is_gone():
    mine = process_tags()
    assert not process_gone(mine)
    assert process_gone(mine | {"pid.started": "1.00"}), "another process has taken its number"
    elsewhere = mine | {"host": "another"}
    assert not process_gone(elsewhere)
    assert process_gone(elsewhere | {"heartbeat": f"{time.time() - liveness.SILENT_S - 1:.0f}"})


def test_the_heartbeat_is_renewed(store, monkeypatch):
    monkeypatch.setattr(liveness, "BEAT_S", 0.05)
    with method_run(INFO) as run:
        store.set_tag(run.id, names.HEARTBEAT, "0")
        time.sleep(0.3)
        assert time.time() - float(store.get_run(run.id).data.tags[names.HEARTBEAT]) < 10


# Reading


def test_runs_are_found_by_dataset_method_and_end(store, monkeypatch):
    monkeypatch.setattr(query, "PAGE", 2)
    started = []
    for rng in range(5):
        with method_run(replace(INFO, rng=rng, fingerprint=str(rng) * 64)) as run, run.stage("localize"):
            run.metrics({"val/pred/miou": rng / 10})
        started.append(run.id)
    with pytest.raises(ValueError, match="no"), method_run(replace(INFO, method="cam", fingerprint="9" * 64)):
        raise ValueError("no")
    found = query.runs()
    assert [record.id for record in found] == started[::-1]
    assert [record.rng for record in found] == [4, 3, 2, 1, 0]
    assert found[0].metrics == {"val/pred/miou": 0.4}
    assert (found[0].method, found[0].supervision) == ("affinity", frozenset({"masks", "saliency"}))
    assert query.runs(dataset="voc") == query.runs(dataset="o'hara") == []
    assert [record.status for record in query.runs(method="cam", finished=False)] == ["FAILED"]
    assert query.find(started[0]) == found[-1]
    stage = query.stage_runs(store, "0", started[0])["localize"].info.run_id
    for other in (stage, "1" * 32):
        with pytest.raises(UserError, match="wsss compare"):
            query.find(other)


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
    assert [path.name for path in folder.iterdir() if path.is_file() and path.suffix == ".jsonl"] == ["refused.jsonl"]
    assert Write.from_json((folder / "refused.jsonl").read_text()) == writes[2]


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
            assert len((spool / run.id / "writes.jsonl").read_text().splitlines()) == 2
            os.killpg(server.process.pid, signal.SIGCONT)
            _until(lambda: not (spool / run.id / "writes.jsonl").exists())
            child = query.stage_runs(store, "0", run.id)["localize"].info.run_id
            assert {m.step: m.value for m in store.get_metric_history(child, "train/loss")} == {0: 3.0, 1: 2.0, 2: 1.0}

        run.flush()
        os.killpg(server.process.pid, signal.SIGKILL)
        with run.stage("refine") as stage:
            stage.metrics({"train/loss": 0.5}, 0)
            stage.step_done(step("refine.walk"))
        run.scores("train", "cam", CLASSES, np.ones((1, 3, 3), np.int32), ["a"])
    assert [record.levelname for record in caplog.records if "does not answer" in record.message] == ["WARNING"] * 2
    assert (spool / run.id / "writes.jsonl").exists()

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{template}")
    assert outbox.replay_spool(mlflow_client(), Path("work")) == 0, "another store does not have the run"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.store_uri)
    store = mlflow_client()
    assert outbox.replay_spool(store, Path("work")) > 0
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


# The console


def test_progress_in_a_log_is_a_line_every_ten_seconds_and_the_end():
    stream = io.StringIO()
    console = ConsoleReporter("refine.walk", stream)
    for done in range(1, 101):
        console.progress(done, 100, "images", "loss 0.5")
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("refine.walk: 100/100 images, ") and "images/s" in line and line.endswith("loss 0.5")


def test_progress_on_a_terminal_writes_over_its_line(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr("wsss.progress.TERMINAL_S", 0.0)
    console = ConsoleReporter("refine.walk", stream)
    for done in range(1, 4):
        console.progress(done, 3, "images")
        time.sleep(0.01)
    assert stream.getvalue().count("\r") == 3
    assert stream.getvalue().count("\n") == 1
    assert "left" in stream.getvalue()


def test_a_continued_step_is_not_faster_than_it_is():
    stream = io.StringIO()
    console = ConsoleReporter("segment.train", stream)
    console.progress(1000, 1002, "images")
    time.sleep(0.2)
    console.progress(1002, 1002, "images")
    rate = float(stream.getvalue().split(", ")[1].split()[0])
    assert rate == pytest.approx(10, rel=0.5)


# Panels


def test_a_panel_shows_each_part_at_one_height_in_order():
    image = np.full((10, 20, 3), 200, np.uint8)
    labels = np.zeros((10, 20), np.uint8)
    labels[:, 10:] = 2
    labels[0] = 255
    parts = {"pred": labels, "mask": labels, "cam": np.ones((2, 5), np.float32)}
    strip = panels.panel(image, parts, height=40)
    gap, caption = 4, 16
    assert strip.shape == (40 + caption, 4 * 80 + 3 * gap, 3)
    mask = strip[caption:, 80 + gap : 2 * 80 + gap]
    np.testing.assert_array_equal(mask, palette()[labels].repeat(4, 0).repeat(4, 1))
    np.testing.assert_array_equal(mask, strip[caption:, -80:])


def test_heat_rises_with_the_score_and_no_map_is_cold():
    image = np.zeros((4, 8, 3), np.uint8)
    scores = np.tile(np.linspace(0, 1, 8, dtype=np.float16), (4, 1))
    brightness = panels.heat(scores, image).sum(-1)
    assert (np.diff(brightness.astype(int), axis=1) >= 0).all() and brightness[0, 0] < brightness[0, -1]
    np.testing.assert_array_equal(panels.heat(np.stack([scores, 0 * scores]), image), panels.heat(scores, image))
    np.testing.assert_array_equal(
        panels.heat(np.zeros((0, 4, 8), np.float16), image), panels.heat(np.zeros((4, 8)), image)
    )


def test_panels_stack_to_the_width_of_the_widest():
    wide, narrow = np.zeros((5, 30, 3), np.uint8), np.zeros((6, 10, 3), np.uint8)
    sheet = panels.stacked([wide, narrow])
    assert sheet.shape == (5 + 4 + 6, 30, 3) and (sheet[9:, 10:] == 255).all()
    assert Image.open(io.BytesIO(panels.png(sheet))).size == (30, 15)
