"""Ground-truth masks, the confusion matrix, and every figure derived from it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsss.classes import IGNORE
from wsss.data.label_maps import read_palette_png
from wsss.data.manifest import read_manifest
from wsss.errors import UserError
from wsss.ops.histogram import pair_histogram

if TYPE_CHECKING:
    from wsss.data import Dataset

MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug")


class Masks:
    """The ground-truth masks of a dataset: the official ones first, then the additional ones (SBD's on VOC).

    Methods are never handed this, save one that declares the supervision "masks".
    """

    def __init__(self, dataset: Dataset) -> None:
        self._root = dataset.root
        self._classes = len(dataset.classes)
        self._dataset = dataset

    def path(self, image_id: str) -> Path | None:
        """The mask's file, or None where the image has no mask."""
        for folder in MASK_FOLDERS:
            path = self._root / folder / f"{image_id}.png"
            if path.exists():
                return path
        return None

    def ids(self, split: str) -> tuple[str, ...]:
        """The ids of a split that have a mask."""
        return tuple(i for i in self._dataset.splits.get(split, ()) if self.path(i) is not None)

    def read(self, image_id: str) -> np.ndarray:
        """The mask of an image: uint8 H x W, 0..C and 255 (ignore).

        Raises:
            UserError: there is none, it is not a label map, or it holds a value that is no class.
        """
        path = self.path(image_id)
        if path is None:
            raise UserError(f"image {image_id} of dataset {self._dataset.name} has no mask")
        mask = read_palette_png(path)
        if ((mask > self._classes) & (mask != IGNORE)).any():
            raise UserError(f"{path} holds values that are neither a class (0..{self._classes}) nor {IGNORE}")
        return mask

    def digest(self, split: str) -> str:
        """sha256 over the ids of a split and the hashes of their masks, as the manifest has them."""
        entries = read_manifest(self._root)
        total = hashlib.sha256()
        for image_id in self.ids(split):
            path = self.path(image_id)
            assert path is not None
            total.update(f"{image_id} {entries[path.relative_to(self._root).as_posix()].sha256}\n".encode())
        return total.hexdigest()


def confusion(mask: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """The confusion matrix of one image.

    Args:
        mask: uint8 H x W ground truth; values above `classes` (the ignore index) are left out.
        prediction: uint8 H x W; 255 counts as background, so that leaving pixels open can't raise a score.
        classes: C.

    Returns:
        int64 (C + 1) x (C + 1): row is the truth, column the prediction.

    Raises:
        UserError: the sizes differ, one is not uint8, or the prediction holds a value that is no class.
    """
    if mask.shape != prediction.shape:
        raise UserError(
            f"the prediction is {prediction.shape[0]} x {prediction.shape[1]} px, its mask {mask.shape[0]} x "
            f"{mask.shape[1]} px; score label maps at the image's own size"
        )
    number = classes + 1
    # All pairs of values, no boolean mask: ignored rows fall out when the histogram is cropped.
    histogram = pair_histogram(mask, prediction)[:number]
    if histogram[:, number:IGNORE].any():
        raise UserError(f"the prediction holds values that are neither a class (0..{classes}) nor {IGNORE}")
    matrix = histogram[:, :number].copy()
    matrix[:, 0] += histogram[:, IGNORE]
    return matrix


@dataclass(frozen=True)
class Scores:
    """Figures of one summed confusion matrix; per-class arrays are float64 C + 1, NaN where a class does not occur.

    `fp` and `fn` are the false positives and false negatives as shares of the union: over- and under-coverage.
    """

    iou: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    pixel_accuracy: float

    @classmethod
    def of(cls, matrix: np.ndarray) -> Scores:
        """The figures of a confusion matrix (C + 1) x (C + 1)."""
        hit = np.diagonal(matrix).astype(np.float64)
        truth, predicted = matrix.sum(1), matrix.sum(0)
        union = truth + predicted - hit
        with np.errstate(invalid="ignore", divide="ignore"):
            return cls(
                hit / union,
                (predicted - hit) / union,
                (truth - hit) / union,
                float(hit.sum() / np.float64(matrix.sum())),
            )

    @property
    def miou(self) -> float:
        """The mean IoU over the classes that occur, background included."""
        return _mean(self.iou)

    @property
    def mean_fp(self) -> float:
        return _mean(self.fp)

    @property
    def mean_fn(self) -> float:
        return _mean(self.fn)


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def bootstrap(
    matrices: np.ndarray,
    *,
    classes: Sequence[int] | None = None,
    samples: int = 1000,
    level: float = 0.95,
    rng: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean IoU, images drawn with replacement.

    Args:
        matrices: integer N x (C + 1) x (C + 1), a confusion matrix for each image.
        classes: the class indices the mean is taken over; all by default.
        samples: how many times N images are drawn.
        level: the interval's coverage.
        rng: seed of the draws.

    Returns:
        The lower and the upper end.
    """
    number, rows = len(matrices), matrices.shape[1]
    draws = np.random.default_rng(rng).multinomial(number, np.full(number, 1 / number), size=samples)
    sums = (draws.astype(np.float64) @ matrices.reshape(number, -1)).reshape(samples, rows, rows)
    hit = np.diagonal(sums, axis1=1, axis2=2)
    union = sums.sum(1) + sums.sum(2) - hit
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = hit / union
    iou = iou[:, list(classes)] if classes is not None else iou
    with np.errstate(invalid="ignore"):
        means = np.array([_mean(row) for row in iou])
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


class ThresholdSweep:
    """Confusion matrices of argmax over [t, M_1, ..., M_C] for all thresholds t, from one pass over the data.

    The foreground argmax does not depend on t, so a histogram over (truth, foreground class, quantised maximum) holds
    all that is needed; summing it from above gives every threshold at once.

    Args:
        classes: C.
        thresholds: how many equal steps [0, 1] is cut into.
    """

    def __init__(self, classes: int, thresholds: int = 100) -> None:
        self._number = classes + 1
        self.thresholds = np.arange(thresholds + 1) / thresholds
        self._bins = thresholds + 1
        self._histogram = np.zeros((self._number, self._number, self._bins), dtype=np.int64)
        self._never = np.zeros(self._number, dtype=np.int64)

    def add(self, mask: np.ndarray, foreground: np.ndarray, score: np.ndarray) -> None:
        """Count one image.

        Args:
            mask: uint8 H x W.
            foreground: uint8 H x W, the best foreground class (1..C) of each pixel.
            score: float H x W in [0, 1], that class's score; below 0 where the image has no candidate.
        """
        background = np.bincount(mask[(mask < self._number) & (score < 0)], minlength=self._number)
        self._never += background
        valid = (mask < self._number) & (score >= 0)
        level = np.floor(score[valid].astype(np.float64) * (self._bins - 1) + 1e-9).astype(np.int64)
        code = (mask[valid].astype(np.int64) * self._number + foreground[valid]) * self._bins + level
        self._histogram += np.bincount(code, minlength=self._histogram.size).reshape(self._histogram.shape)

    def matrices(self) -> np.ndarray:
        """int64 T x (C + 1) x (C + 1): a pixel is foreground where its score is at least the threshold."""
        above = self._histogram[:, :, ::-1].cumsum(2)[:, :, ::-1]
        matrices = above.transpose(2, 0, 1).copy()
        matrices[:, :, 0] += self._never + self._histogram.sum((1, 2)) - above.sum(1).T
        return matrices

    def means(self) -> list[float]:
        """The mean IoU at each threshold."""
        return [Scores.of(matrix).miou for matrix in self.matrices()]

    def best(self) -> tuple[float, float]:
        """The threshold with the highest mean IoU, and that mean."""
        means = self.means()
        at = int(np.nanargmax(means))
        return float(self.thresholds[at]), means[at]


def mean_average_precision(scores: np.ndarray, tags: np.ndarray) -> float:
    """The mean over classes of the average precision of ranking the images.

    Args:
        scores: float N x C.
        tags: bool N x C.

    Returns:
        The mean over the classes with at least one positive image; NaN without any. Average precision is the mean,
        over the positives, of the precision at each one's rank (no interpolation).
    """
    values = []
    for score, tag in zip(scores.T, tags.T, strict=True):
        if tag.any():
            ranked = tag[np.argsort(-score, kind="stable")]
            values.append((ranked.cumsum() / np.arange(1, len(ranked) + 1))[ranked].mean())
    return float(np.mean(values)) if values else float("nan")
