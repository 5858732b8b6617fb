"""The rounds: train the unary and the pairwise network, refine, mine confident labels for the next round.

rounds/1/, rounds/2/, ..   the labels of train and dev after each round: the largest refined probability
labels/                    those of the last round
scores/                    the refined probabilities of the last round
parts/                     networks, scores and confident labels of the rounds; gone at the end
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from wsss.classes import IGNORE
from wsss.data.label_maps import EncodedLabelMap, LabelMaps, LabelMapWriter, encode_label_map
from wsss.data.score_maps import ScoreMap, ScoreMapWriter
from wsss.interface import StepContext
from wsss.methods.affinity.network import feature_grid, grid_features, load_affinity_net, train_affinity_net
from wsss.methods.ial.refinement import energy, keep_lost_classes, masked_probabilities, refine
from wsss.methods.ial.settings import RoundsSettings, pairwise_settings, some_ids, thresholds, unary_settings
from wsss.methods.ial.tiled import mined_labels, refined_in_tiles
from wsss.nets.folding import folded
from wsss.ops.pairs import pair_affinity
from wsss.ops.tiles import is_large
from wsss.scores import metric_names
from wsss.stages.inference import multi_scale, stream_images
from wsss.stages.localize import begin_localized
from wsss.stages.outputs import read_metrics, write_metrics
from wsss.stages.parts import in_parts, once, part_of
from wsss.stages.prior import load_segmenter
from wsss.stages.refine import argmax_labels
from wsss.stages.segment import train_segmenter
from wsss.training import to_device

BRANCHES: dict[str, tuple[Callable[..., Any], Callable[..., None]]] = {
    "unary": (unary_settings, train_segmenter),
    "pairwise": (pairwise_settings, train_affinity_net),
}
"""What each network is trained with, and by what."""


@in_parts
def iterate(context: StepContext) -> None:
    """All rounds, each from the confident labels of the one before."""
    train = context.dataset.splits["train"]
    metrics = {"images_without_tags": float(sum(not context.dataset.tags(i).any() for i in train))}
    for number in range(1, context.settings.rounds + 1):
        metrics |= one_round(context, number)
    shutil.copytree(context.out / "rounds" / str(number), context.out / "labels", dirs_exist_ok=True)
    shutil.copytree(_part(context, number, "refine").out / "scores", context.out / "scores", dirs_exist_ok=True)
    write_metrics(context.out, metrics)


def one_round(context: StepContext, number: int) -> dict[str, float]:
    """Train both networks on confident labels, refine and mine; the metrics of round `number` (from 1)."""
    metrics: dict[str, float] = {}
    for branch in BRANCHES:
        metrics |= train_branch(context, number, branch)
    metrics |= once(_part(context, number, "refine"), lambda part: refine_and_mine(context, number, part))
    return {f"round_{number}/{name}": value for name, value in metrics.items()}


def train_branch(context: StepContext, number: int, branch: str) -> dict[str, float]:
    """Train one network of a round on confident labels, from where the round before left it; its loss."""
    settings: RoundsSettings = context.settings
    settings_of, train = BRANCHES[branch]
    ids = context.dataset.splits["train"]
    own, count = settings_of(settings, number, len(ids))
    rng = int(np.random.default_rng((context.rng, number, *branch.encode())).integers(2**31))
    labels = _labels(context, number, branch)
    begin: Callable[[Any], object] | None = None
    if number > 1:
        weights = load_file(_part(context, number - 1, branch).out / "model.safetensors")
        begin = partial(nn.Module.load_state_dict, state_dict=weights)
    elif settings.weights == "localize":
        begin = begin_localized(context, "refine.rounds")

    def work(part: StepContext) -> dict[str, float]:
        train(part, some_ids(ids, count, rng), labels.read, begin)
        return {f"{branch}/loss": read_metrics(part.out)[metric_names.TRAIN_LOSS]}

    return once(_part(context, number, branch, settings=own, rng=rng), work)


def refine_and_mine(context: StepContext, number: int, part: StepContext) -> dict[str, float]:
    """After a round: the labels of train and dev, their refined probabilities, the next confident labels of train.

    Args:
        context: the step's.
        number: of the round, from 1; its networks are trained.
        part: its folder takes `scores` and, by the network that they are for, the next round's labels: those of the
            mining for the `unary` one; for the `pairwise` one, which learns from borders, what is open in them as it
            was before.

    Returns:
        Over the training images: means of E(p) and E(p T^t) ("energy_before", "energy"); the share of pixels that had
        a label ("confident") and how many images had none ("unlabelled_images"); in how many the mining
        finds none ("unsure_images") and how many of their classes keep their old region for that ("kept_regions"); how
        many tags have no pixel in the next labels of their image ("tags_without_pixel"), and how many images no pixel
        of any of their tags ("images_without_pixel"): they go on with their background, or with no label at all.
    """
    settings: RoundsSettings = context.settings
    dataset, device = context.dataset, context.device
    unary = folded(to_device(load_segmenter(_part(context, number, "unary").out, settings.prior), device))
    pairwise = folded(to_device(load_affinity_net(_part(context, number, "pairwise").out), device))
    before, pairs_before = (_labels(context, number, branch) for branch in BRANCHES)
    limits = thresholds(settings, number)

    @torch.inference_mode()
    def infer(images: Sequence[np.ndarray]) -> Sequence[tuple[Tensor, Tensor] | None]:
        height, width = images[0].shape[:2]
        if is_large(height, width):
            return [None] * len(images)  # one after the other, in `finish`
        grid = feature_grid(pairwise, height, width)
        features = grid_features(pairwise, images, grid, device)
        return list(zip(probabilities(images, grid), features, strict=True))

    def probabilities(images: Sequence[np.ndarray], grid: tuple[int, int]) -> Tensor:
        return multi_scale(
            lambda x: unary(x).float().softmax(1),
            images,
            scales=settings.scales,
            flip=settings.flip,
            stride=unary.backbone.output_stride,
            grid=grid,
            device=device,
        )

    @torch.inference_mode()
    def finish(image_id: str, image: np.ndarray, maps: tuple[Tensor, Tensor] | None) -> _Mined:
        classes = dataset.candidates(image_id)
        if maps is None:
            p, y, energies = refined_in_tiles(probabilities, pairwise, image, classes, settings, device)
        else:
            p = masked_probabilities(maps[0], torch.from_numpy(classes).long().to(device))
            affinity = pair_affinity(maps[1][None], settings.radius, "mean", every_source=True)[0]
            walk = (affinity, settings.radius, settings.beta, settings.steps)
            y = refine(p, *walk)
        size = (image.shape[0], image.shape[1])
        own, refined = (ScoreMap(m.clamp(0, 1).cpu().numpy().astype(np.float16), classes, size) for m in (p, y))
        labels = encode_label_map(argmax_labels(refined))
        if image_id not in before:
            return _Mined(refined, labels)
        old = before.read(image_id)
        if maps is not None:
            energies = {"energy_before": sum(energy(p, p, *walk)), "energy": sum(energy(y, p, *walk))}
        mined = mined_labels(image, own, refined, settings.mining_crf, *limits)
        kept, lost = keep_lost_classes(mined, old, classes)
        pairs = np.where(kept == IGNORE, pairs_before.read(image_id), kept)
        without = [c not in kept for c in classes if c]
        metrics = {
            **energies,
            "confident": float((old != IGNORE).mean()),
            "unlabelled_images": float((old == IGNORE).all()),
            "unsure_images": float((mined == IGNORE).all()),
            "kept_regions": float(lost),
            "tags_without_pixel": float(sum(without)),
            "images_without_pixel": float(len(without) > 0 and all(without)),
        }
        return _Mined(refined, labels, (encode_label_map(kept), encode_label_map(pairs)), metrics)

    ids = [*dataset.splits["train"], *dataset.splits["dev"]]
    totals: Counter[str] = Counter()
    with (
        LabelMapWriter(context.out / "rounds" / str(number)) as labels,
        LabelMapWriter(part.out / "unary") as next_unary,
        LabelMapWriter(part.out / "pairwise") as next_pairwise,
        ScoreMapWriter(part.out / "scores") as scores,
    ):
        for done, (image_id, mined) in enumerate(stream_images(dataset, ids, device, infer, finish), 1):
            scores.add(image_id, mined.refined)
            labels.add(image_id, mined.labels)
            for writer, confident in zip((next_unary, next_pairwise), mined.confident, strict=False):
                writer.add(image_id, confident)
            totals.update(mined.metrics)
            part.report.progress(done, len(ids), "images")
    means = ("energy_before", "energy", "confident")
    return {name: total / len(before) if name in means else total for name, total in totals.items()}


@dataclass(frozen=True)
class _Mined:
    """What a round makes of an image; without `confident` (the unary's, the pairwise's) and `metrics` outside train."""

    refined: ScoreMap
    labels: EncodedLabelMap
    confident: tuple[EncodedLabelMap, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)


def _part(context: StepContext, number: int, name: str, **changes: Any) -> StepContext:
    """The context of a part of a round: of the training of "unary" and "pairwise", and of "refine"."""
    return part_of(context, f"round_{number}/{name}", **changes)


def _labels(context: StepContext, number: int, branch: str) -> LabelMaps:
    """The confident labels that a network is trained on in a round."""
    first = context.inputs["labels"] / "labels"
    return LabelMaps(first if number == 1 else _part(context, number - 1, "refine").out / branch)
