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
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch.nn.functional import embedding_bag

MAX_COORDINATE = 2**15 - 8
"""Largest lattice coordinate that is accepted; the reference code holds them in 16 bits."""
MAX_VERTICES = 2**62
"""Most places that a lattice may number, so that each has a signed 64-bit key."""
PIECE = 32
"""Points that a GPU sums one after the other."""


@dataclass(frozen=True)
class Lattice:
    """The lattice of N points; M vertices, and one more that is always 0; every tensor lies on one device.

    `vertices` and `weights` (N (d + 1), int32 and float32) are each point's vertices and what it reads from them.
    `points` and `splat` (the same, by vertex) are each vertex' points and what they add to it; vertex m has those from
    `starts[m]` to `starts[m + 1]` (int32 M + 2). `neighbours` ((d + 1) x 2 (M + 1), int32) are the next and the
    previous vertex along each axis, vertex M where there is none. `bags` (int32 N + 1) holds where the points'
    vertices start and end, `pairs` (int32 M + 2) the same of the neighbours.

    A GPU sums the points of a vertex one after the other, so that one vertex with thousands would take longer than all
    the others. There, these sums are made of sums over at most `PIECE` points: piece p from `pieces[p]` to
    `pieces[p + 1]` (int32 Q + 1), vertex m from the pieces from `whole[m]` to `whole[m + 1]` (int32 M + 2).
    """

    dimensions: int
    vertices: torch.Tensor
    weights: torch.Tensor
    bags: torch.Tensor
    points: torch.Tensor
    splat: torch.Tensor
    starts: torch.Tensor
    neighbours: torch.Tensor
    pairs: torch.Tensor
    pieces: torch.Tensor | None = None
    whole: torch.Tensor | None = None

    @property
    def size(self) -> int:
        """M, the number of vertices."""
        return len(self.starts) - 2

    @property
    def count(self) -> int:
        """N, the number of points."""
        return len(self.bags) - 1

    def at_vertices(self, values: torch.Tensor) -> torch.Tensor:
        """Splat and blur of N x K float32 values: (M + 1) x K, the last row 0."""
        values = self.splatted(values)
        for axis in range(len(self.neighbours)):
            values = self.blurred(values, axis)
        return values

    def splatted(self, values: torch.Tensor) -> torch.Tensor:
        """The splat alone: (M + 1) x K, the last row 0, from N x K float32 values."""
        if self.pieces is None or self.whole is None:
            return weighted_sums(values, self.points, self.starts, self.splat)
        if kernels := gpu_kernels(values):
            sums = kernels.weighted_sums(values, self.points, self.pieces, self.splat, many=True)
            return kernels.weighted_sums(sums, None, self.whole)
        sums = weighted_sums(values, self.points, self.pieces, self.splat)
        return weighted_sums(sums, torch.arange(len(sums), dtype=torch.int32, device=sums.device), self.whole)

    def blurred(self, values: torch.Tensor, axis: int) -> torch.Tensor:
        """One axis of the blur: (M + 1) x K from as many float32 values."""
        if kernels := gpu_kernels(values):
            return kernels.blurred(values, self.neighbours[axis])
        return torch.add(values, weighted_sums(values, self.neighbours[axis], self.pairs), alpha=0.5)

    def at_points(self, values: torch.Tensor, points: slice = slice(None)) -> torch.Tensor:
        """Slice: what points read from values at the vertices ((M + 1) x K)."""
        first, last, _ = points.indices(self.count)
        corners = self.dimensions + 1
        own = slice(first * corners, last * corners)
        sums = kernels.weighted_sums if (kernels := gpu_kernels(values)) else weighted_sums
        return sums(values, self.vertices[own], self.bags[: last - first + 1], self.weights[own])

    def filtered(self, values: torch.Tensor) -> torch.Tensor:
        """Splat, blur and slice of N x K float32 values: about sum_j exp(-|f_i - f_j|^2 / 2) v_j, up to a constant."""
        return self.at_points(self.at_vertices(values))

    def normalise_(self) -> Lattice:
        """From here on k(i, j) / sqrt(sum_l k(i, l) sum_l k(j, l)) stands for the kernel k."""
        ones = torch.ones(self.count, 1, device=self.weights.device)
        norm = (self.filtered(ones) + 1e-20).rsqrt_()
        self.weights.view(len(norm), -1).mul_(norm)
        self.splat.mul_(norm[:, 0].index_select(0, self.points))
        return self


def weighted_sums(
    values: torch.Tensor, index: torch.Tensor, starts: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Row b is the sum of weights[i] values[index[i]] over starts[b] <= i < starts[b + 1]; without atomics.

    Without weights, these are 1. Torch would copy the starts each time if their end were left out.
    """
    return embedding_bag(index, values, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)


def gpu_kernels(values: torch.Tensor) -> ModuleType | None:
    """`wsss.ops.lattice_triton` where the values lie on a GPU and Triton works for it."""
    return _triton() if values.is_cuda else None


@cache
def _triton() -> ModuleType | None:
    if not find_spec("triton"):
        return None
    from wsss.ops import lattice_triton

    return lattice_triton if lattice_triton.works() else None


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


def build_lattice(features: torch.Tensor, images: int = 1, most: int = MAX_VERTICES) -> Lattice:
    """The lattice of d x N float32 features, each in units of its sigma.

    The points must not spread too far; `lattice_fits` tells before. The N points may be those of several images, one
    after the other, as many of each: these share no vertex.

    Raises:
        MemoryError: there are more vertices than `most`.
    """
    corners = len(features) + 1
    base, ranks, weights = _simplices(features)
    keys, steps = _keys(base, ranks, images)
    del base, ranks
    ordered, entries = keys.flatten().sort(stable=True)
    del keys
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=fresh[1:])
    starts = fresh.nonzero().squeeze(1)
    if len(starts) > most:
        raise MemoryError
    unique = ordered[starts]
    del ordered
    numbers = fresh.cumsum(0, dtype=torch.int32).sub_(1)
    ends = torch.cat((starts, starts.new_full((2,), len(numbers))))
    pieces, whole = _in_pieces(ends) if features.is_cuda else (None, None)
    vertices = torch.empty_like(numbers).scatter_(0, entries, numbers)
    return Lattice(
        dimensions=len(features),
        vertices=vertices,
        bags=torch.arange(0, len(vertices) + 1, corners, dtype=torch.int32, device=features.device),
        points=entries.int().div_(corners, rounding_mode="floor"),
        splat=weights.index_select(0, entries),
        weights=weights.mul_(slice_factor(len(features))),
        starts=ends.int(),
        neighbours=_neighbours(unique, steps),
        pairs=torch.arange(0, 2 * (len(unique) + 1) + 1, 2, dtype=torch.int32, device=features.device),
        pieces=pieces,
        whole=whole,
    )


def _in_pieces(starts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`pieces` and `whole` of `Lattice` (int32) for the bags that begin at `starts` (int64 B + 1, the last end too)."""
    counts = starts.diff().add_(PIECE - 1).div_(PIECE, rounding_mode="floor")
    whole = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    bag = torch.repeat_interleave(counts)
    within = torch.arange(len(bag), device=starts.device) - whole[bag]
    return torch.cat((starts[bag] + PIECE * within, starts[-1:])).int(), whole.int()


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


def _keys(base: torch.Tensor, ranks: torch.Tensor, images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One integer for each of a point's vertices (N x (d + 1)), and what a step along each axis adds to its quotients.

    The vertex of remainder r has the coordinates base_i + r, less d + 1 where rank_i > d - r. All coordinates of a
    vertex are equal modulo d + 1, so that the quotients of the first d by d + 1 and the remainder name it. Images lie
    further apart than a step leads.
    """
    corners = base.shape[0]
    quotients = (base[:-1] / corners).round_()
    low = quotients.amin(1).long() - 2
    radix = quotients.amax(1).long() + 2 - low
    strides = torch.ones_like(radix)
    strides[1:] = radix[:-1].cumprod(0)
    strides *= corners
    places = int(strides[-1] * radix[-1])
    kind = torch.int32 if images * places < 2**31 else torch.int64
    origin = torch.zeros(base.shape[1], dtype=torch.int64, device=base.device)
    for quotient, least, stride in zip(quotients, low, strides, strict=True):
        origin += (quotient.long() - least) * stride
    del quotients
    origin.view(images, -1).add_(places * torch.arange(images, device=base.device)[:, None])
    steps = torch.zeros(corners, dtype=kind, device=base.device)
    steps[:-1] = strides
    remainders = torch.arange(corners, dtype=torch.int8, device=base.device)[:, None]
    keys = origin.to(kind) + remainders
    for step, rank in zip(steps[:-1], ranks[:-1], strict=True):
        keys -= step * (rank > corners - 1 - remainders)
    return keys.t().contiguous(), steps


def _neighbours(unique: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """The next and the previous vertex of every vertex along every axis: int32 (d + 1) x 2 (M + 1).

    A step along axis j adds d to coordinate j and takes 1 from every other one: the remainder falls by one, and
    coordinate j gains a multiple of d + 1. A remainder that falls below 0 becomes d and takes 1 from all quotients.
    """
    corners, count = len(steps), len(unique)
    down = torch.where(unique % corners > 0, unique - 1, unique + (corners - 1) - steps.sum(dtype=steps.dtype))
    own = torch.arange(count, dtype=torch.int32, device=unique.device)
    neighbours = own.new_full((corners, count + 1, 2), count)
    for each, step in zip(neighbours, steps, strict=True):
        following, previous = each.unbind(1)
        wanted = down + step
        place = torch.searchsorted(unique, wanted, out_int32=True).clamp_(max=count - 1)
        met = unique[place] == wanted
        following[:count] = torch.where(met, place, count)
        # The last entry takes those without a next vertex, and stands for none itself.
        previous[torch.where(met, place, count)] = own
        previous[count] = count
    return neighbours.flatten(1)


@lru_cache(maxsize=8)
def grid_lattice(height: int, width: int, sigma: float, device: torch.device, images: int = 1) -> Lattice:
    """The normalised lattice of the pixels of images; it depends on their size alone, so the latest few are kept."""
    features = position_features(height, width, sigma, device)
    return build_lattice(features.repeat(1, images), images).normalise_()


def position_features(height: int, width: int, sigma: float, device: torch.device) -> torch.Tensor:
    """Column and row of every pixel in units of sigma: float32 2 x H W."""
    deviation = torch.full((), sigma, device=device)
    columns = torch.arange(width, dtype=torch.float32, device=device) / deviation
    rows = torch.arange(height, dtype=torch.float32, device=device) / deviation
    return torch.stack((columns.repeat(height), rows.repeat_interleave(width)))
