"""Tracking: the names of metrics, and what a run leaves behind."""

import io
import json
import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracking_examples import CLASSES, DATA, INFO, artifact, step

from wsss.scores import Evaluation, bootstrap, metric_names
from wsss.tracking import query
from wsss.tracking.runs import method_run
from wsss.versions import DataVersion

# Names


@given(st.text(min_size=1, max_size=30))
def test_a_class_name_comes_back_from_a_metric_key(name):
    part = metric_names.class_in_key(name)
    assert "/" not in part and set(part) != {"."}
    assert metric_names.class_of_key(part) == name


def test_names_read_as_the_design_says():
    assert metric_names.metric("train", "cam", "miou") == "train/cam/miou"
    assert metric_names.metric("val", "pred_crf", "iou", "cat") == "val/pred_crf/iou/cat"
    assert metric_names.class_in_key("cat/dog*") == "cat:2f:dog:2a:"
    assert metric_names.step_time("refine.walk") == "time/refine.walk_s"


def test_mlflow_takes_every_class_name(store):
    odd = ["..", ".", "a/b", "x*", "50%", "ça va", "a:2f:b", '"', "\n", "日本"]
    run = store.create_run("0").info.run_id
    store.log_batch(run, [_metric(metric_names.metric("val", "pred", "iou", name)) for name in odd])
    found = store.get_run(run).data.metrics
    assert sorted(metric_names.class_of_key(key.split("/")[3]) for key in found) == sorted(odd)


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
        run.evaluation(Evaluation("train", "labels_crf", ("a", "b", "c"), CLASSES, matrices, "m" * 64, "l" * 64))
    kept = store.get_run(run.id)
    iou = np.array([16 / 19, 3 / 6])
    expected = {
        "train/labels_crf/miou": iou.mean(),
        "train/labels_crf/miou_low": bootstrap(matrices)[0],
        "train/labels_crf/miou_high": bootstrap(matrices)[1],
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
        assert (file["matrices"].dtype, file["ids"].tolist()) == (np.int32, ["a", "b", "c"])
        assert (str(file["split"]), str(file["what"]), file["classes"].tolist()) == (
            "train",
            "labels_crf",
            list(CLASSES),
        )
        assert (str(file["masks"]), str(file["labels"])) == ("m" * 64, "l" * 64)
    table = json.loads(artifact(store, run.id, "per_image/train/labels_crf.json"))
    assert table["columns"] == ["image", "miou"]
    assert table["data"] == [["a", pytest.approx((6 / 9 + 3 / 6) / 2, abs=1e-6)], ["b", 1.0], ["c", None]]
    assert {"path": "per_image/train/labels_crf.json", "type": "table"} in json.loads(
        kept.data.tags["mlflow.loggedArtifacts"]
    )


def test_labels_and_panels_are_kept_with_the_run(store, tmp_path):
    labels = DataVersion("2" * 32 + ".dir", 40, 500)
    (tmp_path / "notes.txt").write_text("seen")
    with method_run(INFO) as run:
        run.labels(labels, "labels/shapes/affinity-demo-3", [{"md5": "9", "relpath": "index.json"}])
        run.panel("img_1", b"panel")
        run.maps("labels_crf", b"crf")
        run.artifacts({"more/notes.txt": tmp_path / "notes.txt"})
    kept = store.get_run(run.id)
    assert kept.data.tags["labels.md5"] == labels.md5
    assert ("labels", labels.md5) in [(i.dataset.name, i.dataset.digest) for i in kept.inputs.dataset_inputs]
    assert json.loads(artifact(store, run.id, "dvc/labels.json")) == [{"md5": "9", "relpath": "index.json"}]
    assert artifact(store, run.id, "panels/img_1.png") == b"panel"
    assert artifact(store, run.id, "maps/labels_crf.zip") == b"crf"
    assert artifact(store, run.id, "more/notes.txt") == b"seen"


@pytest.mark.parametrize(("error", "status"), [(ValueError("no light"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_run_that_breaks_says_so(store, error, status):
    with pytest.raises(type(error)), method_run(INFO) as run, run.stage("refine"):
        raise error
    kept = store.get_run(run.id)
    assert (kept.info.status, query.stage_runs(store, "0", run.id)["refine"].info.status) == (status, status)
    assert kept.data.tags["error"].startswith(type(error).__name__)
