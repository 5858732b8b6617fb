"""Tracking: which run is written to, and reading runs back."""

import os
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tracking_examples import CLASSES, INFO

from wsss.errors import UserError
from wsss.scores import Evaluation, metric_names
from wsss.tracking import query
from wsss.tracking.runs import method_run

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
    assert query.find_run(started[0]) == found[-1]
    stage = query.stage_runs(store, "0", started[0])["localize"].info.run_id
    for other in (stage, "1" * 32):
        with pytest.raises(UserError, match="compare --wide` lists"):
            query.find_run(other)


def test_no_run_vanishes_behind_many_experiments(store):
    with method_run(INFO) as run:
        pass
    with sqlite3.connect("mlflow.db") as database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(experiments)")]
        (default,) = database.execute(f"SELECT {', '.join(columns)} FROM experiments WHERE experiment_id = 0")
        for number in range(1, 1101):
            new = dict(zip(columns, default, strict=True)) | {"experiment_id": number, "name": f"search {number}"}
            new |= {key: new[key] + number for key in ("creation_time", "last_update_time")}
            database.execute(f"INSERT INTO experiments VALUES ({', '.join('?' * len(columns))})", list(new.values()))
    assert [record.id for record in query.runs()] == [run.id]
    assert len(query.experiments(store)) == 1101


def test_a_deleted_experiment_takes_its_runs_with_it_and_is_no_error(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tries")
    with method_run(INFO):
        pass
    store.delete_experiment(store.get_experiment_by_name("tries").experiment_id)
    assert query.runs(finished=False) == []
    with pytest.raises(UserError, match="MLFLOW_EXPERIMENT_NAME"), method_run(INFO):
        pass
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    with method_run(INFO) as run:
        pass
    assert [record.id for record in query.runs()] == [run.id]


def test_an_evaluation_is_read_once_and_leaves_no_copy(store, remote_artifacts):
    made = Evaluation("val", "pred", ("a", "b"), CLASSES, np.arange(18, dtype=np.int32).reshape(2, 3, 3), "m", "l")
    with method_run(INFO) as run:
        run.evaluation(made)
        run.metrics({metric_names.metric("dev", "pred", metric_names.MIOU): 0.5})
    record = query.find_run(run.id)
    read = query.evaluation(record, "val", "pred")
    arrays = {"matrices": None, "levels": None}
    assert replace(read, **arrays) == replace(made, **arrays)
    np.testing.assert_array_equal(read.matrices, made.matrices)
    assert query.evaluation(record, "val", "pred") is read
    assert query.evaluation(record, "val", "cam") is None, "nothing was measured"
    assert query.evaluation(record, "dev", "pred") is None, "the record has not arrived"
    assert remote_artifacts == ["confusion/val/pred.npz", "confusion/dev/pred.npz"]
    assert not [path for path in Path(tempfile.gettempdir()).iterdir() if path.is_dir()]


def test_a_record_that_is_damaged_or_out_of_reach_is_named(store, monkeypatch):
    with method_run(INFO) as run:
        run.metrics({metric_names.metric("val", "pred", metric_names.MIOU): 0.5})
        run.artifacts({"confusion/val/pred.npz": b"PK half a file"})
    record = query.find_run(run.id)
    with pytest.raises(UserError, match=f"confusion/val/pred.npz of run {run.id} is not the record"):
        query.evaluation(record, "val", "pred")

    def away(*_, **__):
        raise ConnectionError("https://me:geheim@bucket is away")

    monkeypatch.setattr(type(store), "download_artifacts", away)
    with pytest.raises(UserError, match=r"can't be read \(https://me:\*\*\*@bucket is away\)"):
        query.evaluation(record, "val", "pred")


def test_of_two_that_begin_an_experiment_at_once_both_go_on(store, monkeypatch):
    from wsss.tracking import opening

    first = store.create_experiment("new")
    assert opening._new_experiment(store, "new") == first
