"""What a run logs for the pages: maps of a fixed list of images, small, exact, and checked when they are read."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tracking_examples import INFO

from wsss.classes import VOC
from wsss.errors import UserError
from wsss.tracking import maps
from wsss.tracking.maps import LABELS, SCORES, MapsWriter
from wsss.tracking.query import find_run
from wsss.tracking.runs import method_run

IDS = ["a b", "ümläut", "50%", "no#1", "tag<b>"]
NAMES = ("background", "cat", "dog")


def labelled(seed, height=37, width=53):
    return np.random.default_rng(seed).choice(np.array([0, 1, 2, 255], np.uint8), (height, width))


def zipped(kind=LABELS, change=None):
    writer = MapsWriter(kind, 3, NAMES, {"train": 7, "val": 2})
    for number, image_id in enumerate(IDS):
        writer.add(image_id, "train" if number < 3 else "val", labelled(number), (37, 53))
    if change:
        change(writer)
    return writer.content()


def test_labels_come_back_value_for_value_whatever_the_image_is_called():
    read = maps.decode(zipped(), "here")
    assert (read.kind, read.place, read.names, read.of) == ("labels", 3, NAMES, {"train": 7, "val": 2})
    assert (read.ids("train"), read.ids("val")) == (IDS[:3], IDS[3:])
    for number, image_id in enumerate(IDS):
        np.testing.assert_array_equal(read.labels(image_id), labelled(number))
        with Image.open(io.BytesIO(read.png(image_id))) as png:
            assert (png.mode, png.info) == ("L", {})
            np.testing.assert_array_equal(np.asarray(png), labelled(number))
    assert read.classes("a b") == ()
    with pytest.raises(UserError, match="no map of image 'other'"):
        read.png("other")


def test_scores_are_planes_below_each_other_to_the_nearest_255th():
    scores = np.random.default_rng(0).random((3, 5, 7)).astype(np.float16)
    writer = MapsWriter(SCORES, 0, NAMES, {"train": 1})
    writer.add("a", "train", scores, (40, 56), (0, 2, 1))
    writer.add("nothing", "train", scores[:0], (40, 56), ())
    read = maps.decode(writer.content(), "here")
    assert list(read.images) == ["a"] and read.classes("a") == (0, 2, 1)
    assert (read.images["a"].shape, read.images["a"].size) == ((15, 7), (40, 56))
    planes = np.asarray(Image.open(io.BytesIO(read.png("a")))).reshape(3, 5, 7)
    assert np.abs(planes / 255 - scores.astype(float)).max() <= 0.5 / 255 + 1e-6
    assert MapsWriter(SCORES, 0, NAMES, {}).content() == b""


def rezipped(content, change, stored=True):
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        members = {name: old.read(name) for name in old.namelist()}
        change(members)
        for name, data in members.items():
            new.writestr(name, data, zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)
    return file.getvalue()


def of_index(change):
    def changed(members):
        index = json.loads(members["index.json"])
        change(index)
        members["index.json"] = json.dumps(index)

    return changed


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: m.pop("index.json"), "index.json"),
        (lambda m: m.pop("0002.png"), "0002.png"),
        (lambda m: m.update({"0001.png": b"GIF89a" + bytes(40)}), "no grey PNG"),
        (lambda m: m.update({"index.json": b"[1]"}), "can't be read"),
        (of_index(lambda i: i.update(format="maps-9")), "newer version"),
        (of_index(lambda i: i["images"]["a b"].update(shape=[60000, 60000])), "60000 x 60000"),
        (of_index(lambda i: i["images"]["a b"].update(shape=[37, 52])), "no grey PNG of 37 x 52"),
        (of_index(lambda i: i.update(kind="scores")), "37 rows"),
        (of_index(lambda i: i["images"].update({str(n): {} for n in range(2000)})), "more images"),
    ],
)
def test_a_foreign_zip_is_refused_before_anything_is_decoded(change, why):
    with pytest.raises(UserError, match=why):
        maps.decode(rezipped(zipped(), change), "artifact maps/x.zip of run 1")


def test_a_zip_that_would_grow_is_refused():
    with pytest.raises(UserError, match="not stored"):
        maps.decode(rezipped(zipped(), lambda m: None, stored=False), "here")
    with pytest.raises(UserError, match="here can't be read"):
        maps.decode(zipped()[:-30], "here")


def test_a_run_shows_what_it_logged_in_the_order_of_its_steps(store):
    with method_run(INFO) as run:
        for place, what in enumerate(("labels", "background")):
            writer = MapsWriter(LABELS, place, NAMES, {"train": 1})
            writer.add("img", "train", labelled(place), (37, 53))
            run.maps(what, writer.content())
    record = find_run(run.id)
    assert maps.drawn(record) == {"labels": ["img"], "background": ["img"]}
    np.testing.assert_array_equal(maps.read(run.id, "background").labels("img"), labelled(1))
    with pytest.raises(UserError, match="no artifact maps/pred.zip"):
        maps.read(run.id, "pred")
    with method_run(INFO) as bare:
        pass
    assert maps.drawn(find_run(bare.id)) == {}


def test_a_finished_demo_run_logs_the_maps_of_its_steps(workspace, monkeypatch):
    monkeypatch.chdir(workspace.root)
    run = find_run(workspace.run_id)
    drawn = maps.drawn(run)
    assert list(drawn) == ["cam", "background", "affinity", "labels", "labels_crf", "pred", "pred_crf"]
    cam = maps.read(run.id, "cam")
    assert cam.kind == "scores" and all(cam.classes(image_id) for image_id in cam.images)
    assert set(maps.read(run.id, "background").classes(drawn["background"][0])) == {0}
    assert maps.read(run.id, "pred").of == {"train": 32, "dev": 4, "val": 12}
    assert len(maps.read(run.id, "pred_crf").ids("val")) == 12


def test_200_images_of_21_classes_take_10_mb_at_most():
    """Blobs of all classes, rougher than what a network says of a photograph."""
    draw, size = np.random.default_rng(0), 0
    y, x = np.mgrid[:375, :500]
    for kind in ("labels", "labels_crf", "pred", "pred_crf", "cam", "background"):
        writer = MapsWriter(SCORES if kind in ("cam", "background") else LABELS, 0, ("background", *VOC), {"val": 200})
        for number in range(200):
            if kind in ("cam", "background"):
                planes = 4 if kind == "cam" else 1
                writer.add(str(number), "val", draw.random((planes, 24, 32)) ** 2, (375, 500), range(planes))
                continue
            labels = np.zeros((375, 500), np.uint8)
            for _ in range(8):
                cx, cy, r = draw.uniform(0, 500), draw.uniform(0, 375), draw.uniform(20, 90)
                angle = np.arctan2(y - cy, x - cx)
                edge = r * (1 + 0.2 * np.sin(7 * angle + draw.uniform(0, 6)) + 0.05 * np.sin(31 * angle))
                labels[np.hypot(y - cy, x - cx) < edge] = draw.integers(1, 21)
            writer.add(str(number), "val", labels, labels.shape)
            if number == 7:
                break
        share = len(writer._pngs) / 200
        size += len(writer.content()) / share
    assert size <= 10e6


def test_real_photographs_maps_are_as_small(real_data):
    """What truth itself would take, as labels of one thing."""
    files = sorted(Path(real_data).glob("**/SegmentationClass/*.png"))[:100]
    writer = MapsWriter(LABELS, 0, ("background", *VOC), {"val": 100})
    for path in files:
        labels = np.asarray(Image.open(path)).astype(np.uint8)
        writer.add(path.stem, "val", labels, labels.shape)
    assert files and len(writer.content()) / len(files) * 200 * 6 <= 10e6
