"""How long a network that trains on photographs waits for them, and what making them ahead is worth."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import Row, row_of, timed
from benchmarks.labels import Silent, photograph_dataset
from wsss.batches import Sample
from wsss.data import Dataset
from wsss.data.augmentation import Augmentation
from wsss.data.image_memory import memory_for_images
from wsss.interface import StepContext
from wsss.scores import metric_names
from wsss.stages.localize import Classifier
from wsss.training import TrainingSettings, fit, parameter_groups

IMAGES, ROUNDS = 192, 3
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCH = 16
AUGMENT = Augmentation(crop=161, scale=(0.35, 0.6), jitter=0.1)
DECODE = "reading an image of 500 x 375 for the second time, from memory; decoding its file"


def rows() -> Iterator[Row]:
    """The share of an epoch in which the network does not wait, and the epoch beside samples made in turn with it."""
    with photograph_dataset(IMAGES) as files:
        dataset = files.in_memory(memory_for_images())
        sample = cropped(dataset)
        working, epochs, in_turn = [], [], []
        for _ in range(ROUNDS + 1):
            seconds, waiting = epoch(dataset, sample)
            made, making = samples(dataset, sample)
            fed, _ = epoch(dataset, from_memory(made))
            working.append(1 - waiting)
            epochs.append(seconds)
            in_turn.append(making + fed)
        reading = [seconds_of_reading(dataset) for _ in range(ROUNDS)]
        decoding = [seconds_of_reading(files) for _ in range(ROUNDS)]
    low, high = np.quantile(working[1:], [0.25, 0.75])
    share = statistics.median(working[1:])
    what = f"an epoch of MobileNetV2, 160 px of 500 x 375, {DEVICE.type}: the share in which the network does not wait"
    yield Row("loader", what, share, 1.0, "share", share, (float(low), float(high)), 0.95)
    what = "that epoch; samples first, then the network on samples in memory"
    yield row_of("loader-ahead", what, 1.0, epochs[1:], in_turn[1:])
    yield row_of("loader-memory", DECODE, 5.0, reading, decoding)


def cropped(dataset: Dataset) -> Callable[[str, np.random.Generator], Sample]:
    """What makes the samples: crops of 161 px, scaled, mirrored, with other colours."""
    return lambda image_id, draw: {"image": AUGMENT(dataset.image(image_id), None, draw)[0]}


def seconds_of_reading(dataset: Dataset) -> float:
    """Seconds for an image, one by one in one thread."""
    ids = dataset.splits["train"]
    return timed(lambda: [dataset.image(i) for i in ids], time.process_time) / len(ids)


def epoch(
    dataset: Dataset, sample: Callable[[str, np.random.Generator], Sample], epochs: int = 1
) -> tuple[float, float]:
    """Seconds of an epoch, the mean of several, and the share of them in which the network waits."""
    settings = TrainingSettings(epochs=epochs, batch_size=BATCH)
    torch.manual_seed(0)
    model = Classifier(20, "mobilenet_v2", "none", 16, 0.5)
    target = (torch.arange(20) < 2).float().to(DEVICE)

    def loss(batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        scores = model(batch["image"].contiguous(memory_format=torch.channels_last))
        return F.multilabel_soft_margin_loss(scores, target.expand_as(scores)), {}

    with tempfile.TemporaryDirectory() as folder:
        context = StepContext(settings, dataset, 0, DEVICE, Path(folder), {}, Silent())
        groups = parameter_groups(None, [model], settings)
        found = fit(model, groups, dataset.splits["train"], sample, loss, context)
    return len(dataset.splits["train"]) / found[metric_names.IMAGES_PER_S], found[metric_names.LOADER_WAIT]


def from_memory(made: Mapping[str, Sample]) -> Callable[[str, np.random.Generator], Sample]:
    """Samples that cost nothing."""
    return lambda image_id, draw: made[image_id]


def samples(dataset: Dataset, sample: Callable[[str, np.random.Generator], Sample]) -> tuple[dict[str, Sample], float]:
    """The samples of an epoch by id, and the seconds that it took to make them one by one."""
    started = time.perf_counter()
    made = {image_id: sample(image_id, np.random.default_rng(0)) for image_id in dataset.splits["train"]}
    return made, time.perf_counter() - started
