"""What a round computes from its two networks: the refined probabilities, the energy, and the confident labels.

With p the unary network's probabilities (one row for each class), W the affinities to the power beta with w_ii = 1, D
their degrees and T = W D^-1 (columns sum to one), a refinement is Y = p T^t. Each cell becomes a weighted mean of the
cells around it, so the classes of a cell keep the sum 1, and classes that are absent everywhere stay absent.

The energy is E(Y) = (1 / t) sum_i d_i ||y_i - p_i||^2 + sum_{i<j} w_ij ||y_i - y_j||^2: the paper's unary and pairwise
terms, with the unary potential psi_i(y) = d_i ||y - p_i||^2 / t. For even t, E(p T^t) <= E(p), whatever the affinities.

Proof. W is symmetric, so T is similar to S = D^-1/2 W D^-1/2, whose eigenvalues s lie in [-1, 1]. With z the
coefficients of a class's p D^1/2 in S's eigenvectors, E(p) = sum_s (1 - s) z_s^2 and
E(p T^t) = sum_s [(1 - s^t)^2 / t + (1 - s) s^2t] z_s^2. So (1 - s^t)^2 / t <= (1 - s) (1 - s^2t) is enough. Divided by
(1 - s) (1 - s^t) >= 0 it reads (1 + s + ... + s^(t-1)) / t <= 1 + s^t: on the left is a mean of numbers of at most 1,
and s^t >= 0 for even t.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from wsss.classes import IGNORE
from wsss.ops.walk import doubled_walk, random_walk

PROBABILITY_FLOOR = 1e-6
ROUNDING = 1e-6
"""What a probability may lose by resizing."""


def masked_probabilities(probabilities: Tensor, classes: Tensor) -> Tensor:
    """The probabilities given that only some classes occur.

    Args:
        probabilities: float (C + 1) x h x w, each cell's sum at most 1.
        classes: int64 K, the candidates: 0 and the tags.

    Returns:
        K x h x w, none below the floor before they are scaled to the sum 1.
    """
    kept = probabilities[classes].clamp(min=PROBABILITY_FLOOR)
    return kept / kept.sum(0)


def refine(probabilities: Tensor, affinity: Tensor, radius: int, beta: float, steps: int) -> Tensor:
    """The refined probabilities p T^t.

    Args:
        probabilities: p, float K x h x w.
        affinity: P x h x w of `pair_affinity` with every cell as a source.
        radius: of the pairs.
        beta: power of the affinities.
        steps: t.

    Returns:
        K x h x w.
    """
    size = (probabilities.shape[1], probabilities.shape[2])
    return random_walk(affinity, size, radius, probabilities, beta=beta, steps=steps)


def energy(
    labelling: Tensor, probabilities: Tensor, affinity: Tensor, radius: int, beta: float, steps: int
) -> tuple[float, float]:
    """The two terms of E(Y), unary and pairwise, each divided by the sum of the degrees.

    Args:
        labelling: Y, float K x h x w.
        probabilities, affinity, radius, beta, steps: as in `refine`.
    """
    unary, pairwise, degrees = energy_terms(labelling, probabilities, affinity, radius, beta)
    total = degrees.sum()
    return float(unary.sum() / steps / total), float(pairwise.sum() / total)


def energy_terms(
    labelling: Tensor, probabilities: Tensor, affinity: Tensor, radius: int, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What each cell adds to t times the unary term of E(Y) and to the pairwise one, and its degree.

    Args:
        labelling: Y, float K x h x w.
        probabilities, affinity, radius, beta: as in `refine`.

    Returns:
        float64 (h w) x K, (h w) x K and (h w) x 1.
    """
    twice, root = doubled_walk(affinity.double() ** beta, radius)
    y, p = (maps.double().flatten(1).t() * root for maps in (labelling, probabilities))
    return (y - p) ** 2, y * (y - twice @ y / 2), root**2


def agreed_labels(
    unary: np.ndarray, refined: np.ndarray, classes: np.ndarray, foreground: float, background: float
) -> np.ndarray:
    """The labels that both maps agree on and both are sure of.

    Args:
        unary: float K x H x W, the unary network's probabilities.
        refined: float K x H x W, the same after the refinement.
        classes: uint8 K, the class of each channel.
        foreground: what the largest probability must reach in both, for a foreground class.
        background: the same for the background.

    Returns:
        uint8 H x W; 255 where they are not sure.
    """
    best = refined.argmax(0)
    sure = np.minimum(np.take_along_axis(unary, best[None], 0)[0], np.take_along_axis(refined, best[None], 0)[0])
    labels = classes[best]
    enough = sure >= np.where(labels == 0, background, foreground) - ROUNDING
    return np.where((unary.argmax(0) == best) & enough, labels, np.uint8(IGNORE))


def keep_lost_classes(labels: np.ndarray, before: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, int]:
    """Give a class without a confident pixel the region back that it had in the round before, where that is open.

    Args:
        labels: uint8 H x W, the confident labels.
        before: uint8 H x W, those of the round before.
        classes: uint8 K, the candidates.

    Returns:
        uint8 H x W labels, and how many classes got their region back.
    """
    lost = [c for c in classes if (before == c).any() and not (labels == c).any()]
    back = (labels == IGNORE) & np.isin(before, lost)
    return np.where(back, before, labels), len(lost)
