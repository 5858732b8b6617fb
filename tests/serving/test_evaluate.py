"""A model or a folder of label maps measured against masks, and what its card says."""

import json

import numpy as np
import pytest
from served_examples import CLASSES, offline, save_segmenter

from wsss.data import open_dataset
from wsss.data.label_maps import LabelMapWriter
from wsss.data.palette_png import write_palette_png
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.run.plan import make_plan
from wsss.scores import Masks, Scores, confusion
from wsss.serving.card import model_card
from wsss.serving.evaluate import as_json, evaluate
from wsss.serving.package import save_package


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    folder = tmp_path_factory.mktemp("step")
    save_segmenter(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "little"
    make_shapes(root, images=10, val_images=4, size=40, classes=3)
    return open_dataset(root)


def test_evaluating_a_step_equals_counting_its_labels(dataset, step):
    masks = Masks(dataset)
    ids = masks.ids("val")
    matrices = np.array([confusion(masks.read(i), offline(step, dataset.image(i)), 3) for i in ids])
    found = evaluate(str(step), dataset, "val")
    assert found.ids == ids and np.array_equal(found.matrices, matrices)
    told = as_json(found, dataset)
    assert told["miou"] == Scores.of(matrices.sum(0)).miou and told["images"] == len(ids)
    assert told["interval"][0] <= told["miou"] <= told["interval"][1]
    json.dumps(told, allow_nan=False)


def test_masks_against_themselves_are_perfect(dataset, tmp_path):
    masks = Masks(dataset)
    (tmp_path / "png").mkdir()
    with LabelMapWriter(tmp_path / "shards") as writer:
        for image_id in masks.ids("val"):
            labels = masks.read(image_id)
            writer.add(image_id, labels)
            write_palette_png(tmp_path / "png" / f"{image_id}.png", labels)
    for folder in ("png", "shards"):
        assert evaluate(str(tmp_path / folder), dataset, "val").scores.miou == 1


def test_all_bad_label_maps_are_named_at_once(dataset, tmp_path):
    missing, small, fine, strange = Masks(dataset).ids("val")
    write_palette_png(tmp_path / f"{small}.png", np.zeros((3, 3), np.uint8))
    write_palette_png(tmp_path / f"{fine}.png", np.zeros((40, 40), np.uint8))
    write_palette_png(tmp_path / f"{strange}.png", np.full((40, 40), 9, np.uint8))
    with pytest.raises(UserError) as error:
        evaluate(str(tmp_path), dataset, "val")
    text = str(error.value)
    assert f"{missing}.png is missing" in text and f"{small}: the prediction is 3 x 3 px" in text
    assert f"{strange}: " in text and fine not in text


def test_bad_requests_for_an_evaluation(dataset, step, tmp_path):
    package = tmp_path / "segmenter"
    save_package(step, package, CLASSES, "")
    with pytest.raises(UserError, match="neither a model"):
        evaluate(str(tmp_path), dataset, "val")
    with pytest.raises(UserError, match="unknown split 'tset'; choose from"):
        evaluate(str(package), dataset, "tset")
    with pytest.raises(UserError, match="knows the classes disc, bar, ring"):
        evaluate(str(package), dataset, "val")


def test_card_says_what_was_seen_and_measured(dataset):
    card = model_card(make_plan("bound", "demo"), dataset, "run-1", {"val/pred/miou": 0.5, "time/x_s": 1.0})
    assert "image-level tags, masks" in card and "| val/pred | 50.0 |" in card and "time/" not in card
    assert dataset.digest in card and "run-1" in card and all(name in card for name in dataset.classes.names)
    assert "scales 1; without a CRF" in card and "It is not known at what sizes it learned" in card
    assert "the dataset has no masks" in model_card(make_plan("cam", "demo"), dataset, "run-1", {})
