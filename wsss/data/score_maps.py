"""Score maps on disk: safetensors shards of bounded size, read through memory maps.

    scores-00000.safetensors ..   one float16 K x h x w tensor per id, about 64 MB per shard
    index.json                    per id: shard, class ids, image size; written last

A folder without `index.json` is not complete and can't be read.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from wsss.data.label_maps import INDEX, find_entry, read_index
from wsss.data.record_file import RecordFile
from wsss.errors import UserError
from wsss.storage import write_bytes

SHARD_BYTES = 64 * 2**20
FORMAT = "score-maps-1"
_RECORDS = ".records"


@dataclass(frozen=True)
class ScoreMap:
    """K maps of one image, one for each class that is a candidate in it.

    Attributes:
        scores: float16 K x h x w in [0, 1], at the stride of the net that made them.
        classes: uint8 K, the label-map index of each map, 0 (background) to C, each once.
        size: (H, W) of the image in pixels.

    Raises:
        ValueError: another type or shape, a score outside [0, 1] or not a number, a class that occurs twice.
    """

    scores: np.ndarray
    classes: np.ndarray
    size: tuple[int, int]

    def __post_init__(self) -> None:
        scores, classes = self.scores, self.classes
        if scores.dtype != np.float16 or scores.ndim != 3 or 0 in scores.shape[1:]:
            raise ValueError(f"scores are float16 K x h x w with h, w > 0, these are {scores.dtype} {scores.shape}")
        if classes.dtype != np.uint8 or classes.shape != scores.shape[:1]:
            raise ValueError(
                f"classes are uint8 with one entry for each of the {len(scores)} maps, "
                f"these are {classes.dtype} {classes.shape}"
            )
        if len(np.unique(classes)) != len(classes):
            raise ValueError(f"every class has one map, these are {classes.tolist()}")
        if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
            raise ValueError(f"scores lie in [0, 1], these in [{scores.min()}, {scores.max()}]")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"an image size is (H, W) with H, W > 0, this is {self.size}")


class ScoreMapWriter:
    """Writes a folder of score maps; use it in a `with` block and call `add` from any thread.

    Opening it empties the folder of score maps that an earlier writer left, finished or not. The maps wait in one
    hidden file; leaving the block puts them into the shards, in the order in which they were added. When the block
    raises, nothing is left that `ScoreMaps` would read.

    Attributes:
        kept: the ids of the maps that need not be made again: those that an interrupted writer left.

    Args:
        folder: where the maps go.
        shard_bytes: the most scores in a shard, unless one map has more.
        resume: keep what an interrupted writer of the same maps left, killed or raised out of its block.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES, *, resume: bool = False) -> None:
        self.folder = Path(folder)
        self.kept: frozenset[str] = frozenset()
        self._shard_bytes = shard_bytes
        self._resume = resume

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / INDEX).unlink(missing_ok=True)
        self._remove_shards()
        self._records = RecordFile(self.folder / _RECORDS, self._resume)
        self.kept = frozenset(self._records.facts)
        return self

    def add(self, id: str, score_map: ScoreMap) -> None:
        """Add the score map of the image `id`; one that was kept is left as it is.

        Raises:
            ValueError: the id was added before.
        """
        if id not in self.kept:
            self._records.add(
                id,
                score_map.scores.tobytes(),
                shape=score_map.scores.shape,
                classes=score_map.classes.tolist(),
                size=[int(side) for side in score_map.size],
            )

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._records.close() if self._resume else self._records.remove()
            return
        index: dict[str, dict[str, Any]] = {}
        for number, shard in enumerate(self._shards()):
            path = self.folder / _shard_name(number)
            unfinished = path.with_name("." + path.name)
            save_file(shard, unfinished)
            os.replace(unfinished, path)
            for id in shard:
                facts = self._records.facts[id]
                index[id] = {"shard": number, "classes": facts["classes"], "size": facts["size"]}
        content = {"format": FORMAT, "maps": dict(sorted(index.items()))}
        write_bytes(self.folder / INDEX, (json.dumps(content, indent=1) + "\n").encode())
        self._records.remove()

    def _shards(self) -> Iterator[dict[str, np.ndarray]]:
        """The scores by id, shard by shard."""
        shard: dict[str, np.ndarray] = {}
        held = 0
        for id, facts in self._records.facts.items():
            scores = np.frombuffer(self._records.read(id), np.float16).reshape(facts["shape"])
            if shard and held + scores.nbytes > self._shard_bytes:
                yield shard
                shard, held = {}, 0
            shard[id] = scores
            held += scores.nbytes
        if shard:
            yield shard

    def _remove_shards(self) -> None:
        for pattern in ("scores-*.safetensors", ".scores-*.safetensors"):
            for path in self.folder.glob(pattern):
                path.unlink()


class ScoreMaps:
    """Reads a folder of score maps; `read` may be called from any thread.

    Attributes:
        folder: where the maps lie.
        ids: the ids of all maps, sorted.

    Raises:
        UserError: the folder holds no complete set of score maps.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._maps = read_index(self.folder, FORMAT, "score maps")
        self.ids: tuple[str, ...] = tuple(sorted(self._maps))
        self._shards: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[ScoreMaps], tuple[Path]]:
        """Memory maps don't travel to another process: it opens its own."""
        return ScoreMaps, (self.folder,)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, id: object) -> bool:
        return id in self._maps

    def read(self, id: str) -> ScoreMap:
        """The score map of an image.

        Raises:
            UserError: there is no such map, or its shard can't be read.
        """
        entry = find_entry(self._maps, id, self.folder, "score map")
        path = self.folder / _shard_name(entry["shard"])
        try:
            with self._lock:
                if entry["shard"] not in self._shards:
                    self._shards[entry["shard"]] = safe_open(path, framework="numpy")
            scores = self._shards[entry["shard"]].get_tensor(id)
        except (OSError, SafetensorError) as error:
            raise UserError(f"score map {id!r} can't be read from {path}: {error}") from error
        height, width = entry["size"]
        return ScoreMap(scores, np.array(entry["classes"], dtype=np.uint8), (height, width))

    def count_empty(self) -> int:
        """How many classes' maps are 0 everywhere, over all images."""
        return sum(int((self.read(id).scores.max((1, 2), initial=0) == 0).sum()) for id in self.ids)


def _shard_name(shard: int) -> str:
    return f"scores-{shard:05d}.safetensors"
