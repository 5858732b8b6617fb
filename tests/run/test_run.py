"""A method's run, whole: what it leaves behind, run again, without masks, killed at every step."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import forks
import numpy as np
import pytest
import torch
from conftest import SMALL, Workspace
from PIL import Image

from wsss import versions
from wsss.data import Dataset, open_dataset
from wsss.data.folder import add_folder
from wsss.data.label_maps import LabelMaps
from wsss.data.voc import add_voc
from wsss.errors import UserError
from wsss.labels.exchange import pull_labels
from wsss.registry.models import publish
from wsss.run.method import run_method
from wsss.run.plan import make_plan
from wsss.run.steps import StepRunner
from wsss.scores import metric_names
from wsss.serving.package import load_package
from wsss.stages.evaluate import read_evaluations
from wsss.tracking import names
from wsss.tracking.query import find_run

SHORT = SMALL | {"localize.train.epochs": "1", "refine.train.epochs": "1", "segment.train.epochs": "1"}


@pytest.fixture
def inside(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The shared workspace as the current folder."""
    monkeypatch.chdir(workspace.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return workspace


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace as the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def test_a_run_ends_with_its_table_and_what_to_try_next(workspace: Workspace) -> None:
    for row in ("cam", "labels", "labels_crf", "pred", "pred_crf"):
        assert f"│ {row}" in workspace.log
    assert workspace.log.index("Next:") > workspace.log.index(f"run {workspace.run_id}")
    assert workspace.log.count("\n  wsss ") == 4


def test_a_run_says_what_it_was(inside: Workspace) -> None:
    run = find_run(inside.run_id)
    assert (run.method, run.preset, run.dataset, run.rng, run.status) == ("affinity", "demo", "shapes", 0, "FINISHED")
    assert run.supervision == frozenset()
    assert run.params["refine.walk.beta"]
    assert run.tags[names.DATA_MD5] == versions.store("data/shapes").md5
    for split, what in (
        ("train", "cam"),
        ("train", "labels"),
        ("train", "labels_crf"),
        ("val", "pred"),
        ("val", "pred_crf"),
    ):
        assert 0 < run.metrics[metric_names.metric(split, what, metric_names.MIOU)] < 1
        low, high = (
            run.metrics[metric_names.metric(split, what, end)]
            for end in (metric_names.MIOU_LOW, metric_names.MIOU_HIGH)
        )
        assert low <= run.metrics[metric_names.metric(split, what, metric_names.MIOU)] <= high
    assert run.metrics["val/tags/map"] > 0
    assert run.metrics[metric_names.step_time("refine.walk")] > 0


def test_the_logged_matrices_give_the_logged_figures(inside: Workspace) -> None:
    import mlflow

    from wsss.scores import Scores
    from wsss.tracking.connection import mlflow_client

    mlflow_client()
    path = mlflow.artifacts.download_artifacts(
        run_id=inside.run_id, artifact_path=names.confusion_file("val", "pred_crf")
    )
    with np.load(path, allow_pickle=False) as content:
        scores = Scores.of(content["matrices"].sum(0))
        assert len(content["ids"]) == len(open_dataset("shapes").splits["val"])
    assert scores.miou == pytest.approx(find_run(inside.run_id).metrics["val/pred_crf/miou"])


def test_the_labels_of_a_run_can_be_fetched_though_nobody_committed_them(inside: Workspace, tmp_path: Path) -> None:
    folder, md5 = pull_labels(inside.run_id, tmp_path / "labels")
    assert md5 == find_run(inside.run_id).tags[names.LABELS_MD5]
    assert set(open_dataset("shapes").splits["train"]) <= set(LabelMaps(folder).ids)
    with pytest.raises(UserError, match="there is no run 0123"):
        pull_labels("0123")


def test_the_registered_model_labels_images(inside: Workspace) -> None:
    model = load_package("models:/wsss-shapes-candidates/1")
    dataset = open_dataset("shapes")
    labels = model(dataset.image(dataset.splits["val"][0])[:50, :37])
    assert labels.shape == (50, 37)
    assert labels.max() <= len(dataset.classes)


def test_the_same_command_again_computes_nothing(inside: Workspace) -> None:
    outcome = run_method("affinity", "demo", "shapes", overrides=SMALL, publish=publish)
    assert all(step.reused for step in outcome.steps.values())
    first = find_run(inside.run_id).metrics
    assert all(first[key] == pytest.approx(value) for key, value in outcome.metrics.items() if key.endswith("miou"))


def test_another_beta_computes_the_walk_and_what_follows_alone(inside: Workspace) -> None:
    outcome = run_method(
        "affinity", "demo", "shapes", overrides=SMALL | {"refine.walk.beta": 3}, until="refine", track=False
    )
    assert [key for key, step in outcome.steps.items() if not step.reused] == ["refine.walk", "refine.crf"]


def run_until_killed(data: Path, work: Path, step: str | None) -> None:
    """Run all steps; at the first progress of `step`, die as by `kill -9`."""

    class Deadly:
        def __init__(self, key: str) -> None:
            self.key = key

        def metrics(self, values: object, step: int) -> None: ...

        def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
            if self.key == step and (done == total or done > total / 2):
                os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    runner = StepRunner(Dataset.open(data), 0, torch.device("cpu"), work)
    for planned in make_plan("affinity", "demo", SHORT | {"localize.train.epochs": "2"}).steps:
        runner.run(planned, Deadly(planned.key))


def test_killed_in_each_step_it_goes_on_and_the_numbers_are_those_of_an_undisturbed_run(
    tiny_shapes: Dataset, tmp_path: Path
) -> None:
    def attempt(work: Path, step: str | None) -> int | None:
        process = forks.CONTEXT.Process(target=run_until_killed, args=(tiny_shapes.root, work, step))
        process.start()
        process.join()
        return process.exitcode

    steps = [p.key for p in make_plan("affinity", "demo").steps if p.stage != "evaluate"]
    for step in steps:
        assert attempt(tmp_path / "killed", step) == -signal.SIGKILL, step
    assert attempt(tmp_path / "killed", None) == 0
    assert attempt(tmp_path / "whole", None) == 0

    def outputs(work: Path) -> dict[str, str]:
        manifests = sorted((work / "store").rglob("manifest.json"))
        files = {str(m.parent.relative_to(work)): json.loads(m.read_text())["files"] for m in manifests}
        return {
            step: {name: f["sha256"] for name, f in found.items() if name != "metrics.json"}
            for step, found in files.items()
        }

    assert outputs(tmp_path / "killed") == outputs(tmp_path / "whole")


def test_trained_with_every_mask_deleted_the_weights_are_the_same(tiny_shapes: Dataset, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_shapes.root, bare)
    for folder in bare.glob("SegmentationClass*"):
        shutil.rmtree(folder)

    def weights(root: Path, work: Path) -> Iterator[bytes]:
        runner = StepRunner(Dataset.open(root), 0, torch.device("cpu"), work)
        for planned in make_plan("affinity", "demo", SHORT).steps:
            if planned.stage != "evaluate":
                folder = runner.run(planned, _Silent()).folder
                if (folder / "model.safetensors").exists():
                    yield (folder / "model.safetensors").read_bytes()

    assert list(weights(bare, tmp_path / "a")) == list(weights(tiny_shapes.root, tmp_path / "b"))


class _Silent:
    def metrics(self, values: object, step: int) -> None: ...

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None: ...


def make_photos(folder: Path, number: int) -> Path:
    """A folder of pictures of several sizes with a CSV of tags, one of them without any class."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    with (folder / "tags.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "labels"])
        for index in range(number):
            size = (draw.integers(40, 90), draw.integers(40, 90), 3)
            Image.fromarray(draw.integers(0, 256, size, dtype=np.uint8)).save(folder / f"photo {index}.jpg")
            rows.writerow([f"photo {index}.jpg", ["red fox", "red fox, owl", "owl", ""][index % 4]])
    return folder


def test_without_any_mask_all_but_the_figures_is_there(empty: Path) -> None:
    photos = make_photos(empty / "photos", 24)
    (photos / "names.txt").write_text("red fox\nowl\n")
    text = (photos / "tags.csv").read_text().replace("red fox, owl", "red fox;owl")
    (photos / "tags.csv").write_text(text.replace('"', ""))
    add_folder(photos, "zoo", tags=photos / "tags.csv", class_list=photos / "names.txt")
    outcome = run_method("affinity", "demo", "zoo", overrides=SHORT, publish=publish)
    assert outcome.model == "models:/wsss-zoo-candidates/1"
    assert "val/tags/map" in outcome.metrics
    assert not [name for name in outcome.metrics if "miou" in name]
    with pytest.raises(UserError, match="learns from masks, and dataset zoo has none"):
        run_method("bound", "demo", "zoo")


def test_bad_images_and_lists_are_all_named_before_training(empty: Path, tiny_shapes: Dataset) -> None:
    shutil.copytree(tiny_shapes.root, "data/broken")
    dataset = open_dataset("broken")
    missing, truncated = dataset.splits["train"][:2]
    dataset.image_path(missing).unlink()
    whole = dataset.image_path(truncated).read_bytes()
    dataset.image_path(truncated).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError) as error:
        run_method("affinity", "demo", "broken")
    assert missing in str(error.value)
    assert truncated in str(error.value)
    assert not Path("work", "store").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"data": "nothing"}, "unknown dataset 'nothing'; choose from shapes"),
        ({"method": "nothing"}, "unknown method"),
        ({"preset": "nothing"}, "unknown preset"),
        ({"until": "nothing"}, "unknown stage 'nothing'; choose from evaluate, localize, refine, segment"),
        ({"device": "nothing"}, "unknown device"),
    ],
)
def test_names_that_do_not_exist(empty: Path, arguments: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        run_method(**{"method": "affinity", "preset": "demo", "data": "shapes"} | arguments)


def test_real_photographs(empty: Path, real_data: Path) -> None:
    source, copy = real_data / "VOCdevkit" / "VOC2012", empty / "VOC2012"
    lists = copy / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, number in (("train", 24), ("val", 6)):
        ids = (source / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()[:number]
        (lists / f"{split}.txt").write_text("\n".join(ids) + "\n")
    for folder in ("JPEGImages", "SegmentationClass"):
        (copy / folder).symlink_to(source / folder)
    add_voc(copy, "photos", tags=str(real_data / "cls_labels.npz"))
    weights = str(real_data / "weights" / "mobilenet_v2_imagenet.fp16.safetensors")
    settings = {f"{step}.weights": weights for step in ("localize.train", "refine.train", "segment.train")}
    settings |= SHORT | {"localize.train.crop": "129", "localize.infer.scales": "0.5,1"}
    settings |= {"refine.train.crop": "129", "segment.train.crop": "129", "segment.predict.scales": "1"}
    outcome = run_method("affinity", "small", "photos", overrides=settings, track=False)
    dataset = open_dataset("photos")
    for split in ("train", "dev"):
        assert set(dataset.splits[split]) <= set(LabelMaps(outcome.steps["refine.crf"].folder / "labels_crf").ids)
    labels = LabelMaps(outcome.steps["segment.predict"].folder / "pred_crf")
    for image_id in dataset.splits["val"]:
        assert labels.read(image_id).shape == dataset.size(image_id)


def test_evaluations_cover_the_official_masks_of_train(inside: Workspace) -> None:
    outcome = run_method("affinity", "demo", "shapes", overrides=SMALL, until="localize", keep_version=False)
    evaluation = read_evaluations(outcome.steps["evaluate.cam"].folder)["train"]
    assert set(evaluation.ids) == set(open_dataset("shapes").splits["train"])
    assert evaluation.matrices.shape[1:] == (4, 4)
