"""Intervals over images: how far a mean IoU would move with other images of the same kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    first: np.ndarray,
    second: np.ndarray,
    *,
    classes: Sequence[int] | None = None,
    samples: int = 2000,
    level: float = 0.95,
    rng: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of the difference of two mean IoUs, first less second, on the same images.

    Args:
        first, second: integer N x (C + 1) x (C + 1), confusion matrices of the same images in the same order.
        classes: the class indices the means are taken over; all by default.
        samples: how many times N images are drawn.
        level: the interval's coverage.
        rng: seed of the draws.

    Returns:
        The lower and the upper end.
    """
    draws = _draws(len(first), samples, rng)
    low, high = np.nanquantile(_means(first, draws, classes) - _means(second, draws, classes), _ends(level))
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """How much better the first of two models is on the same images.

    Attributes:
        value: the difference of their mean IoUs, in [-1, 1].
        low, high: what lies above and below it with the stated confidence each: one-sided bounds.
        chance: the share of random exchanges of the two models, image by image, that give at least this difference: for
            models that are equal it is at most p in a share p of evaluations.
    """

    value: float
    low: float
    high: float
    chance: float


def difference(
    first: np.ndarray,
    second: np.ndarray,
    *,
    groups: Sequence[str] | None = None,
    classes: Sequence[int] | None = None,
    samples: int = 2000,
    confidence: float = 0.95,
    rng: int = 0,
) -> Difference:
    """The difference of two mean IoUs, first less second, with one-sided bootstrap bounds and the chance of it.

    The percentile bootstrap (Efron 1979) says how far the difference would move with other images. It is a little too
    sure where a class is in few of them, so that the test of exchanges (Fisher 1935), which is exact for equal models,
    stands beside it.

    Args:
        first, second: integer N x (C + 1) x (C + 1), confusion matrices of the same images in the same order.
        groups: of each image the group that is drawn and exchanged as one; each image by itself without.
        classes: the class indices the means are taken over; all by default.
        samples: how many draws and how many exchanges.
        confidence: of each bound, in (0, 1).
        rng: seed of both.
    """
    a, b = _counts(first, classes), _counts(second, classes)
    if groups is not None:
        _, index = np.unique(np.asarray(groups), return_inverse=True)
        a, b = (_summed(counts, index) for counts in (a, b))
    value = float((_mean_ious(a.sum(0)[None]) - _mean_ious(b.sum(0)[None]))[0])
    draws = _draws(len(a), samples, rng).astype(np.float64)
    low, high = np.nanquantile(_mean_ious(draws @ a) - _mean_ious(draws @ b), [1 - confidence, confidence])
    kept = np.random.default_rng([rng, 1]).integers(2, size=draws.shape).astype(np.float64)
    exchanged = _mean_ious(kept @ (a - b) + b.sum(0)) - _mean_ious(kept @ (b - a) + a.sum(0))
    # The exchange that changes nothing counts as well; rounding must not hide that it is as large.
    chance = (1 + np.count_nonzero(exchanged >= value - 1e-12)) / (1 + samples)
    return Difference(value, float(low), float(high), float(chance))


def _counts(matrices: np.ndarray, classes: Sequence[int] | None) -> np.ndarray:
    """Of each image and class the pixels of the intersection and of the union: float64 N x 2 (C + 1)."""
    hit = np.diagonal(matrices, axis1=1, axis2=2).astype(np.float64)
    union = matrices.sum(1, dtype=np.int64) + matrices.sum(2, dtype=np.int64) - hit
    chosen = slice(None) if classes is None else list(classes)
    return np.concatenate([hit[:, chosen], union[:, chosen]], axis=1)


def _summed(counts: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The sums over groups, from the group's index of each row."""
    sums = np.zeros((index.max() + 1, counts.shape[1]))
    np.add.at(sums, index, counts)
    return sums


def _mean_ious(counts: np.ndarray) -> np.ndarray:
    """The mean IoU over the classes that occur of each row of `_counts`."""
    hit, union = np.split(counts, 2, axis=1)
    occurs = union > 0
    iou = np.divide(hit, union, out=np.zeros_like(hit), where=occurs)
    return iou.sum(1) / np.maximum(occurs.sum(1), 1)


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
