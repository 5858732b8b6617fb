"""The random walk beside dense squaring, and affinities beside the index gathers of the published codes."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.common import Row, compare, threads
from wsss.ops.pairs import pair_affinity, pair_offsets, pair_path, path_affinity
from wsss.ops.walk import doubled_walk, random_walk

RADIUS, STEPS, LABELS, IMAGES = 5, 256, 3, 10


def rows() -> Iterator[Row]:
    """Every claim of the walk and of the affinities."""
    with threads(1), torch.inference_mode():
        yield squaring("walk-stride8", (47, 63), beta=8.0, squarings=8, aim=300)
        yield squaring("walk-stride4", (94, 125), beta=10.0, squarings=1, aim=4000)
        yield pairs()
        yield paths()


def squaring(key: str, size: tuple[int, int], beta: float, squarings: int, aim: float) -> Row:
    """Ten images' walks of 256 steps, beside 8 squarings of a dense transition matrix, of which `squarings` are run."""
    features, scores = smooth(64, size), smooth(LABELS, size)[0]
    affinity = pair_affinity(features, RADIUS)[0]
    flat = scores.flatten(1)

    def dense() -> torch.Tensor:
        matrix = dense_matrix(affinity, size) ** beta
        matrix /= matrix.sum(0, keepdim=True)
        for _ in range(squarings):
            matrix = matrix @ matrix
        return flat @ matrix

    def walks() -> None:
        for _ in range(IMAGES):
            random_walk(affinity, size, RADIUS, scores, beta=beta, steps=STEPS)

    error = ""
    if squarings == 8:
        exact = dense_matrix(affinity.double(), size) ** beta
        exact = flat.double() @ torch.matrix_power(exact / exact.sum(0, keepdim=True), STEPS)
        walked = random_walk(affinity, size, RADIUS, scores.double(), beta=beta, steps=STEPS).flatten(1)
        error = f", relative error {float((walked - exact).norm() / exact.norm()):.0e}"
    extrapolated = f", extrapolated from {squarings}" if squarings < 8 else ""
    return compare(
        key,
        f"random walk of {IMAGES} images, {size[0]} x {size[1]}, t = {STEPS}, {LABELS} maps{error}; dense squaring, "
        f"float32, of one, times {IMAGES}{extrapolated}",
        aim,
        walks,
        dense,
        rounds=3 if squarings == 8 else 1,
        peer_times=IMAGES * 8 / squarings,
    )


def pairs() -> Row:
    """The affinity of 448 features."""
    size = (47, 63)
    features = smooth(448, size)
    height, width = size[0] - RADIUS + 1, size[1] - 2 * (RADIUS - 1)
    number = torch.arange(size[0] * size[1]).view(size)
    sources = number[:height, RADIUS - 1 : RADIUS - 1 + width].flatten()
    partners = torch.cat([sources + dy * size[1] + dx for dy, dx in pair_offsets(RADIUS)])

    def gathers() -> torch.Tensor:
        flat = features.flatten(2)
        own = flat.index_select(2, sources).unsqueeze(2)
        other = flat.index_select(2, partners).view(1, 448, len(pair_offsets(RADIUS)), -1)
        return torch.exp(-(own - other).abs().mean(1))

    what = "pair affinity of 448 features, 47 x 63, radius 5; gathers by index"
    return compare("affinity-pairs", what, 10, lambda: pair_affinity(features, RADIUS), gathers, rounds=5)


def paths() -> Row:
    """From a boundary map to a matrix to walk on."""
    size = (94, 125)
    boundaries = smooth(1, size)[0].sigmoid()
    margin = RADIUS - 1
    padded = torch.nn.functional.pad(boundaries, (margin, margin, 0, margin), value=1.0)[0]
    number = torch.arange(padded.numel()).view(padded.shape)

    def at(dy: int, dx: int) -> torch.Tensor:
        return number[dy : dy + size[0], margin + dx : margin + dx + size[1]].flatten()

    def index_and_scatter() -> torch.Tensor:
        flat = padded.flatten()
        offsets = pair_offsets(RADIUS)
        ways = [torch.stack([at(*pixel) for pixel in pair_path(*offset)]) for offset in offsets]
        affinity = torch.stack([1 - flat[way].amax(0) for way in ways])
        matrix = torch.eye(padded.numel())
        for values, offset in zip(affinity, offsets, strict=True):
            matrix[at(0, 0), at(*offset)] = values
            matrix[at(*offset), at(0, 0)] = values
        keep = at(0, 0)
        return matrix[keep][:, keep]

    def ours() -> torch.Tensor:
        return doubled_walk(path_affinity(boundaries, RADIUS, every_source=True)[0].double(), RADIUS)[0]

    what = "path affinity to a sparse matrix, 94 x 125, radius 5; path index and a dense matrix"
    return compare("affinity-paths", what, 50, ours, index_and_scatter, rounds=3)


def dense_matrix(affinity: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The symmetric matrix of all pairs, its diagonal 1."""
    number = torch.arange(size[0] * size[1]).view(size)
    height, width = affinity.shape[1:]
    matrix = torch.eye(number.numel(), dtype=affinity.dtype)
    sources = number[:height, RADIUS - 1 : RADIUS - 1 + width]
    for plane, (dy, dx) in zip(affinity, pair_offsets(RADIUS), strict=True):
        partners = sources + dy * size[1] + dx
        matrix[sources, partners] = plane
        matrix[partners, sources] = plane
    return matrix


def smooth(channels: int, size: tuple[int, int]) -> torch.Tensor:
    """Random maps without sharp edges: 1 x D x H x W."""
    coarse = torch.rand(1, channels, 8, 10, generator=torch.Generator().manual_seed(0))
    return 3 * torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)
