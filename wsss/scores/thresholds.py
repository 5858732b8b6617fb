"""The mean IoU of score maps at every threshold, from one pass over the data."""

from __future__ import annotations

import numpy as np

from wsss.scores.confusion import Scores


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
