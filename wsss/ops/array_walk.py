"""The random walk on arrays, for programs: `wsss.walk`."""

from __future__ import annotations

import numpy as np
import torch

from wsss.errors import UserError
from wsss.ops.pairs import Reduction, pair_affinity
from wsss.ops.walk import random_walk


def walk(
    scores: np.ndarray,
    features: np.ndarray,
    *,
    radius: int = 5,
    beta: float = 8.0,
    steps: int = 256,
    reduction: Reduction = "mean",
) -> np.ndarray:
    """Score maps spread by a random walk to where the features are alike (AffinityNet, section 4.3).

    Two cells nearer than the radius have the affinity exp(-|f_i - f_j|), its power beta is the weight of a step.

    Args:
        scores: floating K x h x w.
        features: floating D x h x w, of the same cells; such as a network's, or colours.
        radius: pairs lie closer than this, in cells, at least 2.
        beta: power of the affinities, at least 0; the higher, the more the walk keeps to alike cells.
        steps: of the walk; 0 returns the scores.
        reduction: whether |f_i - f_j| is the "mean" or the "sum" over the D channels.

    Returns:
        float32 K x h x w.

    Raises:
        UserError: shapes that don't fit, NaN, or a number out of its range.
    """
    scores, features = np.asarray(scores), np.asarray(features)
    if scores.ndim != 3 or features.ndim != 3 or scores.shape[1:] != features.shape[1:]:
        raise UserError(
            f"a walk needs scores K x h x w and features D x h x w of the same cells, these are {scores.shape} and "
            f"{features.shape}"
        )
    cells = torch.from_numpy(features.astype(np.float32))[None]
    affinity = pair_affinity(cells, radius, reduction, every_source=True)[0]
    start = torch.from_numpy(scores.astype(np.float32))
    return random_walk(affinity, (start.shape[1], start.shape[2]), radius, start, beta=beta, steps=steps).numpy()
