"""The random walk that spreads the score maps along the learned affinities (AffinityNet, section 4.3)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from wsss.data.label_maps import EncodedLabelMap, LabelMapWriter, encode_label_map
from wsss.data.score_maps import ScoreMap, ScoreMaps, ScoreMapWriter
from wsss.errors import UserError
from wsss.interface import StepContext
from wsss.methods.affinity.network import feature_grid, grid_features, load_affinity_net
from wsss.nets.folding import folded
from wsss.ops.pairs import pair_affinity
from wsss.ops.tiles import Window, is_large, part_at_size
from wsss.ops.walk import mean_affinity, random_walk
from wsss.settings import choice, setting
from wsss.stages.inference import maps_in_tiles, resize, stream_images
from wsss.stages.refine import BackgroundSettings, argmax_labels, foreground_maps, with_background
from wsss.training import to_device


@dataclass(frozen=True)
class WalkSettings(BackgroundSettings):
    """The walk: sharpening, length, reach, and the background that walks along."""

    radius: int = setting(5, "pairs lie closer than this", source="paper, section 4.2", low=2, high=20, unit="cells")
    beta: float = setting(
        8.0,
        "power of the affinities; larger walks less far",
        source="PSA code",
        low=1,
        high=64,
        search=choice(2.0, 4.0, 8.0, 16.0, 32.0),
    )
    steps: int = setting(256, "steps of the walk", source="PSA code", low=0, high=4096, search=choice(16, 64, 256))
    reduction: Literal["mean", "sum"] = setting(
        "mean", "the L1 distance is the mean (code) or the sum (paper) over channels", choices=("mean", "sum")
    )
    every_source: bool = setting(
        False, "cells at the border are sources of pairs too; needed on small maps", source="PSA code: they are not"
    )


def walk(context: StepContext) -> None:
    """Walked score maps of train and dev, background included (`scores`), and their argmax (`labels`).

    To look at: how alike each cell is to those around it (`affinity`).
    """
    settings: WalkSettings = context.settings
    dataset, device = context.dataset, context.device
    model = folded(to_device(load_affinity_net(context.inputs["train"]), device))
    maps = ScoreMaps(context.inputs["localize"] / "cam")
    ids = context.of_dataset(maps.ids)
    # Threads that give a GPU work in turns are faster than threads that do so together.
    turn = threading.Lock() if device.type == "cuda" else nullcontext()

    @torch.inference_mode()
    def infer(images: Sequence[np.ndarray]) -> Sequence[Tensor | None]:
        height, width = images[0].shape[:2]
        if is_large(height, width):
            return [None] * len(images)  # one after the other, in `finish`
        return grid_features(model, images, feature_grid(model, height, width), device).unbind()

    @torch.inference_mode()
    def finish(
        image_id: str, image: np.ndarray, features: Tensor | None
    ) -> tuple[ScoreMap, EncodedLabelMap, ScoreMap | None]:
        start = maps.read(image_id)
        with turn:
            if features is None:
                walked = walk_in_tiles(image, start)
                return walked, encode_label_map(argmax_labels(walked)), None
            try:
                affinity = pair_affinity(features[None], settings.radius, settings.reduction, settings.every_source)[0]
            except UserError as error:
                raise UserError(f"refine.walk can't walk over image {image_id}: {error}") from None
            grid = (features.shape[1], features.shape[2])
            near = mean_affinity(affinity, grid, settings.radius).clamp(0, 1).cpu().numpy().astype(np.float16)
            walked = walk_score_map(start, affinity, grid, settings, dataset.has_background)
        alike = ScoreMap(near[None], np.zeros(1, np.uint8), start.size)
        return walked, encode_label_map(argmax_labels(walked)), alike

    def walk_in_tiles(image: np.ndarray, start: ScoreMap) -> ScoreMap:
        full = with_background(foreground_maps(start), settings, dataset.has_background)
        grid = feature_grid(model, image.shape[0], image.shape[1])

        def walked(parts: Sequence[np.ndarray], window: Window) -> Tensor:
            features = grid_features(model, parts, window.size, device)
            affinity = pair_affinity(features, settings.radius, settings.reduction, settings.every_source)[0]
            begin = torch.from_numpy(part_at_size(full.scores, grid, *window.seen)).to(device)
            return random_walk(affinity, window.size, settings.radius, begin, beta=settings.beta, steps=settings.steps)[
                None
            ]

        scores = maps_in_tiles(walked, [image], grid, device)[0].clamp(0, 1).cpu().numpy().astype(np.float16)
        return ScoreMap(scores, full.classes, full.size)

    with (
        ScoreMapWriter(context.out / "scores", resume=True) as scores,
        LabelMapWriter(context.out / "labels", resume=True) as labels,
        ScoreMapWriter(context.out / "affinity", resume=True) as affinities,
    ):
        kept = scores.kept & labels.kept & affinities.kept
        results = stream_images(dataset, ids, device, infer, finish, skip=kept)
        for done, (image_id, (walked, label, alike)) in enumerate(results, len(kept) + 1):
            scores.add(image_id, walked)
            labels.add(image_id, label)
            if alike is not None:
                affinities.add(image_id, alike)
            context.report.progress(done, len(ids), "images")


def walk_score_map(
    score_map: ScoreMap, affinity: Tensor, grid: tuple[int, int], settings: WalkSettings, has_background: bool = True
) -> ScoreMap:
    """Walk one image's maps, its background added in front, over the affinity of its cells.

    Args:
        score_map: of the foreground classes; a background of the localizer's own is left out.
        affinity: P x h' x w' of `pair_affinity`.
        grid: h x w of the affinity's features.
        settings: of the walk.
        has_background: whether there is one to be added; else the classes' maps are walked alone.

    Returns:
        The background's, if there is one, and the classes' maps at h x w.
    """
    full = with_background(foreground_maps(score_map), settings, has_background)
    start = resize(torch.from_numpy(full.scores.astype(np.float32))[None], grid)[0].to(affinity.device)
    walked = random_walk(affinity, grid, settings.radius, start, beta=settings.beta, steps=settings.steps)
    return ScoreMap(walked.clamp(0, 1).cpu().numpy().astype(np.float16), full.classes, full.size)
