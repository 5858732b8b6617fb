"""Random walk over pixel affinities, t steps at once and without the N x N matrix.

A is symmetric with A_ii = 1, D its degrees, T = A D^-1 (columns sum to one), and scores x (rows) become x T^t. T is
similar to S = D^-1/2 A D^-1/2, whose spectrum lies in [-1, 1], so x T^t = ((x D^1/2) S^t) D^-1/2, and the monomial has
the exact Chebyshev expansion s^t = sum_k c_k T_k(s), where c_k = 2^(1-t) binomial(t, (t - k) / 2) for k = t, t - 2, ...
and half of that at k = 0. The c_k are twice the probabilities of a fair coin's excess k in t throws: all but
about sqrt(2 t log(2 / tolerance)) of them can be dropped, and what they sum to bounds the relative error.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache

import torch

from wsss.errors import UserError
from wsss.ops.pairs import pair_offsets, source_rectangle


def random_walk(
    affinity: torch.Tensor,
    size: tuple[int, int],
    radius: int,
    scores: torch.Tensor,
    *,
    beta: float,
    steps: int,
    tolerance: float = 1e-6,
) -> torch.Tensor:
    """Scores after `steps` steps of the walk with the transitions A^beta (elementwise), columns normalised.

    Args:
        affinity: P x h x w in [0, 1]: `pairs.pair_affinity` of one map, with either rectangle of sources.
        size: H, W of the map.
        radius: the radius of the pairs.
        scores: C x H x W.
        beta: exponent of the affinities; the higher, the more the walk keeps to alike pixels.
        steps: t; 0 returns the scores.
        tolerance: the error of S^t in the spectral norm; dropping more terms makes it faster.

    Returns:
        C x H x W, the type and device of `scores`; computed in float64.

    Raises:
        UserError: shapes that do not fit, an affinity that is NaN or outside [0, 1], NaN scores, beta or steps below 0.
    """
    _check(affinity, size, radius, scores, beta, steps, tolerance)
    if steps == 0:
        return scores.clone()
    weights = _every_source(affinity.to(torch.float64) ** beta, size, radius)
    interior = affinity.shape[1:] != weights.shape[1:]
    return propagate(weights, radius, scores, chebyshev_coefficients(steps, tolerance), interior)


def mean_affinity(affinity: torch.Tensor, size: tuple[int, int], radius: int) -> torch.Tensor:
    """How alike each pixel is to those around it: the mean over its pairs, as source and as partner.

    Args:
        affinity: P x h x w in [0, 1]: `pairs.pair_affinity` of one map, with either rectangle of sources.
        size: H, W of the map.
        radius: the radius of the pairs.

    Returns:
        float32 H x W; 1 where a pixel has no pair.
    """
    weights = _every_source(affinity.to(torch.float32, copy=True), size, radius)
    there = _every_source(torch.ones_like(affinity, dtype=torch.float32), size, radius)
    sums = torch.stack((weights, there), 1)
    total = sums.sum(0)
    height, width = size
    for pair, (dy, dx) in zip(sums, pair_offsets(radius), strict=True):
        if dy < height and abs(dx) < width:
            partners = total[:, dy:, max(0, dx) : width + min(0, dx)]
            partners += pair[:, : height - dy, max(0, -dx) : width - max(0, dx)]
    return torch.where(total[1] > 0, total[0] / total[1].clamp(min=1), 1.0)


def propagate(
    weights: torch.Tensor, radius: int, scores: torch.Tensor, coefficients: list[float], interior: bool = False
) -> torch.Tensor:
    """Scores times sum_k c_k T_k(T), where T has the weights float64 P x H x W, 0 where a pair leaves the map.

    With `interior`, sources lie in `pairs.source_rectangle` alone; the weights of others are 0.
    """
    twice, root = doubled_walk(weights, radius, interior)
    before = scores.to(torch.float64).flatten(1).t().contiguous() * root
    total = coefficients[0] * before
    now = twice @ before / 2
    for k, coefficient in enumerate(coefficients[1:], start=1):
        total.add_(now, alpha=coefficient)
        if k + 1 < len(coefficients):
            before, now = now, torch.addmm(before, twice, now, beta=-1)
    return (total / root).t().reshape(scores.shape).to(scores.dtype)


def chebyshev_coefficients(steps: int, tolerance: float) -> list[float]:
    """c_0 .. c_m of s^steps = sum_k c_k T_k(s) on [-1, 1], cut where the rest sums to less than the tolerance."""
    order = torch.arange(steps % 2, steps + 1, 2, dtype=torch.float64)
    heads, throws = (steps - order) / 2, torch.tensor(float(steps), dtype=torch.float64)
    ways = torch.lgamma(throws + 1) - torch.lgamma(heads + 1) - torch.lgamma(throws - heads + 1)
    values = torch.exp(ways - (steps - 1) * math.log(2))
    values[order == 0] /= 2
    rest = values.flip(0).cumsum(0).flip(0)
    kept = max(1, int((rest > tolerance).sum()))
    coefficients = torch.zeros(int(order[kept - 1]) + 1, dtype=torch.float64)
    coefficients[order[:kept].long()] = values[:kept]
    return coefficients.tolist()


def doubled_walk(weights: torch.Tensor, radius: int, interior: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """2 S as a sparse CSR matrix (H W squared) and D^1/2 as a column, from the weights of all pairs.

    Args:
        weights: float64 P x H x W, 0 where a pair leaves the map.
        radius: of the pairs.
        interior: sources lie in `pairs.source_rectangle` alone; the weights of others are 0.
    """
    height, width = weights.shape[1:]
    fitting, shifts = _shifts(height, width, radius)
    flat = weights.flatten(1) if len(fitting) == len(weights) else weights[fitting].flatten(1)
    degrees = 1 + flat.sum(0)
    for plane, shift in zip(flat, shifts, strict=True):
        degrees[shift:] += plane[:-shift]
    inverse = degrees.rsqrt()
    values = flat.new_empty(len(shifts) + 1, flat.shape[1])
    torch.mul(flat, 2 * inverse, out=values[:-1])
    for plane, shift in zip(values, shifts, strict=False):
        plane[:-shift] *= inverse[shift:]
    values[-1] = 2 / degrees
    starts, columns, places = _structure(height, width, radius, interior, weights.device)
    entries = values.view(-1).index_select(0, places)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor support is in beta|invariant checks)")
        matrix = torch.sparse_csr_tensor(
            starts, columns, entries, (flat.shape[1], flat.shape[1]), check_invariants=False
        )
    return matrix, degrees.sqrt_()[:, None]


@lru_cache(maxsize=8)
def _structure(
    height: int, width: int, radius: int, interior: bool, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row starts and columns of the walk on a map of this size, and where each entry's weight lies (all int32).

    The weights are those of the pairs that fit, by pair and source, and behind them the diagonal.
    """
    fitting, shifts = _shifts(height, width, radius)
    pairs, count = len(shifts), height * width
    sources = source_rectangle((height, width), radius) if interior else (height, width)
    every = torch.ones(len(pair_offsets(radius)), *sources, dtype=torch.bool, device=device)
    inside = _every_source(every, (height, width), radius)[fitting].flatten(1)
    own = torch.arange(count, dtype=torch.int32, device=device)
    places = own.new_full((2 * pairs + 1, count), -1)
    places[pairs] = pairs * count + own
    for p, (here, shift) in enumerate(zip(inside, shifts, strict=True)):
        places[pairs + 1 + p] = torch.where(here, p * count + own, -1)
        places[pairs - 1 - p, shift:] = places[pairs + 1 + p, :-shift]
    ways = own.new_tensor([*(-s for s in reversed(shifts)), 0, *shifts])
    there = (places >= 0).t()
    starts = torch.cat((own.new_zeros(1), there.sum(1, dtype=torch.int32).cumsum(0, dtype=torch.int32)))
    return starts, (own[:, None] + ways)[there], places.t()[there]


def _shifts(height: int, width: int, radius: int) -> tuple[list[int], list[int]]:
    """Which pairs fit into the map at all, and how many pixels on, row by row, their partners are (above 0)."""
    offsets = pair_offsets(radius)
    fitting = [p for p, (dy, dx) in enumerate(offsets) if dy < height and abs(dx) < width]
    return fitting, [offsets[p][0] * width + offsets[p][1] for p in fitting]


def _every_source(weights: torch.Tensor, size: tuple[int, int], radius: int) -> torch.Tensor:
    """The weights of either layout as P x H x W, 0 where a pair leaves the map; in place where that is their layout."""
    if weights.shape[1:] != size:
        height, width = weights.shape[1:]
        whole = weights.new_zeros(len(weights), *size)
        whole[:, :height, radius - 1 : radius - 1 + width] = weights
        return whole
    for plane, (dy, dx) in zip(weights, pair_offsets(radius), strict=True):
        plane[max(0, size[0] - dy) :] = 0
        if dx > 0:
            plane[:, max(0, size[1] - dx) :] = 0
        elif dx < 0:
            plane[:, :-dx] = 0
    return weights


def _check(
    affinity: torch.Tensor,
    size: tuple[int, int],
    radius: int,
    scores: torch.Tensor,
    beta: float,
    steps: int,
    tolerance: float,
) -> None:
    pairs = len(pair_offsets(radius))
    size = (int(size[0]), int(size[1]))
    shape = tuple(affinity.shape)
    if shape != (pairs, *size) and shape != (pairs, *source_rectangle(size, radius)):
        raise UserError(f"affinities of shape {shape} don't fit a map of {size[0]} x {size[1]} with radius {radius}")
    if scores.ndim != 3 or scores.shape[1:] != size:
        raise UserError(f"scores of shape {tuple(scores.shape)} do not fit a map of {size[0]} x {size[1]}")
    if not ((affinity >= 0) & (affinity <= 1)).all():
        raise UserError("affinities must lie between 0 and 1, these hold NaN or other values")
    if not torch.isfinite(scores).all():
        raise UserError("the scores of a random walk must be finite, these hold NaN or infinite values")
    whole = math.isfinite(steps) and steps == int(steps) and steps >= 0
    if not (whole and beta >= 0 and math.isfinite(beta) and tolerance > 0):
        settings = f"beta {beta}, steps {steps} and tolerance {tolerance}"
        raise UserError(f"a random walk needs beta >= 0, whole steps >= 0 and tolerance > 0, not {settings}")
