"""Which images' panels a run shows, and what stands in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from wsss.data import Dataset
from wsss.data.label_maps import LabelMaps, encode_palette_png
from wsss.data.score_maps import ScoreMaps
from wsss.evaluation import Masks
from wsss.steps import StepResult
from wsss.tracking.panels import panel, png

IMAGES = {"train": 6, "val": 6}
_LABEL_MAPS = {
    "labels": "refined",
    "labels_crf": "labels",
    "direct_crf": "direct",
    "pred": "pred",
    "pred_crf": "pred_crf",
}


def panel_ids(dataset: Dataset) -> list[str]:
    """The images that every run shows: the first few of train and of val."""
    return [image_id for split, number in IMAGES.items() for image_id in dataset.splits[split][:number]]


def run_panels(dataset: Dataset, results: Mapping[str, StepResult]) -> Iterator[tuple[str, bytes, dict[str, bytes]]]:
    """Image id, panel (PNG) and the palette PNGs behind it, of each of `panel_ids`.

    Args:
        dataset: the images; their masks are shown where there are any.
        results: the finished steps by key.
    """
    masks = Masks(dataset)
    label_maps = {
        shown: LabelMaps(result.folder / what)
        for result in results.values()
        for what, shown in _LABEL_MAPS.items()
        if (result.folder / what / "index.json").exists() and not result.key.startswith("refine.labels")
    }
    scores = {
        "cam": ScoreMaps(results["localize.infer"].folder / "cam") if "localize.infer" in results else None,
        "background": ScoreMaps(results["refine.walk"].folder / "scores") if "refine.walk" in results else None,
    }
    for image_id in panel_ids(dataset):
        labels = {name: maps.read(image_id) for name, maps in label_maps.items() if image_id in maps}
        parts: dict[str, np.ndarray] = dict(labels)
        if masks.path(image_id) is not None:
            parts["mask"] = masks.read(image_id)
        for name, maps in scores.items():
            if maps is not None and image_id in maps:
                read = maps.read(image_id)
                parts[name] = read.scores[0] if name == "background" else read.scores
        yield (
            image_id,
            png(panel(dataset.image(image_id), parts)),
            {k: encode_palette_png(v) for k, v in labels.items()},
        )
