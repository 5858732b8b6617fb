"""A dataset as the record of a run knows it: what it is called and holds, without an image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wsss.classes import Classes
from wsss.data.dataset import Dataset
from wsss.data.manifest import BACKGROUND_FACT, PIXELS_FACT
from wsss.data.pixels import Pixels
from wsss.errors import UserError

_SIZES = 2000
"""The sizes of so many training images are read at most, evenly spread."""
_SIDES = "sides"


def longer_sides(dataset: Dataset) -> tuple[int, int] | None:
    """The range of the longer sides of the training images in px, but for the outermost hundredth at each end.

    None where neither the images nor their sizes are known, as of a dataset in an older record.
    """
    if not dataset.has_images:
        sides = dataset.settings.get(_SIDES)
        return None if sides is None else (int(sides[0]), int(sides[1]))
    ids = dataset.splits["train"]
    sizes = [max(dataset.size(image_id)) for image_id in ids[:: -(-len(ids) // _SIZES) or 1]]
    if not sizes:
        return None
    low, high = np.quantile(sizes, (0.01, 0.99), method="nearest").tolist()
    return int(low), int(high)


def facts(dataset: Dataset) -> dict[str, Any]:
    """What is known of a dataset without its images and tags, JSON-ready."""
    sides = longer_sides(dataset)
    return {
        _SIDES: None if sides is None else list(sides),
        "name": dataset.name,
        "kind": dataset.kind,
        "classes": list(dataset.classes.names),
        "tags_source": dataset.tags_source,
        "splits": {split: list(ids) for split, ids in dataset.splits.items()},
        "digest": dataset.digest,
        **({} if dataset.has_background else {BACKGROUND_FACT: False}),
        **({} if dataset.pixels is None else {PIXELS_FACT: dataset.pixels.record()}),
    }


def described(content: Mapping[str, Any], where: str) -> Dataset:
    """The dataset of `facts`, which has neither images nor tags.

    Args:
        content: what `facts` gave.
        where: it comes from, for the error message.

    Raises:
        UserError: it is something else.
    """
    try:
        texts = {key: content[key] for key in ("name", "kind", "tags_source", "digest")}
        if not all(isinstance(text, str) for text in texts.values()):
            raise TypeError("names must be text")
        splits = {str(split): tuple(map(str, ids)) for split, ids in content["splits"].items()}
        classes = Classes(tuple(map(str, content["classes"])), content.get(BACKGROUND_FACT, True) is not False)
        pixels = Pixels.of_record(content.get(PIXELS_FACT))
        sides = content.get(_SIDES)
        if sides is not None and not (len(sides) == 2 and 1 <= int(sides[0]) <= int(sides[1]) <= 1 << 15):
            raise ValueError("sides must be two lengths in px")
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(f"{where} does not describe its dataset ({error}); it is damaged") from None
    return Dataset(
        root=Path(),
        classes=classes,
        settings={_SIDES: sides},
        splits=splits,
        _images={},
        _tags={},
        pixels=pixels,
        **texts,
    )
