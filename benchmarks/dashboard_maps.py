"""Photographs with random masks, and what runs of a generated store made of them: evaluations and maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import photographs
from wsss.classes import BACKGROUND, VOC
from wsss.data.folder import add_folder
from wsss.data.palette_png import encode_palette_png
from wsss.scores import Evaluation
from wsss.scores.confusion import confusion
from wsss.scores.evaluation import encode
from wsss.storage import write_bytes
from wsss.tracking import names
from wsss.tracking.maps import LABELS, MapsWriter

PICTURES = 3
"""Of each run, for pages that show pictures alone."""
_SIZE = (375, 500)
_TRAIN = 40
"""Images of the dataset beside those that are shown."""


def write_maps(root: Path, runs: Sequence[str], images: int, dataset: str = "photos") -> None:
    """Write a dataset of photographs with random masks, and what runs made of it: evaluations and maps.

    Args:
        root: the workspace; the process stands in it.
        runs: ids of runs whose artifacts lie below `mlruns/0`.
        images: of val, all of them with maps.
        dataset: its name.
    """
    draw = np.random.default_rng(0)
    folder = root / "made"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    pictures = photographs(images + _TRAIN)
    truth = {}
    for number, picture in enumerate(pictures):
        name = f"photo{number:04d}"
        Image.fromarray(picture).save(folder / "images" / f"{name}.jpg", quality=85)
        truth[name] = _regions(draw)
        (folder / "masks" / f"{name}.png").write_bytes(encode_palette_png(truth[name]))
    names_of = list(truth)
    (folder / "train.txt").write_text("\n".join(names_of[:_TRAIN]), encoding="utf-8")
    (folder / "val.txt").write_text("\n".join(names_of[_TRAIN:]), encoding="utf-8")
    (folder / "classes.txt").write_text("\n".join(VOC), encoding="utf-8")
    add_folder(
        folder / "images",
        dataset,
        tags="masks",
        class_list=folder / "classes.txt",
        masks=folder / "masks",
        lists=folder,
    )
    shown = names_of[_TRAIN:]
    classes = (BACKGROUND, *VOC)
    for run in runs:
        artifacts = root / "mlruns" / "0" / run / "artifacts"
        predicted = {name: np.roll(truth[name], draw.integers(-20, 20, 2), (0, 1)) for name in shown}
        matrices = [confusion(truth[name], predicted[name], len(classes)) for name in shown]
        for what in ("pred", "pred_crf"):
            evaluation = Evaluation("val", what, tuple(shown), classes, np.array(matrices, np.int32))
            write_bytes(artifacts / names.confusion_file("val", what), encode(evaluation))
        writer = MapsWriter(LABELS, 0, classes, {"val": images})
        for name in shown:
            writer.add(name, "val", predicted[name], _SIZE)
        write_bytes(artifacts / names.maps_file("pred_crf"), writer.content())
        for number, name in enumerate(shown[:PICTURES]):
            write_bytes(artifacts / f"pictures/{number}.png", encode_palette_png(predicted[name]))


def _regions(draw: np.random.Generator) -> np.ndarray:
    """Rectangles of a few classes on background, uint8 H x W."""
    labels = np.zeros(_SIZE, np.uint8)
    for index in draw.integers(1, len(VOC) + 1, 3):
        top, left = draw.integers(0, 250), draw.integers(0, 350)
        labels[top : top + 120, left : left + 140] = index
    return labels
