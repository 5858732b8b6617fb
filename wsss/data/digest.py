"""What a dataset is, as one hash: what methods learn from, and nothing of its masks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from wsss.classes import Classes
from wsss.data import layout
from wsss.data.manifest import BACKGROUND_FACT, PIXELS_FACT, Entry
from wsss.data.pixels import Pixels

_ROWS = 1000


def digest(
    classes: Classes,
    splits: Mapping[str, tuple[str, ...]],
    images: Mapping[str, str],
    entries: Mapping[str, Entry],
    tags: Mapping[str, np.ndarray],
    groups: Mapping[str, str],
    pixels: Pixels | None,
) -> str:
    """The sha256 of one JSON object, of which never more than `_ROWS` images are in memory."""
    bits: dict[bytes, str] = {}

    def row(id: str) -> list[str | None]:
        image = entries[images[id]].sha256 if id in images else None
        if id not in tags:
            return [id, image, None]
        key = tags[id].tobytes()
        if key not in bits:
            bits[key] = "".join(map(str, tags[id].astype(int)))
        return [id, image, bits[key]]

    total = hashlib.sha256(b'{"classes":' + _json(classes.names))
    for split in (*layout.SPLITS, *((layout.TEST,) if layout.TEST in splits else ())):
        total.update(f',"{split}":['.encode())
        for start in range(0, len(splits[split]), _ROWS):
            rows = [row(id) for id in splits[split][start : start + _ROWS]]
            total.update((b"," if start else b"") + _json(rows)[1:-1])
        total.update(b"]")
    rest: dict[str, Any] = {"groups": sorted(groups.items())} if groups else {}
    rest |= {} if classes.background else {BACKGROUND_FACT: False}
    rest |= {} if pixels is None else {PIXELS_FACT: pixels.record()}
    total.update(b"," + _json(rest)[1:] if rest else b"}")
    return total.hexdigest()


def _json(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()
