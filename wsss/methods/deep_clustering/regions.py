"""Regions: the superpixels of every image, how they are kept, and the CRF over what the rounds say of them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from wsss.interface import StepContext
from wsss.ops.superpixels import superpixels
from wsss.ops.tiles import is_large, labels_in_tiles
from wsss.settings import choice, setting
from wsss.stages.outputs import write_metrics
from wsss.stages.refine import CrfSettings, crf_labels, write_labels
from wsss.stream import ordered_map

SUPERPIXELS = "superpixels.safetensors"
PROBABILITIES = "probabilities.safetensors"


@dataclass(frozen=True)
class SuperpixelSettings:
    """Splitting images into superpixels."""

    count: int = setting(
        250, "about how many superpixels an image has", low=1, high=20000, search=choice(120, 150, 200, 250, 400)
    )
    compactness: float = setting(
        10.0, "weight of the distance in px against the distance in colour", source="scikit-image", low=0.01, high=1000
    )


class Regions:
    """Reads what `make_superpixels` wrote; `read` may be called from any thread and process.

    Attributes:
        ids: the ids of all images, sorted.
        largest: the largest number of regions in an image.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / SUPERPIXELS
        self._file = safe_open(self._path, framework="numpy")
        self.ids: tuple[str, ...] = tuple(sorted(self._file.keys()))
        self.largest = int(self._file.metadata()["largest"])

    def __reduce__(self) -> tuple[type[Regions], tuple[Path]]:
        """Memory maps don't travel to another process: it opens its own."""
        return Regions, (self._path.parent,)

    def read(self, image_id: str) -> np.ndarray:
        """The regions of an image: int32 H x W, numbered from 0 without a gap."""
        with Image.open(io.BytesIO(self._file.get_tensor(image_id).tobytes())) as png:
            return np.array(png).astype(np.int32)


def write_regions(folder: Path, maps: Iterable[tuple[str, np.ndarray]]) -> None:
    """Keep the region maps (uint16 H x W) of images in one file: for each id the bytes of a 16-bit PNG."""
    kept: dict[str, np.ndarray] = {}
    largest = 1
    for image_id, regions in maps:
        buffer = io.BytesIO()
        Image.fromarray(regions).save(buffer, "PNG", compress_level=6)
        kept[image_id] = np.frombuffer(buffer.getvalue(), np.uint8)
        largest = max(largest, int(regions.max()) + 1)
    unfinished = folder / ("." + SUPERPIXELS)
    save_file(kept, unfinished, {"largest": str(largest)})
    os.replace(unfinished, folder / SUPERPIXELS)


def make_superpixels(context: StepContext) -> None:
    """The superpixels of the images of train and dev."""
    settings: SuperpixelSettings = context.settings
    dataset = context.dataset
    ids = [*dataset.splits["train"], *dataset.splits["dev"]]
    counts: list[int] = []

    def split(image_id: str) -> np.ndarray:
        return superpixels(dataset.image(image_id), settings.count, settings.compactness)

    def maps() -> Iterable[tuple[str, np.ndarray]]:
        for image_id, regions in zip(ids, ordered_map(split, ids), strict=True):
            counts.append(int(regions.max()) + 1)
            context.report.progress(len(counts), len(ids), "images")
            yield image_id, regions

    write_regions(context.out, maps())
    write_metrics(
        context.out, {"superpixels/mean": float(np.mean(counts)), "superpixels/images_with_one": counts.count(1)}
    )


def crf_on_regions(context: StepContext) -> None:
    """The CRF's label maps (`labels_crf`): its unary at a pixel is the distribution of the pixel's region."""
    settings: CrfSettings = context.settings
    dataset = context.dataset
    regions = Regions(context.inputs["superpixels"])
    scores: Any = safe_open(context.inputs["rounds"] / PROBABILITIES, framework="numpy")

    def label(image_id: str) -> np.ndarray:
        image, own, classes = dataset.image(image_id), regions.read(image_id), dataset.candidates(image_id)
        of_regions = scores.get_tensor(image_id)[1].astype(np.float32)

        def part(rows: slice, columns: slice) -> np.ndarray:
            return crf_labels(image[rows, columns], of_regions[:, own[rows, columns]], classes, settings)

        height, width = own.shape
        if is_large(height, width):
            return labels_in_tiles(height, width, part)
        return crf_labels(image, of_regions[:, own], classes, settings)

    write_labels(context, "labels_crf", context.of_dataset(regions.ids), label)
