"""What the server answers of a label map: a palette PNG, run lengths in JSON, or the picture with colours over it.

JSON carries each class's pixels in COCO's compressed form, which COCO's and Detectron's tools read: the lengths of the
runs of a mask read down its columns, beginning with zeros; from the fourth on, the difference to the length before the
last; each as groups of 5 bits, lowest first, 0x20 added where another follows, 48 added to make it a character.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import HTTPException
from PIL import Image

from wsss.classes import palette

PNG, JSON, JPEG = "image/png", "application/json", "image/jpeg"
OFFERED = (PNG, JSON, JPEG)
"""Media types of answers, the default first: label map, run lengths, overlay."""
_JPEG_QUALITY = 90


def chosen(accept: str) -> str:
    """The media type of an answer.

    Args:
        accept: the request's `Accept` header; empty for none.

    Raises:
        HTTPException: 406, it takes none of `OFFERED`.
    """
    wanted = [_part(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    best, weight = "", 0.0
    for offered in OFFERED:
        patterns = (offered, offered.partition("/")[0] + "/*", "*/*")
        found = next((quality for pattern in patterns for kind, quality in wanted if kind == pattern), 0.0)
        if found > weight:
            best, weight = offered, found
    if not best:
        raise HTTPException(406, f"Accept asks for {accept[:100]}; answers are {', '.join(OFFERED)}")
    return best


def _part(part: str) -> tuple[str, float]:
    kind, *parameters = (word.strip().lower() for word in part.split(";"))
    quality = next((text.partition("=")[2] for text in parameters if text.startswith("q=")), "1")
    try:
        return kind, float(quality)
    except ValueError:
        return kind, 0.0


def overlay(image: np.ndarray, labels: np.ndarray) -> bytes:
    """A picture (uint8 H x W x 3) with the colours of its labels (uint8 H x W) half over it, as a JPEG."""
    halves = (image >> 1) + (palette() >> 1)[labels]
    shown = np.where(labels[..., None] > 0, halves, image)
    buffer = io.BytesIO()
    Image.fromarray(shown).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def as_json(name: str, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """A label map for JSON.

    Args:
        name: the picture's; empty where it has none.
        labels: uint8 H x W, below the number of classes.
        classes: by label-map index, the background first.

    Returns:
        `name`, `height`, `width` in px; `pixels`, the count of each class that is there by its name; `annotations`,
        one for each of them but the background, as COCO has them: `category_id` (the label-map index), `category`,
        `area` in px, `segmentation` with `size` [H, W] and `counts`.
    """
    height, width = labels.shape
    columns = np.ascontiguousarray(labels.T).ravel()
    counts = np.bincount(columns, minlength=len(classes)).tolist()
    return {
        "name": name,
        "height": height,
        "width": width,
        "pixels": {classes[index]: count for index, count in enumerate(counts) if count},
        "annotations": [
            {
                "category_id": index,
                "category": classes[index],
                "area": count,
                "segmentation": {"size": [height, width], "counts": _characters(_runs(columns == index))},
            }
            for index, count in enumerate(counts)
            if count and index
        ],
    }


def _runs(mask: np.ndarray) -> np.ndarray:
    """The lengths of the runs of a mask (bool N), the first of zeros: int64, alternating."""
    changes = np.flatnonzero(mask[1:] != mask[:-1]) + 1
    runs = np.diff(np.concatenate(([0], changes, [mask.size])))
    return np.concatenate(([0], runs)) if mask[0] else runs


def _characters(runs: np.ndarray) -> str:
    """Lengths of runs (int64) in COCO's characters."""
    rest = runs.copy()
    rest[3:] -= runs[1:-2]
    groups = []
    more = np.ones(len(rest), dtype=bool)
    while more.any():
        bits = rest & 31
        rest = rest >> 5
        follows = np.where(bits & 16, rest != -1, rest != 0)
        groups.append(np.where(more, bits + 32 * follows + 48, 0))
        more &= follows
    characters = np.stack(groups, 1).ravel()
    return characters[characters > 0].astype(np.uint8).tobytes().decode("ascii")
