"""The confusion matrix of an image, and the scores that are derived from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsss.classes import IGNORE
from wsss.errors import UserError
from wsss.ops.histogram import pair_histogram


def confusion(mask: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """The confusion matrix of one image.

    Args:
        mask: uint8 H x W ground truth; values above `classes` (the ignore index) are left out.
        prediction: uint8 H x W; 255 counts as index 0, so that leaving pixels open can't raise a score.
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

    Index 0 never occurs where there is no background: what a prediction leaves open is then missed, and nothing else.

    `fp` and `fn` are the false positives and false negatives as shares of the union: over- and under-coverage.
    """

    iou: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    pixel_accuracy: float

    @classmethod
    def of(cls, matrix: np.ndarray, background: bool = True) -> Scores:
        """The figures of a confusion matrix (C + 1) x (C + 1), whose index 0 is the background where there is one."""
        hit = np.diagonal(matrix).astype(np.float64)
        truth, predicted = matrix.sum(1), matrix.sum(0)
        union = truth + predicted - hit
        if not background:
            union[0] = np.nan
        with np.errstate(invalid="ignore", divide="ignore"):
            return cls(
                hit / union,
                (predicted - hit) / union,
                (truth - hit) / union,
                float(hit.sum() / np.float64(matrix.sum())),
            )

    @property
    def miou(self) -> float:
        """The mean IoU over the classes that occur, the background among them where there is one."""
        return mean_over_classes(self.iou)

    @property
    def mean_fp(self) -> float:
        return mean_over_classes(self.fp)

    @property
    def mean_fn(self) -> float:
        return mean_over_classes(self.fn)


def mean_over_classes(values: np.ndarray) -> float:
    """The mean over the classes that occur (those that are not NaN); NaN without any."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
