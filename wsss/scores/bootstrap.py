"""Intervals over images, or over groups of them: how far a mean IoU would move with others of the same kind.

Images of a group (a patient, a scene) are alike, and drawn one by one would seem more than they are; so what is drawn
is the group (the cluster bootstrap: Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def bootstrap(
    matrices: np.ndarray,
    *,
    classes: Sequence[int] | None = None,
    groups: Sequence[str] = (),
    samples: int = 1000,
    level: float = 0.95,
    rng: int = 0,
) -> tuple[float, float]:
    """The bootstrap interval of the mean IoU, images or groups drawn with replacement, centred on the mean.

    A draw that lacks a rare class leaves it out of its mean, so that where such classes are hard the draws lie above
    what was measured; the bootstrap's estimate of this bias is taken out of both ends.

    Args:
        matrices: integer N x (C + 1) x (C + 1), a confusion matrix for each image.
        classes: the class indices the mean is taken over; all by default.
        groups: of each image the group that is drawn as one; empty where each is its own.
        samples: how many times N images, or as many groups as there are, are drawn.
        level: the interval's coverage.
        rng: seed of the draws.

    Returns:
        The lower and the upper end.
    """
    drawn = means_of(drawn_ious(matrices, groups, samples=samples, rng=rng), classes)
    if not np.isfinite(drawn).any():
        return np.nan, np.nan
    measured = _mean_ious(_counts(matrices.sum(0, keepdims=True), classes=classes))[0]
    low, high = np.clip(ends(drawn, level) + measured - np.nanmean(drawn), 0, 1)
    return float(low), float(high)


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    *,
    classes: Sequence[int] | None = None,
    groups: Sequence[str] = (),
    samples: int = 2000,
    level: float = 0.95,
    rng: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of the difference of two mean IoUs, first less second, on the same images.

    Args:
        first, second: integer N x (C + 1) x (C + 1), confusion matrices of the same images in the same order.
        classes: the class indices the means are taken over; all by default.
        groups: of each image the group that is drawn as one; empty where each is its own.
        samples: how many times N images, or as many groups as there are, are drawn.
        level: the interval's coverage.
        rng: seed of the draws.

    Returns:
        The lower and the upper end.
    """
    drawn = [means_of(drawn_ious(each, groups, samples=samples, rng=rng), classes) for each in (first, second)]
    low, high = ends(drawn[0] - drawn[1], level)
    return float(low), float(high)


def drawn_ious(matrices: np.ndarray, groups: Sequence[str] = (), *, samples: int = 2000, rng: int = 0) -> np.ndarray:
    """The IoU of each class over N images drawn with replacement, many times; what all intervals are made from.

    Of as many images in the same groups with the same seed the same images are drawn, and the first draws are those of
    fewer samples, so that two results for the same images are paired.

    Args:
        matrices: integer N x (C + 1) x (C + 1), a confusion matrix for each image.
        groups: of each image the group that is drawn as one; empty where each is its own.
        samples: how many times N images, or as many groups as there are, are drawn.
        rng: seed of the draws.

    Returns:
        float64 samples x (C + 1), NaN where a class does not occur.
    """
    of_each = _counts(matrices, groups)
    counts = _draws(len(of_each), samples, rng).astype(np.float64) @ of_each
    hit, union = np.split(counts, 2, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return hit / union


def means_of(ious: np.ndarray, classes: Sequence[int] | None = None) -> np.ndarray:
    """The mean over the classes that occur of each row of IoUs, NaN without any.

    Args:
        ious: float64 samples x (C + 1), of `drawn_ious`.
        classes: the class indices the mean is taken over; all by default.
    """
    iou = ious[:, list(classes)] if classes is not None else ious
    occurs = np.isfinite(iou)
    means = np.full(len(iou), np.nan)
    return np.divide(np.where(occurs, iou, 0).sum(1), occurs.sum(1), out=means, where=occurs.any(1))


def ends(drawn: np.ndarray, level: float = 0.95) -> np.ndarray:
    """The lower and the upper end of the percentile interval: 2, or 2 x columns; NaN where nothing was drawn.

    Args:
        drawn: float64 samples, or samples x columns; what is NaN does not count.
        level: the interval's coverage.
    """
    # Quantiles that look for NaN take ten times as long.
    finite = np.isfinite(drawn)
    if finite.all():
        return np.quantile(drawn, _ends(level), axis=0)
    columns = drawn.reshape(len(drawn), -1)
    of_columns = [_quantiles(column[np.isfinite(column)], level) for column in columns.T]
    return np.stack(of_columns, axis=1).reshape(2, *drawn.shape[1:])


def _quantiles(values: np.ndarray, level: float) -> np.ndarray:
    return np.quantile(values, _ends(level)) if len(values) else np.full(2, np.nan)


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
    groups: Sequence[str] = (),
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
        groups: of each image the group that is drawn and exchanged as one; empty where each is its own.
        classes: the class indices the means are taken over; all by default.
        samples: how many draws and how many exchanges.
        confidence: of each bound, in (0, 1).
        rng: seed of both.
    """
    a, b = _counts(first, groups, classes), _counts(second, groups, classes)
    value = float((_mean_ious(a.sum(0)[None]) - _mean_ious(b.sum(0)[None]))[0])
    draws = _draws(len(a), samples, rng).astype(np.float64)
    low, high = np.nanquantile(_mean_ious(draws @ a) - _mean_ious(draws @ b), [1 - confidence, confidence])
    kept = np.random.default_rng([rng, 1]).integers(2, size=draws.shape).astype(np.float64)
    exchanged = _mean_ious(kept @ (a - b) + b.sum(0)) - _mean_ious(kept @ (b - a) + a.sum(0))
    # The exchange that changes nothing counts as well; rounding must not hide that it is as large.
    chance = (1 + np.count_nonzero(exchanged >= value - 1e-12)) / (1 + samples)
    return Difference(value, float(low), float(high), float(chance))


def _counts(matrices: np.ndarray, groups: Sequence[str] = (), classes: Sequence[int] | None = None) -> np.ndarray:
    """Of each image or group and each class the pixels of intersection and union: float64 N x 2 (C + 1)."""
    hit = np.diagonal(matrices, axis1=1, axis2=2).astype(np.float64)
    union = matrices.sum(1, dtype=np.int64) + matrices.sum(2, dtype=np.int64) - hit
    chosen = slice(None) if classes is None else list(classes)
    counts = np.concatenate([hit[:, chosen], union[:, chosen]], axis=1)
    if not len(groups):
        return counts
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((len(names), counts.shape[1]))
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
