"""The mean IoU of score maps at every threshold, from one pass over the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsss.scores.confusion import Scores, mean_over_classes

THRESHOLDS = 100
"""How many equal steps [0, 1] is cut into."""
PIXELS = 1 << 22
"""Pixels that are counted together, in int64."""


class ThresholdSweep:
    """Confusion matrices of argmax over [t, M_1, ..., M_C] for all thresholds t, from one pass over the data.

    The foreground argmax does not depend on t, so a histogram over (truth, foreground class, quantised maximum) holds
    all that is needed; summing it from above gives every threshold at once.

    Args:
        classes: C.
    """

    def __init__(self, classes: int) -> None:
        self.thresholds = np.arange(THRESHOLDS + 1) / THRESHOLDS
        self._histogram = np.zeros((classes + 1, classes + 1, THRESHOLDS + 1), dtype=np.int64)

    def add(self, levels: np.ndarray) -> None:
        """Count one image, or several: what `levels_of` gives of it."""
        np.add.at(self._histogram, tuple(levels[:, :3].T), levels[:, 3])

    def matrices(self) -> np.ndarray:
        """int64 T x (C + 1) x (C + 1): a pixel is foreground where its score is at least the threshold."""
        above = self._histogram[:, :, ::-1].cumsum(2)[:, :, ::-1]
        matrices = above.transpose(2, 0, 1).copy()
        matrices[:, :, 0] += self._histogram.sum((1, 2)) - above.sum(1).T
        return matrices

    def means(self, classes: Sequence[int] | None = None) -> list[float]:
        """The mean IoU at each threshold, over all classes or over some."""
        return [
            mean_over_classes(iou if classes is None else iou[list(classes)])
            for iou in (Scores.of(matrix).iou for matrix in self.matrices())
        ]

    def best(self, classes: Sequence[int] | None = None) -> tuple[float, float]:
        """The threshold with the highest mean IoU over all classes or over some, and that mean."""
        means = self.means(classes)
        at = int(np.nanargmax(means))
        return float(self.thresholds[at]), means[at]


def levels_of(mask: np.ndarray, foreground: np.ndarray, score: np.ndarray, classes: int) -> np.ndarray:
    """All that the thresholds need to know of an image: how many pixels have a truth, a class and a level of its score.

    Args:
        mask: uint8 H x W; values above `classes` (the ignore index) are left out.
        foreground: uint8 H x W, the best foreground class (1..C) of each pixel.
        score: float H x W in [0, 1], that class's score; below 0 where the image has no candidate.
        classes: C.

    Returns:
        int32 N x 4: truth, class (0 where there is no candidate), level in 0..`THRESHOLDS`, and the number of pixels.
    """
    number, bins = classes + 1, THRESHOLDS + 1
    counts = np.zeros(number * number * bins, np.int64)
    rows = max(1, PIXELS // max(mask.shape[1], 1))
    for start in range(0, len(mask), rows):
        band = slice(start, start + rows)
        kept = mask[band] < number
        scores = score[band][kept]
        none = scores < 0
        level = np.floor(np.where(none, 0, scores.astype(np.float64)) * THRESHOLDS + 1e-9).astype(np.int64)
        best = np.where(none, 0, foreground[band][kept]).astype(np.int64)
        codes = (mask[band][kept].astype(np.int64) * number + best) * bins + level
        counts += np.bincount(codes, minlength=len(counts))
    codes = np.flatnonzero(counts)
    truth_and_class, level = np.divmod(codes, bins)
    return np.stack([*np.divmod(truth_and_class, number), level, counts[codes]], 1).astype(np.int32)
