"""Label maps that somebody made: a folder of PNGs, or shards, checked against the images they belong to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsss.classes import IGNORE
from wsss.data.dataset import Dataset
from wsss.data.label_maps import INDEX, LabelMaps
from wsss.data.palette_png import read_palette_png
from wsss.data.parallel import each, some
from wsss.errors import UserError


class LabelFolder:
    """Reads a folder of label maps: ID.png, palette or grey, whose values are class indices; or shards.

    Attributes:
        folder: where they lie.
        ids: the ids of all maps.

    Raises:
        UserError: the folder is none, or holds neither.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._maps = LabelMaps(folder) if (folder / INDEX).is_file() else None
        self.ids = frozenset(self._maps.ids if self._maps else (path.stem for path in folder.glob("*.png")))
        if not self.ids:
            raise UserError(f"{folder} holds no label maps; they are ID.png, named as the images are")

    def read(self, id: str) -> np.ndarray:
        """The label map of an image: uint8 H x W.

        Raises:
            UserError: there is none, or it can't be read, or it has colours instead of indices.
        """
        return self._maps.read(id) if self._maps else read_palette_png(self.folder / f"{id}.png")

    def check(self, dataset: Dataset) -> tuple[str, ...]:
        """Compare the label maps with the images of a dataset; its masks are not looked at.

        Returns:
            The ids of train, and those of dev where dev has maps.

        Raises:
            UserError: maps of train are missing, or some of dev; maps that can't be read, have colours, another size
                than their image, or values that are no class (in each case the first ten, and how many more).
        """
        wanted = [*dataset.splits["train"]]
        if not self.ids.isdisjoint(dataset.splits["dev"]):
            wanted += dataset.splits["dev"]
        if missing := [id for id in wanted if id not in self.ids]:
            raise UserError(
                f"{self.folder} has no label map for {len(missing):,} of the {len(wanted):,} images of {dataset.name} "
                f"in train and dev: {some(missing)}"
            )
        if problems := [
            problem for problem in each(lambda id: self._problem(id, dataset), wanted, "checking") if problem
        ]:
            raise UserError(f"the label maps in {self.folder} don't fit {dataset.name}: {some(problems)}")
        return tuple(wanted)

    def _problem(self, id: str, dataset: Dataset) -> str:
        labels, (height, width) = self.read(id), dataset.size(id)
        if labels.shape != (height, width):
            return f"{id} is {labels.shape[1]} x {labels.shape[0]}, its image {width} x {height}"
        strange = np.unique(labels[(labels > len(dataset.classes)) & (labels != IGNORE)])
        if strange.size:
            return f"{id} holds index {strange[0]} (allowed: 0 to {len(dataset.classes)} and {IGNORE})"
        return ""
