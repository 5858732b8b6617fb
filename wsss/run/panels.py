"""Which images' panels a run shows, and what of its steps' outputs stands in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from wsss.data import Dataset, label_maps, score_maps
from wsss.data.label_maps import LabelMaps
from wsss.data.palette_png import encode_palette_png
from wsss.data.score_maps import ScoreMaps
from wsss.interface import Picture, Step, StepResult
from wsss.run.pictures import panel, png
from wsss.run.plan import Plan
from wsss.scores import Masks

IMAGES = {"train": 6, "val": 6}


def panel_ids(dataset: Dataset) -> list[str]:
    """The images that every run shows: the first few of train and of val."""
    return [image_id for split, number in IMAGES.items() for image_id in dataset.splits[split][:number]]


def run_panels(
    plan: Plan, dataset: Dataset, results: Mapping[str, StepResult]
) -> Iterator[tuple[str, bytes, dict[str, bytes]]]:
    """Image id, panel (PNG) and the palette PNGs behind it, of each of `panel_ids`.

    Args:
        plan: its steps say what is drawn, in the order in which they run.
        dataset: the images; their masks are shown where there are any.
        results: the finished steps by key.
    """
    masks = Masks(dataset)
    readers = {
        picture.name: reader
        for planned in plan.steps
        if planned.key in results and planned.stage != "evaluate"
        for picture in drawn(planned.step)
        if (reader := _reader(results[planned.key].folder / picture.folder, picture)) is not None
    }
    for image_id in panel_ids(dataset):
        parts: dict[str, np.ndarray] = {}
        if masks.path(image_id) is not None:
            parts["mask"] = masks.read(image_id)
        made = {name: read(image_id) for name, read in readers.items()}
        parts |= {name: part for name, part in made.items() if part is not None}
        labels = {name: encode_palette_png(part) for name, part in parts.items() if part.dtype == np.uint8}
        labels.pop("mask", None)
        yield image_id, png(panel(dataset.image(image_id), parts)), labels


def drawn(step: Step) -> tuple[Picture, ...]:
    """What of a step's output stands in panels: its pictures, and its scored outputs under their names."""
    return (*step.pictures, *(Picture(name, name) for name in step.outputs))


def _reader(folder: Path, picture: Picture) -> Callable[[str], np.ndarray | None] | None:
    """Reads what is drawn of an image: labels uint8 H x W or scores float; None where the folder holds no maps."""
    kind = label_maps.index_format(folder)
    if kind == label_maps.FORMAT:
        labels = LabelMaps(folder)
        return lambda image_id: labels.read(image_id) if image_id in labels else None
    if kind != score_maps.FORMAT:
        return None
    maps = ScoreMaps(folder)

    def scores(image_id: str) -> np.ndarray | None:
        if image_id not in maps:
            return None
        read = maps.read(image_id)
        return read.scores if picture.index is None else read.scores[read.classes == picture.index]

    return scores
