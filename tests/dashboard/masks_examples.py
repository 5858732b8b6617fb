"""Photographs of odd names, runs on them whose maps are known to the pixel, and the page Masks that shows them."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote

import numpy as np
import pytest
from conftest import empty_store
from dashboard_examples import served, standing_in
from PIL import Image
from tracking_examples import INFO

from wsss.data.folder import add_folder
from wsss.data.palette_png import write_palette_png
from wsss.scores.evaluation import Evaluation
from wsss.tracking.info import DatasetInfo
from wsss.tracking.maps import LABELS, SCORES, MapsWriter
from wsss.tracking.runs import method_run

VAL = ["50%", "a b", "no#1", "ümläut <b>"]
TRAIN = ["t1", "t2", "t3", "t4"]
CLASSES = ("background", "cat", "dog")
HEIGHT, WIDTH = 30, 40


def truth_of(image_id):
    draw = np.random.default_rng([*image_id.encode()])
    return draw.choice(np.array([0, 1, 2, 255], np.uint8), (HEIGHT, WIDTH), p=[0.4, 0.3, 0.2, 0.1])


def said_of(method, image_id):
    """What a run says: affinity is right but in the first rows, where cats are dogs; cam knows no dog at all."""
    labels = truth_of(image_id).copy()
    labels[labels == 255] = 0
    rows = slice(0, 2 + 3 * VAL.index(image_id)) if method == "affinity" else slice(0, 0)
    labels[rows][labels[rows] == 1] = 2
    if method == "cam":
        labels[labels == 2] = 0
    return labels


def scores_of(image_id):
    return np.random.default_rng([*image_id.encode(), 1]).random((2, 3, 4)).astype(np.float16)


def matrices_of(method):
    pairs = [(truth_of(i), said_of(method, i)) for i in VAL]
    known = [(truth[truth != 255], said[truth != 255]) for truth, said in pairs]
    return np.stack([np.bincount(3 * t.astype(int) + s, minlength=9).reshape(3, 3) for t, s in known]).astype(np.int32)


def log_run(method, dataset="photos", maps=True):
    of = {"train": 3, "dev": 1, "val": 9}
    info = replace(
        INFO,
        method=method,
        dataset=DatasetInfo(dataset, f"data/{dataset}", "d" * 64, of),
        fingerprint=method * 8,
        group=method,
        settings={},
    )
    with method_run(info) as run:
        if maps:
            for place, what in enumerate(("cam", "labels_crf", "pred", "pred_crf")):
                writer = MapsWriter(SCORES if what == "cam" else LABELS, place, CLASSES, of)
                for image_id in TRAIN if place < 2 else VAL:
                    split = "train" if place < 2 else "val"
                    if what == "cam":
                        writer.add(image_id, split, scores_of(image_id), (HEIGHT, WIDTH), (1, 2))
                    elif what == "pred" and image_id == "no#1":
                        writer.add(image_id, split, np.ones((15, 15), np.uint8), (15, 15))
                    else:
                        labels = truth_of(image_id) if place < 3 else said_of(method, image_id)
                        writer.add(image_id, split, labels, labels.shape)
                run.maps(what, writer.content())
            run.evaluation(Evaluation("val", "pred_crf", tuple(VAL), CLASSES, matrices_of(method)))
    return run.id


@pytest.fixture(scope="module")
def photos(template, tmp_path_factory):
    """A workspace with photographs of odd names, and runs on them: method to id."""
    root = tmp_path_factory.mktemp("photos")
    empty_store(template, root / "mlflow.db")
    for image_id in VAL + TRAIN:
        (root / "files").mkdir(exist_ok=True)
        (root / "masks").mkdir(exist_ok=True)
        picture = np.random.default_rng([*image_id.encode(), 2]).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(picture).save(root / "files" / f"{image_id}.png")
        write_palette_png(root / "masks" / f"{image_id}.png", truth_of(image_id))
    (root / "lists").mkdir()
    (root / "lists" / "train.txt").write_text("\n".join(TRAIN))
    (root / "lists" / "val.txt").write_text("\n".join(VAL))
    (root / "classes.txt").write_text("cat\ndog\n")
    with standing_in(root):
        options = {"class_list": root / "classes.txt", "masks": root / "masks", "lists": root / "lists"}
        add_folder(root / "files", "photos", tags="masks", **options)
        runs = {"bare": log_run("bare", maps=False), "away": log_run("away", "elsewhere")}
        runs |= {method: log_run(method) for method in ("cam", "affinity")}
    return root, runs


@pytest.fixture(scope="module")
def runs(photos):
    return photos[1]


@pytest.fixture(scope="module")
def dashboard(photos):
    with served(photos[0]) as it:
        yield it


def opened(page, dashboard, **state):
    query = "&".join(f"{key}={quote(str(value), safe=',')}" for key, value in state.items())
    page.goto(f"{dashboard.url}/masks?{query}")
    page.wait_for_selector("#masks-view[data-image]")


def until_image(page, image_id):
    page.wait_for_function("id => document.querySelector('#masks-view')?.dataset.image === id", arg=image_id)


def tile(page, title):
    return page.locator(f'.tile[data-tile="{title}"]')
