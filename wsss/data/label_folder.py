"""Label maps that somebody made: a folder of PNGs, or shards, checked against the images they belong to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsss.classes import IGNORE
from wsss.data.agreement import check_labels
from wsss.data.dataset import Dataset
from wsss.data.ids import files_by_id
from wsss.data.label_maps import INDEX, LabelMaps
from wsss.data.masks import values_in
from wsss.data.palette_png import read_palette_png
from wsss.data.parallel import each, some
from wsss.errors import UserError
from wsss.progress import say

PNG = frozenset({".png"})


class LabelFolder:
    """Reads a folder of label maps: ID.png, palette or grey, whose values are class indices; or shards.

    Attributes:
        folder: where they lie.
        ids: the ids of all maps.

    Raises:
        UserError: the folder is none, holds neither, or two files of one id.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._maps = LabelMaps(folder) if (folder / INDEX).is_file() else None
        self._files = {} if self._maps else files_by_id(folder, PNG, below=True, whole=True)
        self.ids = frozenset(self._maps.ids if self._maps else self._files)
        if not self.ids:
            raise UserError(f"{folder} holds no label maps; they are ID.png, named as the images are")

    def read(self, id: str) -> np.ndarray:
        """The label map of an image: uint8 H x W.

        Raises:
            UserError: there is none, or it can't be read, or it has colours instead of indices.
        """
        if self._maps:
            return self._maps.read(id)
        if id not in self._files:
            raise UserError(f"label map {self.folder / id}.png is missing")
        return read_palette_png(self._files[id])

    def check(self, dataset: Dataset, *, max_disagreement: float = 1) -> tuple[str, ...]:
        """Compare the label maps with the images and tags of a dataset; its masks are not looked at.

        What the user should know though they can be used is said on the standard error.

        Args:
            dataset: the dataset.
            max_disagreement: the share of maps that may disagree with their image's tags, 0 to 1.

        Returns:
            The ids of train, and those of dev where dev has maps.

        Raises:
            UserError: maps of train are missing, or some of dev; maps that can't be read, have colours, another size
                than their image, or values that are no class (in each case the first ten, and how many more); more maps
                disagree with the tags than may.
        """
        wanted = [*dataset.splits["train"]]
        if not self.ids.isdisjoint(dataset.splits["dev"]):
            wanted += dataset.splits["dev"]
        if missing := [id for id in wanted if id not in self.ids]:
            raise UserError(
                f"{self.folder} has no label map for {len(missing):,} of the {len(wanted):,} images of {dataset.name} "
                f"in train and dev: {some(missing)}"
            )
        values: dict[str, frozenset[int]] = {}
        looks = each(lambda id: self._look(id, dataset, values), wanted, "checking")
        if problems := [problem for problem in looks if problem]:
            raise UserError(f"the label maps in {self.folder} don't fit {dataset.name}: {some(problems)}")
        if max_disagreement < 1 and (note := check_labels(values, dataset, self.folder, max_disagreement)):
            say(note)
        return tuple(wanted)

    def _look(self, id: str, dataset: Dataset, values: dict[str, frozenset[int]]) -> str:
        """What is wrong with a map; its values go into `values`."""
        labels, (height, width) = self.read(id), dataset.size(id)
        if labels.shape != (height, width):
            return f"{id} is {labels.shape[1]} x {labels.shape[0]}, its image {width} x {height}"
        values[id] = values_in(labels)
        allowed = dataset.classes.indices
        strange = sorted(values[id] - {*allowed, IGNORE})
        return f"{id} holds index {strange[0]} (allowed: {allowed[0]} to {allowed[-1]} and {IGNORE})" if strange else ""
