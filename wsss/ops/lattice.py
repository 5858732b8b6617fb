"""The permutohedral lattice: Gaussian filtering of N points in d dimensions in O(N d) (Adams, Baek & Davis 2010).

A point is spread over the d + 1 vertices of the simplex that holds it (splat), the vertices are blurred along the
d + 1 axes of the lattice, and the point reads its own vertices back (slice). The blur travels through existing
vertices only, so which vertices exist is part of the result: the embedding is computed in float32 in one fixed order
of operations (features divided by sigma first, round half to even, strict comparisons for the ranks), which is the
order of the reference code of Krahenbuhl & Koltun (2011), and must not be fused or reordered by a compiler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch.nn.functional import embedding_bag

BLUR = (1.0, 0.5, 0.5)
MAX_COORDINATE = 2**15 - 8
"""Largest lattice coordinate that is accepted; the reference code holds them in 16 bits."""
MAX_VERTICES = 2**62
"""Most places that a lattice may number, so that each has a signed 64-bit key."""


@dataclass(frozen=True)
class Lattice:
    """The lattice of N points; M vertices; every tensor lies on one device.

    `vertices` and `weights` (N (d + 1), int32 and float32) are each point's vertices and what it reads from them.
    `points` and `splat` (the same, by vertex) are each vertex' points and what they add to it; vertex m has those from
    `starts[m]` (int32 M) on. `neighbours` and `blur` ((d + 1) x 3 M, int32 and float32) are the vertex itself, the next
    and the previous one along each axis with their weights 1, 1/2, 1/2; a missing neighbour has the weight 0.
    `bags` (int32) holds the starts of the points' vertices, `triples` those of the neighbours.
    """

    dimensions: int
    vertices: torch.Tensor
    weights: torch.Tensor
    bags: torch.Tensor
    points: torch.Tensor
    splat: torch.Tensor
    starts: torch.Tensor
    neighbours: torch.Tensor
    blur: torch.Tensor
    triples: torch.Tensor

    @property
    def size(self) -> int:
        """M, the number of vertices."""
        return len(self.starts)

    def blurred(self, values: torch.Tensor) -> torch.Tensor:
        """Values at the vertices (M x K) after the blur along every axis in turn."""
        for index, weight in zip(self.neighbours, self.blur, strict=True):
            values = weighted_sums(values, index, self.triples, weight)
        return values

    def filtered(self, values: torch.Tensor) -> torch.Tensor:
        """Splat, blur and slice of N x K float32 values: about sum_j exp(-|f_i - f_j|^2 / 2) v_j, up to a constant."""
        at_vertices = weighted_sums(values, self.points, self.starts, self.splat)
        return weighted_sums(self.blurred(at_vertices), self.vertices, self.bags, self.weights)

    def normalised(self) -> Lattice:
        """The same points, filtered with k(i, j) / sqrt(sum_l k(i, l) sum_l k(j, l)) instead of the kernel k."""
        ones = torch.ones(len(self.bags), 1, device=self.weights.device)
        norm = (self.filtered(ones) + 1e-20).rsqrt()
        weights = (self.weights.view(len(norm), -1) * norm).flatten()
        return replace(self, weights=weights, splat=self.splat * norm[self.points, 0])


def weighted_sums(
    values: torch.Tensor, index: torch.Tensor, starts: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Row b is the sum of weights[i] values[index[i]] over starts[b] <= i < starts[b + 1]; without atomics."""
    return embedding_bag(index, values, starts, mode="sum", per_sample_weights=weights)


def axis_scales(dimensions: int) -> list[float]:
    """The factor of each feature before it is rotated onto the lattice, so that the blur has unit deviation."""
    deviation = torch.tensor(math.sqrt(2.0 / 3.0) * (dimensions + 1), dtype=torch.float32).item()
    return [1.0 / math.sqrt((i + 2) * (i + 1)) * deviation for i in range(dimensions)]


def lattice_fits(extents: Sequence[float]) -> bool:
    """Whether points whose feature i spans 0 .. extents[i] (in sigmas) have lattice coordinates that can be held."""
    scaled = [extent * scale for extent, scale in zip(extents, axis_scales(len(extents)), strict=True)]
    above = [sum(scaled[axis:]) for axis in range(len(scaled))]
    below = [0.0, *((axis + 1) * each for axis, each in enumerate(scaled[:-1]))]
    places = math.prod((low + high) / (len(scaled) + 1) + 6 for low, high in zip(below, above, strict=True))
    largest = max(*above, len(scaled) * scaled[-1])
    return largest <= MAX_COORDINATE and places * (len(scaled) + 1) <= MAX_VERTICES


def build_lattice(features: torch.Tensor) -> Lattice:
    """The lattice of d x N float32 features, each in units of its sigma.

    The points must not spread too far; `lattice_fits` tells before.
    """
    corners = len(features) + 1
    base, ranks, weights = _simplices(features)
    keys, steps = _keys(base, ranks)
    del base, ranks
    ordered, entries = keys.flatten().sort(stable=True)
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=fresh[1:])
    starts = fresh.nonzero().squeeze(1)
    unique = ordered[starts]
    del keys, ordered
    vertices = torch.empty(len(fresh), dtype=torch.int32, device=features.device)
    vertices[entries] = fresh.cumsum(0, dtype=torch.int32) - 1
    neighbours, blur = _neighbours(unique, steps)
    return Lattice(
        dimensions=len(features),
        vertices=vertices,
        weights=weights * slice_factor(len(features)),
        bags=torch.arange(0, len(vertices), corners, dtype=torch.int32, device=features.device),
        points=entries.int() // corners,
        splat=weights[entries],
        starts=starts.int(),
        neighbours=neighbours,
        blur=blur,
        triples=torch.arange(0, 3 * len(unique), 3, dtype=torch.int32, device=features.device),
    )


def slice_factor(dimensions: int) -> float:
    """The constant by which a slice is multiplied, 1 / (1 + 2^-d): what the blur adds to a vertex' own value."""
    return 1.0 / (1.0 + 2.0**-dimensions)


def _simplices(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The simplex of each point: its vertex of remainder 0 and its ranks ((d + 1) x N), its weights (N (d + 1))."""
    dimensions, count = features.shape
    corners = dimensions + 1
    scales = axis_scales(dimensions)
    elevated = features.new_empty(corners, count)
    partial = features.new_zeros(count)
    for axis in range(dimensions, 0, -1):
        scaled = features[axis - 1] * scales[axis - 1]
        elevated[axis] = partial - scaled * axis
        partial = partial + scaled
    elevated[0] = partial

    inverse = torch.tensor(1.0 / corners, dtype=torch.float32, device=features.device)
    rounded = (elevated * inverse).round_()
    base = rounded * corners
    rest = elevated - base
    ranks = torch.zeros(corners, count, dtype=torch.int8, device=features.device)
    for i in range(dimensions):
        below = rest[i] < rest[i + 1 :]
        ranks[i] += below.sum(0, dtype=torch.int8)
        ranks[i + 1 :] += ~below
    wide = ranks + rounded.sum(0).to(torch.int8)
    wrap = (wide < 0).to(torch.int8) - (wide >= corners).to(torch.int8)
    ranks = wide + wrap * corners
    base += wrap * corners

    rest = (elevated - base) * inverse
    by_rank = torch.empty_like(rest).scatter_(0, (dimensions - ranks).long(), rest)
    weights = by_rank.clone()
    weights[1:] -= by_rank[:-1]
    weights[0] += 1.0 - by_rank[-1]
    return base, ranks, weights.t().flatten()


def _keys(base: torch.Tensor, ranks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One integer for each of a point's vertices (N x (d + 1)), and what a step along each axis adds to its quotients.

    The vertex of remainder r has the coordinates base_i + r, less d + 1 where rank_i > d - r. All coordinates of a
    vertex are equal modulo d + 1, so that the quotients of the first d by d + 1 and the remainder name it.
    """
    corners = base.shape[0]
    quotients = (base[:-1] / corners).round_().long()
    low = quotients.amin(1) - 2
    radix = quotients.amax(1) + 2 - low
    strides = torch.ones_like(radix)
    strides[1:] = radix[:-1].cumprod(0)
    strides *= corners
    kind = torch.int32 if int(strides[-1] * radix[-1]) < 2**31 else torch.int64
    origin = ((quotients - low[:, None]) * strides[:, None]).sum(0).to(kind)
    steps = torch.zeros(corners, dtype=kind, device=base.device)
    steps[:-1] = strides
    remainders = torch.arange(corners, dtype=torch.int8, device=base.device)
    keys = origin[:, None] + remainders
    for step, rank in zip(steps[:-1], ranks[:-1], strict=True):
        keys -= step * (rank[:, None] > corners - 1 - remainders)
    return keys, steps


def _neighbours(unique: torch.Tensor, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For every axis and vertex: itself, the next and the previous vertex (int32) and their blur weights (float32).

    A step along axis j adds d to coordinate j and takes 1 from every other one: the remainder falls by one, and
    coordinate j gains a multiple of d + 1. A remainder that falls below 0 becomes d and takes 1 from all quotients.
    """
    corners, count = len(steps), len(unique)
    down = torch.where(unique % corners > 0, unique - 1, unique + (corners - 1) - steps.sum(dtype=steps.dtype))
    own = torch.arange(count, dtype=torch.int32, device=unique.device)
    neighbours = own[:, None].expand(count, 3).repeat(corners, 1, 1)
    blur = torch.zeros(corners, count, 3, device=unique.device)
    blur[..., 0] = BLUR[0]
    for axis, step in enumerate(steps):
        wanted = down + step
        place = torch.searchsorted(unique, wanted, out_int32=True).clamp_(max=count - 1)
        found = unique[place] == wanted
        neighbours[axis, :, 1] = torch.where(found, place, own)
        blur[axis, :, 1] = found * BLUR[1]
        previous = own.new_full((count + 1,), -1)
        previous[torch.where(found, place, count)] = own
        previous = previous[:-1]
        neighbours[axis, :, 2] = torch.where(previous >= 0, previous, own)
        blur[axis, :, 2] = (previous >= 0) * BLUR[2]
    return neighbours.flatten(1), blur.flatten(1)


@lru_cache(maxsize=8)
def grid_lattice(height: int, width: int, sigma: float, device: torch.device) -> Lattice:
    """The normalised lattice of the pixels of an image; it depends on the size alone, so the latest few are kept."""
    return build_lattice(position_features(height, width, sigma, device)).normalised()


def position_features(height: int, width: int, sigma: float, device: torch.device) -> torch.Tensor:
    """Column and row of every pixel in units of sigma: float32 2 x H W."""
    deviation = torch.full((), sigma, device=device)
    columns = torch.arange(width, dtype=torch.float32, device=device) / deviation
    rows = torch.arange(height, dtype=torch.float32, device=device) / deviation
    return torch.stack((columns.repeat(height), rows.repeat_interleave(width)))
