"""Which images' panels a run shows, and what of its steps' outputs stands in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from wsss.data import Dataset, label_maps, score_maps
from wsss.data.label_maps import LabelMaps
from wsss.data.score_maps import ScoreMap, ScoreMaps
from wsss.interface import Picture, Step, StepResult
from wsss.run.pictures import panel, png
from wsss.run.plan import Plan
from wsss.scores import Masks
from wsss.tracking.maps import LABELS, SCORES, MapsWriter

_Reader = Callable[[str], np.ndarray | ScoreMap | None]
"""From an image to its labels (uint8 H x W) or scores; None where the step made none of it."""
IMAGES = {"train": 6, "val": 6}
SHOWN = {"train": 50, "dev": 50, "val": 100}
"""Of how many images of a split the maps themselves are logged, for the pages that compare runs."""


def panel_ids(dataset: Dataset) -> list[str]:
    """The images that every run shows: the first few of train and of val."""
    return [image_id for split, number in IMAGES.items() for image_id in dataset.splits[split][:number]]


def shown_ids(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """The images of each split whose maps every run logs: the first of the split, in its order."""
    return {split: dataset.splits[split][:number] for split, number in SHOWN.items()}


def run_panels(plan: Plan, dataset: Dataset, results: Mapping[str, StepResult]) -> Iterator[tuple[str, bytes]]:
    """Image id and panel (PNG) of each of `panel_ids`.

    Args:
        plan: its steps say what is drawn, in the order in which they run.
        dataset: the images; their masks are shown where there are any.
        results: the finished steps by key.
    """
    masks = Masks(dataset)
    readers = dict(_readers(plan, results))
    for image_id in panel_ids(dataset):
        parts: dict[str, np.ndarray] = {}
        if masks.path(image_id) is not None:
            parts["mask"] = masks.read(image_id)
        made = {name: read(image_id) for name, read in readers.items()}
        parts |= {
            name: part if isinstance(part, np.ndarray) else part.scores
            for name, part in made.items()
            if part is not None
        }
        yield image_id, png(panel(dataset.image(image_id), parts))


def run_maps(plan: Plan, dataset: Dataset, results: Mapping[str, StepResult]) -> Iterator[tuple[str, bytes]]:
    """What is drawn, and its maps of each of `shown_ids` as a zip of `wsss.tracking.maps`.

    Args:
        plan: its steps say what is drawn, in the order in which they run.
        dataset: the images.
        results: the finished steps by key.
    """
    of = {split: len(dataset.splits[split]) for split in SHOWN}
    for place, (name, read) in enumerate(dict(_readers(plan, results)).items()):
        writers = {kind: MapsWriter(kind, place, dataset.classes.with_background, of) for kind in (LABELS, SCORES)}
        for split, ids in shown_ids(dataset).items():
            for image_id in ids:
                part = read(image_id)
                if isinstance(part, np.ndarray):
                    writers[LABELS].add(image_id, split, part, part.shape)
                elif part is not None:
                    writers[SCORES].add(image_id, split, part.scores, part.size, part.classes.tolist())
        # A step gives one kind of maps.
        if content := writers[LABELS].content() or writers[SCORES].content():
            yield name, content


def drawn(step: Step) -> tuple[Picture, ...]:
    """What of a step's output stands in panels: its pictures, and its scored outputs under their names."""
    return (*step.pictures, *(Picture(name, name) for name in step.outputs))


def _readers(plan: Plan, results: Mapping[str, StepResult]) -> Iterator[tuple[str, _Reader]]:
    """What the finished steps draw, with what reads it of an image."""
    for planned in plan.steps:
        if planned.key in results and planned.stage != "evaluate":
            for picture in drawn(planned.step):
                if (reader := _reader(results[planned.key].folder / picture.folder, picture)) is not None:
                    yield picture.name, reader


def _reader(folder: Path, picture: Picture) -> _Reader | None:
    """Reads what is drawn of an image; None where the folder holds no maps."""
    kind = label_maps.index_format(folder)
    if kind == label_maps.FORMAT:
        labels = LabelMaps(folder)
        return lambda image_id: labels.read(image_id) if image_id in labels else None
    if kind != score_maps.FORMAT:
        return None
    maps = ScoreMaps(folder)

    def scores(image_id: str) -> ScoreMap | None:
        if image_id not in maps:
            return None
        read = maps.read(image_id)
        chosen = read.classes == picture.index if picture.index is not None else np.full(len(read.classes), True)
        return ScoreMap(read.scores[chosen], read.classes[chosen], read.size)

    return scores
