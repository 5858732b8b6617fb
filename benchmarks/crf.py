"""The dense CRF beside pydensecrf: photographs of 500 x 375, 3 labels, 10 iterations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import numpy as np

from benchmarks.common import Row, beliefs, compare, photographs, row_of, threads
from wsss.ops.crf import DenseCrf, installed_backends

LABELS = 3
KERNELS = {"irn": (50.0, 5.0), "psa": (80.0, 13.0)}
PHOTOGRAPHS = 4
FOLDER = 24
"""Images in the folder, half with each kernel."""


def rows() -> Iterator[Row]:
    """Every claim of the CRF that can be measured here."""
    images = photographs(PHOTOGRAPHS)
    unaries = [beliefs(image, LABELS) for image in images]
    pairs = list(zip(images, unaries, strict=True))
    there = installed_backends()
    peer = "pydensecrf" in there

    def program(backend: str, kernels: str) -> Callable[[], object]:
        turn = cycle(pairs)
        return lambda: infer(*next(turn), kernels, backend)

    def peer_program(kernels: str) -> Callable[[], object] | None:
        return program("pydensecrf", kernels) if peer else None

    rounds = 3 * PHOTOGRAPHS
    for count, aim in ((1, 1.1), (2, 1.8)):
        with threads(count):
            what = f"torch, irn kernels, {count} thread{'s' * (count > 1)}"
            clock = time.process_time if count == 1 else time.perf_counter
            key, ours = f"crf-torch-{count}t", program("torch", "irn")
            yield compare(key, what, aim, ours, peer_program("irn"), rounds=rounds, clock=clock)
    if "native" not in there:
        return
    with threads(1):
        for kernels, aim in (("irn", 4.5), ("psa", 6.0)):
            yield compare(
                f"crf-native-{kernels}",
                f"native, {kernels} kernels, 1 thread",
                aim,
                program("native", kernels),
                peer_program(kernels),
                rounds=rounds,
            )
        yield reuse(pairs, 4 * rounds)
        yield folder(pairs, peer)


def infer(image: np.ndarray, unary: np.ndarray, kernels: str, backend: str) -> np.ndarray:
    """Marginals of one image, its lattices built on the way."""
    sxy, srgb = KERNELS[kernels]
    return DenseCrf(image, bilateral_sxy=sxy, bilateral_srgb=srgb, backend=backend)(unary)


def reuse(pairs: list[tuple[np.ndarray, np.ndarray]], rounds: int) -> Row:
    """The second unary on an image beside the first."""
    first, second = [], []
    sxy, srgb = KERNELS["irn"]
    for _, (image, unary) in zip(range(rounds), cycle(pairs), strict=False):
        started = time.process_time()
        crf = DenseCrf(image, bilateral_sxy=sxy, bilateral_srgb=srgb, backend="native")
        crf(unary)
        between = time.process_time()
        crf(unary)
        first.append(between - started)
        second.append(time.process_time() - between)
    return row_of("crf-native-reuse", "second unary on an image; the peer is the first", 1.5, second, first)


def folder(pairs: list[tuple[np.ndarray, np.ndarray]], peer: bool) -> Row:
    """A folder of images with both kernels: two threads of ours, one process of the peer; wall time per image."""
    kernels = ["irn", "psa"] * (FOLDER // 2)
    work = [(image, unary, each) for (image, unary), each in zip(cycle(pairs), kernels, strict=False)]

    def ours() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(infer, *zip(*work, strict=True), ["native"] * FOLDER))

    def theirs() -> None:
        for image, unary, each in work:
            infer(image, unary, each, "pydensecrf")

    return compare(
        "crf-native-folder",
        f"native, {FOLDER} images, 2 workers, wall; the peer in one process",
        10.0,
        ours,
        theirs if peer else None,
        rounds=2,
        clock=time.perf_counter,
    )
