"""How well class scores rank the images by their tags."""

from __future__ import annotations

import numpy as np


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
