"""Ground-truth masks: what is scored against; methods are never handed them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsss.classes import IGNORE
from wsss.data.changes import mending
from wsss.data.layout import MASKS, MASKS_AUG, masks_in
from wsss.data.manifest import read_manifest
from wsss.data.palette_png import read_palette_png
from wsss.errors import UserError

if TYPE_CHECKING:
    from wsss.data import Dataset


class Masks:
    """The ground-truth masks of a dataset: the official ones first, then the additional ones (SBD's on VOC).

    Methods are never handed this, save one that declares the supervision "masks".
    """

    def __init__(self, dataset: Dataset) -> None:
        self._root = dataset.root
        self._dataset = dataset

    def path(self, image_id: str) -> Path | None:
        """The mask's file, or None where the image has no mask."""
        for folder in (MASKS, MASKS_AUG):
            path = self._root / folder / f"{image_id}.png"
            if path.exists():
                return path
        return None

    def ids(self, split: str) -> tuple[str, ...]:
        """The ids of a split that have a mask."""
        ids = self._dataset.splits.get(split, ())
        masked = masks_in(self._root) if ids else {}
        return tuple(i for i in ids if i in masked)

    def read(self, image_id: str) -> np.ndarray:
        """The mask of an image: uint8 H x W, 0..C (1..C without a background) and 255 (ignore).

        Raises:
            UserError: there is none, it is not a label map, or it holds a value that is no class.
        """
        path = self.path(image_id)
        if path is None:
            raise UserError(f"image {image_id} of dataset {self._dataset.name} has no mask")
        mask = read_palette_png(path)
        allowed = self._dataset.classes.indices
        if (((mask > allowed[-1]) & (mask != IGNORE)) | (mask < allowed[0])).any():
            raise UserError(f"{path} holds values that are neither a class ({allowed[0]}..{allowed[-1]}) nor {IGNORE}")
        return mask

    def digest(self, split: str) -> str:
        """sha256 over the ids of a split that have a mask, and the hashes of these masks."""
        return self.digest_of(self.ids(split))

    def digest_of(self, ids: Iterable[str]) -> str:
        """sha256 over ids and the hashes of their masks, as the manifest has them.

        Raises:
            UserError: a mask that the manifest does not know.
        """
        total = hashlib.sha256()
        masked = masks_in(self._root)
        for image_id in ids:
            name = masked[image_id]
            if name not in self._hashes:
                raise UserError(f"mask {name} came after dataset {self._dataset.name} was added; {mending(self._root)}")
            total.update(f"{image_id} {self._hashes[name]}\n".encode())
        return total.hexdigest()

    @cached_property
    def _hashes(self) -> dict[str, str]:
        """Path in the dataset to sha256, of its masks."""
        entries = read_manifest(self._root)
        return {name: entries[name].sha256 for name in entries if name.startswith((f"{MASKS}/", f"{MASKS_AUG}/"))}
