"""What the gate measures of a candidate and a champion: the same images, the same process, in turns."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from wsss.data import Dataset
from wsss.registry.packages import PackageFiles
from wsss.registry.verdict import Measured
from wsss.serving.evaluate import evaluate_model
from wsss.serving.segmenter import Segmenter

_IMAGES, _ROUNDS = 4, 3


def measure(
    models: Mapping[str, Segmenter], files: Mapping[str, PackageFiles], dataset: Dataset, split: str
) -> dict[str, Measured]:
    """Evaluate models on a split, and time them.

    Args:
        models: by who they are.
        files: of the same.
        dataset, split: the evaluation set.

    Raises:
        UserError: one can't be evaluated: other classes, no masks, files that changed.
    """
    evaluations = {who: evaluate_model(model, dataset, split) for who, model in models.items()}
    ids = next(iter(evaluations.values())).ids[:_IMAGES]
    times = latencies(list(models.values()), [dataset.image(id) for id in ids])
    return {who: Measured(evaluations[who], times[row], files[who].weights) for row, who in enumerate(models)}


def latencies(models: Sequence[Segmenter], images: Sequence[np.ndarray]) -> np.ndarray:
    """The milliseconds that each model takes for each image, alone: the best of some rounds, float64 M x N.

    The models take turns with each image, so that what else the machine does falls on all of them; the first round, in
    which memory is asked for, does not count.

    Args:
        models: M of them.
        images: N, uint8 H x W x 3.
    """
    best = np.full((len(models), len(images)), np.inf)
    for turn, (column, image), (row, model) in product(range(_ROUNDS + 1), enumerate(images), enumerate(models)):
        start = time.perf_counter()
        model(image)
        if turn:
            best[row, column] = min(best[row, column], 1000 * (time.perf_counter() - start))
    return best
