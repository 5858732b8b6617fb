"""The confusion matrix of 21 classes over 500 x 375 px beside the usual boolean mask and bincount."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.common import Row, compare, threads
from wsss.scores import confusion

CLASSES = 20


def rows() -> Iterator[Row]:
    """The one claim; both matrices are compared first."""
    mask, prediction = label_maps()

    def masked() -> np.ndarray:
        valid = mask <= CLASSES
        codes = (CLASSES + 1) * mask[valid].astype(np.int64) + prediction[valid]
        return np.bincount(codes, minlength=(CLASSES + 1) ** 2).reshape(CLASSES + 1, CLASSES + 1)

    assert (masked() == confusion(mask, prediction, CLASSES)).all()
    with threads(1):
        what = "confusion matrix, 21 classes, 500 x 375, exact; boolean mask and bincount"
        yield compare("confusion", what, 1.7, lambda: confusion(mask, prediction, CLASSES), masked, rounds=201)


def label_maps() -> tuple[np.ndarray, np.ndarray]:
    """A mask with borders to ignore, and a prediction: 625 rectangles of all classes, more than a photograph has."""
    draw = np.random.default_rng(0)
    mask = draw.integers(0, CLASSES + 1, (25, 25), dtype=np.uint8).repeat(15, 0).repeat(20, 1)
    mask[::25] = 255
    prediction = np.roll(mask, 7, axis=1)
    prediction[prediction == 255] = 0
    return mask, prediction
