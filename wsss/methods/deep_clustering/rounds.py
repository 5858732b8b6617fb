"""The rounds: train the region classifier on the regions' labels, label all regions anew, begin again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from wsss.classes import IGNORE
from wsss.data.label_maps import LabelMaps, LabelMapWriter
from wsss.interface import Reporter, StepContext
from wsss.methods.deep_clustering.learning import RegionLabels, RoundsSettings, predict_regions, train_regions
from wsss.methods.deep_clustering.network import confident_regions
from wsss.methods.deep_clustering.regions import PROBABILITIES, Regions, candidates
from wsss.ops.superpixels import region_votes
from wsss.scores import metric_names
from wsss.stages.outputs import write_metrics

METRICS = "figures.json"


def run_rounds(context: StepContext) -> None:
    """Label maps after each round (`rounds/<n>`) and after the last (`labels`), and its regions' distributions.

    A finished round is kept until the step ends, and one in training is continued.
    """
    settings: RoundsSettings = context.settings
    dataset, regions = context.dataset, Regions(context.inputs["superpixels"])
    work = context.out / "work"
    labels: RegionLabels = first_labels(context, regions)
    scores: Mapping[str, np.ndarray] = {
        i: np.full((2, k := 1 + int(dataset.tags(i).sum()), int(regions.read(i).max()) + 1), 1 / k, np.float16)
        for i in regions.ids
    }
    previous: Path | None = None
    metrics: dict[str, float] = {
        "images_without_tags": sum(not dataset.tags(i).any() for i in dataset.splits["train"]),
    }
    for number in range(1, settings.rounds + 1):
        folder = work / str(number)
        if not (folder / METRICS).exists():
            folder.mkdir(parents=True, exist_ok=True)
            current = replace(context, out=folder, rng=_round_rng(context.rng, number), report=_Round(context, number))
            found = play_round(current, regions, labels, scores, previous)
            paint(context, regions, load_file(folder / PROBABILITIES), context.out / "rounds" / str(number))
            write_metrics(folder, found)
            os.replace(folder / "metrics.json", folder / METRICS)
        scores = load_file(folder / PROBABILITIES)
        labels = region_labels(context, scores)
        metrics |= {f"round_{number}/{key}": value for key, value in json.loads((folder / METRICS).read_text()).items()}
        if (folder / "model.safetensors").exists():
            previous = folder
    shutil.rmtree(context.out / "labels", ignore_errors=True)
    shutil.copytree(context.out / "rounds" / str(settings.rounds), context.out / "labels")
    save_file(dict(scores), context.out / PROBABILITIES)
    write_metrics(context.out, metrics)
    shutil.rmtree(work)


def first_labels(context: StepContext, regions: Regions) -> dict[str, np.ndarray]:
    """The regions' labels by the vote of the confident pixels (the step "labels"); for the training images alone."""
    confident = LabelMaps(context.inputs["labels"] / "labels")
    found = {}
    for image_id in context.dataset.splits["train"]:
        own = regions.read(image_id)
        found[image_id] = region_votes(confident.read(image_id), own, int(own.max()) + 1, context.settings.vote)
    return found


def region_labels(context: StepContext, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The confident labels of each image's regions, from their two distributions (float16 2 x K x R)."""
    tags, confidence = context.dataset.tags, context.settings.confidence
    return {i: confident_regions(both[0], both[1], candidates(tags(i)), confidence) for i, both in scores.items()}


def play_round(
    context: StepContext,
    regions: Regions,
    labels: RegionLabels,
    scores: Mapping[str, np.ndarray],
    previous: Path | None,
) -> dict[str, float]:
    """Train on the labels and find the distribution of every region.

    Without a labelled region of both background and some class there is nothing to tell apart: the distributions stay
    as they are.

    Args:
        context: the round's: an own folder, rng and reporter.
        regions: of train and dev.
        labels: of the training images' regions.
        scores: the distributions before the round, float16 2 x K x R by image id.
        previous: the folder with the network of an earlier round.

    Returns:
        The round's metrics.
    """
    train = context.dataset.splits["train"]
    counts = _label_counts([labels[i] for i in train], len(context.dataset.classes))
    learns = counts[0] > 0 and counts[1:].any()
    metrics: dict[str, float] = {
        "regions_learnt": int(counts.sum()),
        "classes_without_region": int((counts[1:] == 0).sum()),
        "idle": int(not learns),
    }
    if learns:
        model, loss = train_regions(context, regions, labels, torch.from_numpy(counts), previous)
        metrics["loss"] = loss
        scores = predict_regions(context, model, regions)
    unfinished = context.out / ("." + PROBABILITIES)
    save_file(dict(scores), unfinished)
    os.replace(unfinished, context.out / PROBABILITIES)

    after = region_labels(context, scores)
    counts = _label_counts([after[i] for i in train], len(context.dataset.classes))
    total = sum(len(after[i]) for i in train)
    tagged = [(after[i], number + 1) for i in train for number in np.flatnonzero(context.dataset.tags(i))]
    return metrics | {
        "confident": int(counts.sum()) / total,
        "foreground": int(counts[1:].sum()) / total,
        "changed": sum(int((after[i] != labels[i]).sum()) for i in train) / total,
        "tags_without_region": sum(number not in own for own, number in tagged),
    }


def paint(context: StepContext, regions: Regions, scores: Mapping[str, np.ndarray], folder: Path) -> None:
    """Write the label maps that the regions' confident labels make."""
    labels = region_labels(context, scores)
    with LabelMapWriter(folder) as writer:
        for image_id in regions.ids:
            writer.add(image_id, labels[image_id][regions.read(image_id)])


def _label_counts(labels: list[np.ndarray], classes: int) -> np.ndarray:
    """How many regions have each label, int64 C + 1; 255 is left out."""
    joined = np.concatenate(labels)
    return np.bincount(joined[joined != IGNORE], minlength=classes + 1)


def _round_rng(rng: int, number: int) -> int:
    return int(np.random.SeedSequence((rng, number)).generate_state(1)[0] >> 1)


class _Round:
    """A reporter for one of several rounds: the round's number in the metrics' names, progress over all rounds."""

    def __init__(self, context: StepContext, number: int) -> None:
        self._all: Reporter = context.report
        self._number, self._rounds = number, context.settings.rounds

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        name = f"{metric_names.TRAIN}round_{self._number}/"
        self._all.metrics({name + key.removeprefix(metric_names.TRAIN): value for key, value in values.items()}, step)

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        text = f"round {self._number} of {self._rounds}, {note}"
        self._all.progress((self._number - 1) * total + done, self._rounds * total, unit, text)
