"""The maps that a run shows of a fixed list of images, as pages read them: one zip for each thing that is drawn.

    maps/<what>.zip     stored, not deflated
        index.json      {"format", "kind", "place", "classes", "of", "images": {id: facts}}, see `Maps` and `MapFacts`
        0000.png ..     8-bit grey, without gamma or colour profile, in the order of the index

Of labels a PNG's values are the class indices; of scores the K planes lie below each other at the maps' own stride, and
255 is 1.0.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from wsss.classes import IGNORE
from wsss.data.palette_png import decode_palette_png
from wsss.errors import UserError
from wsss.tracking import names
from wsss.tracking.artifacts import list_artifacts, read_artifact
from wsss.tracking.query import RunRecord

LABELS, SCORES = "labels", "scores"
_FORMAT, _INDEX = "maps-1", "index.json"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BYTES, _IMAGES, _PIXELS = 64 << 20, 1000, 100_000_000
"""No zip of ours is larger, has more images, or an image of more pixels."""


@dataclass(frozen=True)
class MapFacts:
    """What is known of an image's map before it is decoded.

    Attributes:
        split: the image's.
        size: (H, W) of the image for which the map was made.
        shape: (h, w) of the PNG; of scores K h x w.
        classes: the class index of each of the K planes of scores; empty for labels.
    """

    split: str
    size: tuple[int, int]
    shape: tuple[int, int]
    classes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Maps:
    """The maps of one thing that a run shows.

    Attributes:
        kind: "labels" or "scores".
        place: where it stands among the things that are drawn, in the order in which they are made.
        names: the classes by index, background first.
        of: how many images each split has, shown or not.
        images: what is known of each map by id, in the order of the splits.
    """

    kind: str
    place: int
    names: tuple[str, ...]
    of: Mapping[str, int]
    images: Mapping[str, MapFacts]
    _pngs: Mapping[str, bytes]

    def ids(self, split: str) -> list[str]:
        """The images of a split."""
        return [image_id for image_id, facts in self.images.items() if facts.split == split]

    def png(self, image_id: str) -> bytes:
        """The 8-bit grey PNG of an image.

        Raises:
            UserError: there is none of that image.
        """
        if image_id not in self._pngs:
            raise UserError(f"no map of image {image_id!r} was logged")
        return self._pngs[image_id]

    def classes(self, image_id: str) -> tuple[int, ...]:
        """The class index of each plane of an image's scores; empty for labels."""
        self.png(image_id)
        return self.images[image_id].classes

    def labels(self, image_id: str) -> np.ndarray:
        """The label map of an image, uint8 H x W."""
        return decode_palette_png(self.png(image_id), f"the map of {image_id!r}")


class MapsWriter:
    """Puts maps of one kind together.

    Args:
        kind: "labels" or "scores".
        place, names, of: see `Maps`.
    """

    def __init__(self, kind: str, place: int, names: Sequence[str], of: Mapping[str, int]) -> None:
        self._index: dict[str, Any] = {
            "format": _FORMAT,
            "kind": kind,
            "place": place,
            "classes": list(names),
            "of": dict(of),
            "images": {},
        }
        self._pngs: list[bytes] = []

    def add(
        self, image_id: str, split: str, values: np.ndarray, size: tuple[int, int], classes: Sequence[int] = ()
    ) -> None:
        """Add an image's map: labels uint8 H x W, or scores float K x h x w in [0, 1] with a class for each plane."""
        if values.ndim == 3:
            values = np.rint(values.astype(np.float32) * 255).astype(np.uint8).reshape(-1, values.shape[-1])
        if values.size == 0:
            return
        facts = {"split": split, "size": list(size), "shape": list(values.shape), "classes": [int(c) for c in classes]}
        self._index["images"][image_id] = facts
        self._pngs.append(grey_png(values))

    def content(self) -> bytes:
        """The zip; empty without any map."""
        if not self._pngs:
            return b""
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(zipfile.ZipInfo(_INDEX), json.dumps(self._index, separators=(",", ":")))
            for number, png in enumerate(self._pngs):
                archive.writestr(zipfile.ZipInfo(_member(number)), png)
        return file.getvalue()


def grey_png(values: np.ndarray) -> bytes:
    """Values (uint8 H x W) as an 8-bit grey PNG without filters, which make flat areas larger, and nothing beside."""
    height, width = values.shape
    rows = np.pad(values, ((0, 0), (1, 0))).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")


def drawn(run: RunRecord) -> dict[str, list[str]]:
    """What a run shows, in the order in which it is made, to the images of which it does; empty without maps.

    Raises:
        UserError: a zip can't be read, or the tracking store can't be used.
    """
    found = {what: read(run.id, what) for what in _listed(run.id, run.status)}
    return {what: list(maps.images) for what, maps in sorted(found.items(), key=lambda item: item[1].place)}


@lru_cache(maxsize=64)
def read(run_id: str, what: str) -> Maps:
    """The maps of one thing that a run shows; what was read stays in memory.

    Args:
        run_id: MLflow's.
        what: such as "labels_crf".

    Raises:
        UserError: the run has none, they can't be read, or the tracking store can't be used.
    """
    path = names.maps_file(what)
    try:
        return decode(read_artifact(run_id, path), f"artifact {path} of run {run_id}")
    except FileNotFoundError as error:
        raise UserError(str(error)) from None


def decode(content: bytes, where: str) -> Maps:
    """The maps of a zip, each checked before anybody decodes it.

    Args:
        content: of the zip.
        where: it comes from, for the error message.

    Raises:
        UserError: it is no such zip.
    """
    try:
        return _decoded(content)
    except (ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, EOFError, NotImplementedError) as why:
        raise UserError(f"{where} can't be read: {why}") from None


def _decoded(content: bytes) -> Maps:
    if len(content) > _BYTES:
        raise ValueError(f"it has {len(content):,} bytes, more than any zip of maps")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(content):
                raise ValueError(f"its member {info.filename!r} is not stored as it is")
        index = json.loads(archive.read(_INDEX))
        if index["format"] != _FORMAT or index["kind"] not in (LABELS, SCORES):
            raise ValueError(f"its format is {index['format']!r}, not {_FORMAT}: a newer version wrote it")
        if len(index["images"]) > _IMAGES or len(index["classes"]) > IGNORE:
            raise ValueError("it has more images or classes than any zip of maps")
        pngs = {image_id: archive.read(_member(number)) for number, image_id in enumerate(index["images"])}
    images = {image_id: _facts(image_id, entry, index["kind"]) for image_id, entry in index["images"].items()}
    for image_id, png in pngs.items():
        shape = images[image_id].shape
        if png[:8] != _SIGNATURE or png[12:29] != b"IHDR" + struct.pack(">IIBBBBB", *shape[::-1], 8, 0, 0, 0, 0):
            raise ValueError(f"the map of {image_id!r} is no grey PNG of {shape[0]} x {shape[1]}")
    of = {str(split): int(count) for split, count in index["of"].items()}
    return Maps(index["kind"], int(index["place"]), tuple(map(str, index["classes"])), of, images, pngs)


def _facts(image_id: str, entry: Mapping[str, Any], kind: str) -> MapFacts:
    height, width = map(int, entry["size"])
    rows, columns = map(int, entry["shape"])
    classes = tuple(map(int, entry["classes"]))
    if min(height, width, rows, columns) < 1 or max(height * width, rows * columns) > _PIXELS:
        raise ValueError(f"the map of {image_id!r} is {rows} x {columns} of an image of {height} x {width}")
    if not all(0 <= c <= IGNORE for c in classes) or (kind == SCORES and (not classes or rows % len(classes))):
        raise ValueError(f"the map of {image_id!r} has {rows} rows for the classes {list(classes)}")
    return MapFacts(str(entry["split"]), (height, width), (rows, columns), classes)


def _listed(run_id: str, status: str) -> tuple[str, ...]:
    """What a run shows. Of a finished run it is asked once."""
    return _finished(run_id) if status == "FINISHED" else _list(run_id)


def _list(run_id: str) -> tuple[str, ...]:
    return tuple(what for path in list_artifacts(run_id, names.MAPS) if (what := names.shown_in(path)))


_finished = lru_cache(maxsize=1024)(_list)


def _member(number: int) -> str:
    return f"{number:04d}.png"


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
