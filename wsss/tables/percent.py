"""A mean IoU of several runs for people: its mean over rngs, the deviation, and a bootstrap interval."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsss.scores import Scores, bootstrap


@dataclass(frozen=True)
class Percent:
    """A mIoU in percent: the mean over rngs, its deviation (of several), and the interval over images."""

    mean: float
    deviation: float | None
    low: float
    high: float

    def __str__(self) -> str:
        deviation = "" if self.deviation is None else f" ± {self.deviation:.1f}"
        return f"{self.mean:.1f}{deviation} [{self.low:.1f}, {self.high:.1f}]"


def percent(
    matrices: Sequence[np.ndarray], classes: Sequence[int] | None = None, groups: Sequence[str] = ()
) -> Percent:
    """The mean over rngs, its deviation, and the bootstrap interval over images of the rngs' summed matrices.

    Args:
        matrices: of each rng, integer N x (C + 1) x (C + 1), a confusion matrix for each image.
        classes: the class indices the mean is taken over; all by default.
        groups: of each image the group that the interval draws as one; empty where each is its own.
    """

    def mean(matrix: np.ndarray) -> float:
        iou = Scores.of(matrix.sum(0, dtype=np.int64)).iou
        return 100 * float(np.nanmean(iou if classes is None else iou[list(classes)]))

    values = [mean(matrix) for matrix in matrices]
    low, high = bootstrap(np.stack(matrices).sum(0, dtype=np.int64), classes=classes, groups=groups)
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Percent(statistics.fmean(values), deviation, 100 * low, 100 * high)
