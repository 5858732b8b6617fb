"""Label maps on disk: a folder of palette PNGs in tar shards, the same bytes for the same labels.

    labels-00.tar .. labels-15.tar   uncompressed, sorted by id, times and owners 0
    index.json                       per id: shard, offset and size of its PNG, shape, sha256 of shape and labels

A map's shard follows from its id alone, so that one changed map changes one shard. `index.json` is written last: a
folder without it is not complete and can't be read.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from wsss.data.palette_png import decode_palette_png, encode_palette_png
from wsss.data.record_file import RecordFile
from wsss.errors import UserError
from wsss.storage import inside, write_bytes

SHARDS = 16
INDEX = "index.json"
FORMAT = "label-maps-1"
_RECORDS = ".records"


@dataclass(frozen=True)
class EncodedLabelMap:
    """A label map as it lies on disk.

    Attributes:
        png: the bytes of its palette PNG.
        shape: (H, W).
        sha256: of its shape and labels, in hexadecimal.
    """

    png: bytes
    shape: tuple[int, int]
    sha256: str


def encode_label_map(labels: np.ndarray) -> EncodedLabelMap:
    """Encode a label map (uint8 H x W), in whatever thread or process made it.

    Raises:
        ValueError: another type or number of axes, or no pixels.
    """
    return EncodedLabelMap(encode_palette_png(labels), (labels.shape[0], labels.shape[1]), label_digest(labels))


class LabelMapWriter:
    """Writes a folder of label maps; use it in a `with` block and call `add` from any thread and in any order.

    Opening it empties the folder of label maps that an earlier writer left, finished or not. The PNGs wait in one
    hidden file, so that memory holds the index only; leaving the block sorts them into the shards. When the block
    raises, nothing is left that `LabelMaps` would read.

    Attributes:
        kept: the ids of the maps that need not be made again: those that an interrupted writer left.

    Args:
        folder: where the maps go.
        resume: keep what an interrupted writer of the same maps left, killed or raised out of its block.
    """

    def __init__(self, folder: Path, *, resume: bool = False) -> None:
        self.folder = Path(folder)
        self.kept: frozenset[str] = frozenset()
        self._resume = resume

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / INDEX).unlink(missing_ok=True)
        for shard in range(SHARDS):
            (self.folder / _shard_name(shard)).unlink(missing_ok=True)
        self._records = RecordFile(self.folder / _RECORDS, self._resume)
        self.kept = frozenset(self._records.facts)
        return self

    def add(self, id: str, labels: np.ndarray | EncodedLabelMap) -> None:
        """Add one map; one that was kept is left as it is.

        Args:
            id: the image's id; also the member's name in its shard, with ".png" after it.
            labels: uint8 H x W, encoded or not.

        Raises:
            ValueError: labels of another type or shape, or an id that was added before.
        """
        if id not in self.kept:
            encoded = encode_label_map(labels) if isinstance(labels, np.ndarray) else labels
            self._records.add(id, encoded.png, shape=list(encoded.shape), sha256=encoded.sha256)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._records.close() if self._resume else self._records.remove()
            return
        entries = {id: entry for shard in range(SHARDS) for id, entry in self._assemble(shard)}
        index = {"format": FORMAT, "maps": dict(sorted(entries.items()))}
        write_bytes(self.folder / INDEX, (json.dumps(index, indent=1) + "\n").encode())
        self._records.remove()

    def _assemble(self, shard: int) -> list[tuple[str, dict[str, object]]]:
        """Write a shard; the index entries of its maps."""
        entries: list[tuple[str, dict[str, object]]] = []
        name = _shard_name(shard)
        unfinished = self.folder / f".{name}"
        with tarfile.open(unfinished, "w", format=tarfile.PAX_FORMAT) as tar:
            for id in sorted(id for id in self._records.facts if _shard_of(id) == shard):
                png = self._records.read(id)
                member = tarfile.TarInfo(id + ".png")
                member.size = len(png)
                start = tar.offset + len(member.tobuf(tar.format, tar.encoding, tar.errors))
                tar.addfile(member, io.BytesIO(png))
                entries.append((id, {**self._records.facts[id], "shard": shard, "offset": start, "size": len(png)}))
        os.replace(unfinished, self.folder / name)
        return entries


class LabelMaps:
    """Reads a folder of label maps; `read` goes straight to the map's bytes and may be called from any thread.

    Attributes:
        folder: where the maps lie.
        ids: the ids of all maps, sorted.
        digest: sha256 over all ids and maps; equal for equal labels, however they were written.

    Raises:
        UserError: the folder holds no complete set of label maps.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._maps = read_index(self.folder, FORMAT, "label maps")
        self.ids: tuple[str, ...] = tuple(sorted(self._maps))
        lines = "".join(f"{id}\n{self._maps[id]['sha256']}\n" for id in self.ids)
        self.digest = hashlib.sha256(lines.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, id: object) -> bool:
        return id in self._maps

    def read(self, id: str) -> np.ndarray:
        """The label map of an image: uint8 H x W.

        Raises:
            UserError: there is no such map, or its bytes are not those that were written.
        """
        entry = find_entry(self._maps, id, self.folder, "label map")
        shard = self.folder / _shard_name(entry["shard"])
        try:
            with shard.open("rb") as file:
                file.seek(entry["offset"])
                data = file.read(entry["size"])
        except OSError as error:
            raise UserError(f"label map {id!r} can't be read from {shard}: {error.strerror}") from error
        labels = decode_palette_png(data, f"label map {id!r} in {shard}")
        if label_digest(labels) != entry["sha256"]:
            raise UserError(f"label map {id!r} in {shard} is damaged: its hash is not that of {INDEX}; make it anew")
        return labels


def read_index(folder: Path, format: str, what: str) -> dict[str, dict]:
    """The entries by id of a folder's `index.json`.

    Raises:
        UserError: there is none, it is of another format or damaged, or an id would leave the folder as a file's name.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no complete set of {what}: {INDEX} is missing") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {error}") from error
    if not isinstance(index, dict) or index.get("format") != format:
        raise UserError(f"{path} is not an index of {what} (format {format})")
    maps = index.get("maps")
    if not isinstance(maps, dict) or not all(
        isinstance(m, dict) and type(m.get("shard")) is int for m in maps.values()
    ):
        raise UserError(f"{path} is damaged: it does not say in which shard each map lies; make the {what} anew")
    for id in maps:
        inside(folder, id)
    return maps


def index_format(folder: Path) -> str:
    """What the complete set of maps in a folder is, such as `FORMAT`; empty where there is none."""
    path = folder / INDEX
    return str(json.loads(path.read_text(encoding="utf-8")).get("format", "")) if path.is_file() else ""


def find_entry(maps: dict[str, dict], id: str, folder: Path, what: str) -> dict:
    """The entry of an id.

    Raises:
        UserError: there is none.
    """
    try:
        return maps[id]
    except KeyError:
        examples = ", ".join(sorted(maps)[:3]) or "none"
        raise UserError(f"no {what} of {id!r} in {folder}; it holds {len(maps)} (such as {examples})") from None


def label_digest(labels: np.ndarray) -> str:
    """The sha256 of the line "H W" and the labels row by row."""
    header = "{} {}\n".format(*labels.shape).encode()
    return hashlib.sha256(header + labels.tobytes()).hexdigest()


def _shard_of(id: str) -> int:
    return hashlib.sha256(id.encode()).digest()[0] % SHARDS


def _shard_name(shard: int) -> str:
    return f"labels-{shard:02d}.tar"
