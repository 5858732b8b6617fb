"""Intervals over images: how far a mean IoU would move with other images of the same kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsss.scores.confusion import mean_over_classes


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
    low, high = np.nanquantile(_means(matrices, _draws(len(matrices), samples, rng), classes), _ends(level))
    return float(low), float(high)


def paired_bootstrap(
    first: np.ndarray, second: np.ndarray, *, samples: int = 2000, level: float = 0.95, rng: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of the difference of two mean IoUs, first less second, on the same images.

    Args:
        first, second: integer N x (C + 1) x (C + 1), confusion matrices of the same images in the same order.
        samples: how many times N images are drawn.
        level: the interval's coverage.
        rng: seed of the draws.

    Returns:
        The lower and the upper end.
    """
    draws = _draws(len(first), samples, rng)
    low, high = np.nanquantile(_means(first, draws) - _means(second, draws), _ends(level))
    return float(low), float(high)


def _draws(number: int, samples: int, rng: int) -> np.ndarray:
    """How often each image is drawn: samples x N."""
    return np.random.default_rng(rng).multinomial(number, np.full(number, 1 / number), size=samples)


def _ends(level: float) -> list[float]:
    return [(1 - level) / 2, (1 + level) / 2]


def _means(matrices: np.ndarray, draws: np.ndarray, classes: Sequence[int] | None = None) -> np.ndarray:
    """The mean IoU of each draw."""
    samples, (number, rows) = len(draws), matrices.shape[:2]
    sums = (draws.astype(np.float64) @ matrices.reshape(number, -1)).reshape(samples, rows, rows)
    hit = np.diagonal(sums, axis1=1, axis2=2)
    union = sums.sum(1) + sums.sum(2) - hit
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = hit / union
    iou = iou[:, list(classes)] if classes is not None else iou
    with np.errstate(invalid="ignore"):
        return np.array([mean_over_classes(row) for row in iou])
