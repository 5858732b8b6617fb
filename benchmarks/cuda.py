"""On a GPU: each kernel beside what the memory's bandwidth allows, CRF, walk, and the whole stream of label maps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import Row, beliefs, photographs, row_of, timed
from benchmarks.crf import KERNELS
from benchmarks.labels import Silent, classifier, photograph_dataset
from benchmarks.loader import cropped, epoch, from_memory, samples
from benchmarks.walk import LABELS, RADIUS, STEPS, dense_matrix, smooth
from wsss.data.image_memory import memory_for_images
from wsss.labels.stream import make_labels
from wsss.nets.folding import folded
from wsss.ops.crf import DenseCrf, installed_backends
from wsss.ops.lattice import build_lattice, position_features
from wsss.ops.pairs import pair_affinity
from wsss.ops.walk import random_walk
from wsss.stages.cam import CamSettings, image_maps
from wsss.stages.inference import id_batches
from wsss.stages.labelling import Labelling
from wsss.stages.localize import load_classifier
from wsss.stages.refine import BackgroundSettings, CrfSettings
from wsss.training import to_device

CLASSES, IMAGES, STREAM, ROUNDS, MAP = 21, 8, 480, 5, (94, 125)
EPOCHS = 4
"""Of a training; its first has the plans of cuDNN and the start of the processes that load images."""
WHAT = {
    "cuda-splat": f"splat onto the colour lattice, {IMAGES} images, {CLASSES} labels; what the bandwidth allows",
    "cuda-blur": f"blur of it along one axis, {IMAGES} images, {CLASSES} labels; what the bandwidth allows",
    "cuda-slice": f"slice of it, {IMAGES} images, {CLASSES} labels; what the bandwidth allows",
    "cuda-crf": f"CRF torch, irn kernels, {LABELS} labels, {IMAGES} images at once; pydensecrf, 2 of them, times 4",
    "cuda-walk": f"random walk, {MAP[0]} x {MAP[1]}, t = {STEPS}; dense squaring on the GPU, float32",
    "cuda-loader": f"{STREAM} images of 500 x 375, an epoch of MobileNetV2, 160 px; on samples in memory",
    "cuda-stream": f"{STREAM} images of 500 x 375, MobileNetV2, CAM to PNG; the network alone, on decoded images",
}


def rows() -> Iterator[Row]:
    """Every claim that needs a GPU; empty rows without one."""
    if not torch.cuda.is_available():
        yield from (Row(key, what, None, None, "ms", None, None, None) for key, what in WHAT.items())
        return
    device = torch.device("cuda")
    images = np.stack(photographs(IMAGES))
    with torch.inference_mode():
        yield from kernels(images, device)
        yield crf(images, device)
        yield walk(device)
    yield loader()
    yield stream(device)


def kernels(images: np.ndarray, device: torch.device) -> Iterator[Row]:
    """Splat, blur and slice beside the time in which the memory could read and write once what each touches."""
    sxy, srgb = KERNELS["irn"]
    colours = torch.from_numpy(images).to(device).view(-1, 3).t().float()
    positions = position_features(images.shape[1], images.shape[2], sxy, device).repeat(1, len(images))
    lattice = build_lattice(torch.cat((positions, colours / srgb)), len(images)).normalise_()
    points = torch.rand(len(lattice.bags), CLASSES, device=device)
    table = torch.rand(lattice.size + 1, CLASSES, device=device)
    programs: dict[str, tuple[Callable[[], object], tuple[torch.Tensor, ...]]] = {
        "cuda-splat": (
            lambda: lattice.splatted(points),
            (lattice.points, lattice.starts, lattice.splat, points, table),
        ),
        "cuda-blur": (
            lambda: lattice.blurred(table, 0),
            (lattice.neighbours[0], table, table),
        ),
        "cuda-slice": (
            lambda: lattice.at_points(table),
            (lattice.vertices, lattice.bags, lattice.weights, table, points),
        ),
    }
    speed = bandwidth(device)
    for key, (program, touched) in programs.items():
        limit = sum(each.nbytes for each in touched) / speed
        what = f"{WHAT[key]}, {speed / 1e9:,.0f} GB/s as a copy has it"
        yield row_of(key, what, 0.6, seconds(program, device), [limit] * ROUNDS)


def crf(images: np.ndarray, device: torch.device) -> Row:
    """Several images at once on the GPU, beside the peer on the processor, where that is installed, for a quarter."""
    unaries = np.stack([beliefs(image, LABELS) for image in images])
    sxy, srgb = KERNELS["irn"]

    def program(backend: str, place: torch.device, count: int) -> Callable[[], object]:
        own, given = images[:count], unaries[:count]
        return lambda: DenseCrf(own, bilateral_sxy=sxy, bilateral_srgb=srgb, backend=backend, device=place.type)(given)

    theirs = []
    if "pydensecrf" in installed_backends():
        theirs = [4 * each for each in seconds(program("pydensecrf", torch.device("cpu"), len(images) // 4), device)]
    return row_of("cuda-crf", WHAT["cuda-crf"], None, seconds(program("torch", device, len(images)), device), theirs)


def walk(device: torch.device) -> Row:
    """The walk beside squaring the dense matrix, both on the GPU."""
    affinity = pair_affinity(smooth(64, MAP).to(device), RADIUS)[0]
    scores = smooth(LABELS, MAP)[0].to(device)
    every_pair = dense_matrix(affinity.cpu(), MAP).to(device)

    def dense() -> torch.Tensor:
        matrix = every_pair**10
        matrix /= matrix.sum(0, keepdim=True)
        for _ in range(int(math.log2(STEPS))):
            matrix = matrix @ matrix
        return scores.flatten(1) @ matrix

    ours = seconds(lambda: random_walk(affinity, MAP, RADIUS, scores, beta=10.0, steps=STEPS), device)
    return row_of("cuda-walk", WHAT["cuda-walk"], None, ours, seconds(dense, device))


def loader() -> Row:
    """Training on files beside training on ready samples: what the network waits for, and what the loader costs."""
    with photograph_dataset(STREAM) as files:
        dataset = files.in_memory(memory_for_images())
        made, _ = samples(dataset, cropped(dataset))
        programs = cropped(dataset), from_memory(made)
        for sample in programs:
            epoch(dataset, sample)
        ours, bare = ([epoch(dataset, sample, EPOCHS)[0] for _ in range(3)] for sample in programs)
    return row_of("cuda-loader", WHAT["cuda-loader"], 0.9, ours, bare)


def stream(device: torch.device) -> Row:
    """Label maps from image files to PNGs, beside the network alone on decoded images; one pass before each."""
    with photograph_dataset(STREAM) as dataset:
        labelling = Labelling(dataset.root, classifier(), CamSettings(), BackgroundSettings(), CrfSettings())
        ids = dataset.splits["train"]
        network = folded(to_device(load_classifier(labelling.classifier), device), labelling.cam.number_format(device))
        batches = [[dataset.image(image_id) for image_id in batch] for batch in id_batches(dataset, ids, device)]

        def bare() -> None:
            for images in batches:
                image_maps(network, images, labelling.cam, device)

        def whole(turn: int) -> float:
            started = time.perf_counter()
            make_labels(labelling, ids, Path(f"labels-{turn}"), device, Silent())
            return time.perf_counter() - started

        theirs = seconds(bare, device)[:3]
        ours = [whole(turn) for turn in range(4)][1:]
    return row_of("cuda-stream", WHAT["cuda-stream"], 0.9, ours, theirs)


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy of a large array reads and writes."""
    source = torch.zeros(2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source), device))


def seconds(program: Callable[[], object], device: torch.device) -> list[float]:
    """Wall times of a program and of what it left to the device, after a first call."""

    def whole() -> None:
        program()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    whole()
    return [timed(whole, time.perf_counter) for _ in range(ROUNDS)]
