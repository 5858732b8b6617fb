"""The rounds: train the region classifier on the regions' labels, label all regions anew, begin again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from wsss.classes import IGNORE
from wsss.data.label_maps import LabelMaps, LabelMapWriter
from wsss.interface import StepContext
from wsss.methods.deep_clustering.learning import RegionLabels, RoundsSettings, predict_regions, train_regions
from wsss.methods.deep_clustering.network import confident_regions, decided_regions
from wsss.methods.deep_clustering.regions import PROBABILITIES, Regions
from wsss.ops.superpixels import region_votes
from wsss.stages.outputs import write_metrics
from wsss.stages.parts import in_parts, once, part_of


@in_parts
def run_rounds(context: StepContext) -> None:
    """Label maps after each round (`rounds/<n>`) and after the last (`labels`), and its regions' distributions.

    In the maps each region has the label that is most probable after the CRF over the image's regions; the next round
    learns from the confident ones alone.
    """
    settings: RoundsSettings = context.settings
    dataset, regions = context.dataset, Regions(context.inputs["superpixels"])
    labels: RegionLabels = first_labels(context, regions)
    scores: Mapping[str, np.ndarray] = {
        i: np.full((2, k := len(dataset.candidates(i)), int(regions.read(i).max()) + 1), 1 / k, np.float16)
        for i in regions.ids
    }
    previous: Path | None = None
    metrics: dict[str, float] = {
        "images_without_tags": sum(not dataset.tags(i).any() for i in dataset.splits["train"]),
    }
    for number in range(1, settings.rounds + 1):
        part = part_of(context, f"round_{number}", rng=_round_rng(context.rng, number))
        play = partial(play_round, regions=regions, labels=labels, scores=scores, previous=previous)
        metrics |= {f"round_{number}/{key}": value for key, value in once(part, play).items()}
        scores = load_file(part.out / PROBABILITIES)
        labels = region_labels(context, scores)
        decided = {i: decided_regions(both[1], dataset.candidates(i)) for i, both in scores.items()}
        paint(decided, regions, context.out / "rounds" / str(number))
        if (part.out / "model.safetensors").exists():
            previous = part.out
    shutil.copytree(context.out / "rounds" / str(settings.rounds), context.out / "labels", dirs_exist_ok=True)
    save_file(dict(scores), context.out / PROBABILITIES)
    write_metrics(context.out, metrics)


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
    candidates, settings = context.dataset.candidates, context.settings
    return {
        i: confident_regions(both[0], both[1], candidates(i), settings.confidence, settings.keep)
        for i, both in scores.items()
    }


def play_round(
    context: StepContext,
    regions: Regions,
    labels: RegionLabels,
    scores: Mapping[str, np.ndarray],
    previous: Path | None,
) -> dict[str, float]:
    """Train on the labels and find the distribution of every region.

    Without a labelled region of both background and some class there is nothing to tell apart, nor without regions of
    two classes where there is no background: the distributions stay as they are.

    Args:
        context: the round's; the network and the distributions go to its folder.
        regions: of train and dev.
        labels: of the training images' regions.
        scores: the distributions before the round, float16 2 x K x R by image id.
        previous: the folder with the network of an earlier round.

    Returns:
        The round's metrics; "tags_without_region" counts the tags that no region of their image has,
        "images_without_region" the images that lost all of theirs so, and teach background alone, if anything.
    """
    train = context.dataset.splits["train"]
    counts = _label_counts([labels[i] for i in train], len(context.dataset.classes))
    learns = counts[0] > 0 and counts[1:].any() if context.dataset.has_background else (counts > 0).sum() > 1
    metrics: dict[str, float] = {
        "regions_learnt": int(counts.sum()),
        "classes_without_region": int((counts[1:] == 0).sum()),
        "idle": int(not learns),
    }
    if learns:
        model, loss = train_regions(context, regions, labels, torch.from_numpy(counts), previous)
        metrics["loss"] = loss
        scores = predict_regions(context, model, regions)
    save_file(dict(scores), context.out / PROBABILITIES)

    after = region_labels(context, scores)
    counts = _label_counts([after[i] for i in train], len(context.dataset.classes))
    total = sum(len(after[i]) for i in train)
    tagged = [[number in after[i] for number in np.flatnonzero(context.dataset.tags(i)) + 1] for i in train]
    return metrics | {
        "confident": int(counts.sum()) / total,
        "foreground": int(counts[1:].sum()) / total,
        "changed": sum(int((after[i] != labels[i]).sum()) for i in train) / total,
        "tags_without_region": sum(not has for of_image in tagged for has in of_image),
        "images_without_region": sum(len(of_image) > 0 and not any(of_image) for of_image in tagged),
    }


def paint(labels: RegionLabels, regions: Regions, folder: Path) -> None:
    """Write the label maps that the labels of the regions make."""
    with LabelMapWriter(folder) as writer:
        for image_id in regions.ids:
            writer.add(image_id, labels[image_id][regions.read(image_id)])


def _label_counts(labels: list[np.ndarray], classes: int) -> np.ndarray:
    """How many regions have each label, int64 C + 1; 255 is left out."""
    joined = np.concatenate(labels)
    return np.bincount(joined[joined != IGNORE], minlength=classes + 1)


def _round_rng(rng: int, number: int) -> int:
    return int(np.random.SeedSequence((rng, number)).generate_state(1)[0] >> 1)
