"""How cost grows: time against pixels, labels, pairs and steps; the exponent of a power law beside the expected one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image

from benchmarks.common import Row, beliefs, photographs, threads, timed
from benchmarks.crf import infer
from benchmarks.walk import smooth
from wsss.ops.crf import installed_backends
from wsss.ops.pairs import pair_affinity, pair_offsets
from wsss.ops.walk import random_walk

HEIGHTS = (94, 188, 375, 750)
LABELS = (4, 8, 16, 32, 64)
RADII = (3, 4, 5, 7, 10)
STEPS = (64, 256, 1024, 4096)
ENOUGH = 0.3
"""Seconds for which a program is repeated; the fastest time counts."""


def rows() -> Iterator[Row]:
    """The CRF of every backend of ours against pixels and labels, the walk against pairs and steps; one thread.

    A row's `ours` is the exponent that fits its points best, its `peer` the expected one.
    """
    with threads(1), torch.inference_mode():
        photograph = photographs(1)[0]
        for backend in (each for each in ("native", "torch") if each in installed_backends()):
            what = f"CRF {backend}, irn kernels"
            sizes = [height * (height * 4 // 3) for height in HEIGHTS]
            programs = [crf(resized(photograph, height), 3, backend) for height in HEIGHTS]
            yield power_law(f"scaling-pixels-{backend}", f"{what}, 3 labels, against pixels", 1.0, sizes, programs)
            programs = [crf(resized(photograph, 188), labels, backend) for labels in LABELS]
            yield power_law(f"scaling-labels-{backend}", f"{what}, 188 x 250, against labels", 1.0, LABELS, programs)
        pairs = [len(pair_offsets(radius)) for radius in RADII]
        programs = [walk((94, 125), radius, 256) for radius in RADII]
        yield power_law("scaling-pairs", "random walk, 94 x 125, t = 256, against pairs", 1.0, pairs, programs)
        programs = [walk((47, 63), 5, steps) for steps in STEPS]
        yield power_law("scaling-steps", "random walk, 47 x 63, radius 5, against t", 0.5, STEPS, programs)


def power_law(
    key: str, what: str, expected: float, sizes: Sequence[int], programs: Sequence[Callable[[], object]]
) -> Row:
    """The row of programs that differ in one size."""
    seconds = [fastest(program) for program in programs]
    exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    points = tuple((float(size), 1e3 * second) for size, second in zip(sizes, seconds, strict=True))
    return Row(key, f"{what}; the expected", exponent, expected, "exponent", expected / exponent, None, 0.8, points)


def fastest(program: Callable[[], object]) -> float:
    """Processor seconds of the fastest of some runs."""
    program()
    until = time.process_time() + ENOUGH
    found = [timed(program, time.process_time)]
    while time.process_time() < until:
        found.append(timed(program, time.process_time))
    return min(found)


def crf(image: np.ndarray, labels: int, backend: str) -> Callable[[], object]:
    """Lattices and inference of one image."""
    unary = beliefs(image, labels)
    return lambda: infer(image, unary, "irn", backend)


def walk(size: tuple[int, int], radius: int, steps: int) -> Callable[[], object]:
    """A walk over the affinities of smooth features."""
    affinity, scores = pair_affinity(smooth(16, size), radius)[0], smooth(3, size)[0]
    return lambda: random_walk(affinity, size, radius, scores, beta=8.0, steps=steps)


def resized(photograph: np.ndarray, height: int) -> np.ndarray:
    """A photograph of this height, 4 wide to 3 high."""
    return np.array(Image.fromarray(photograph).resize((height * 4 // 3, height), Image.Resampling.BICUBIC))
