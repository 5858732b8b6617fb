"""Predicting with a localizer alone, without tags and without a segmentation network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from wsss.data.label_maps import LabelMapWriter
from wsss.data.score_maps import ScoreMap
from wsss.interface import StepContext
from wsss.stages.inference import batches_by_size
from wsss.stages.refine import CrfSettings, argmax_labels, crf_labels, ordered_map, upsampled


def predict_directly(
    context: StepContext, score_maps: Callable[[Sequence[np.ndarray]], Sequence[ScoreMap]], crf: CrfSettings
) -> None:
    """Label maps of dev and val: of the largest map (`direct`) and after the CRF (`direct_crf`).

    Args:
        context: the step's.
        score_maps: from uint8 H x W x 3 images of one size to their score maps over the candidates that the network
            itself sees, background included.
        crf: its settings.
    """
    dataset = context.dataset
    ids = [*dataset.splits["dev"], *dataset.splits["val"]]

    def label(item: tuple[np.ndarray, ScoreMap]) -> tuple[np.ndarray, np.ndarray]:
        image, maps = item
        return argmax_labels(maps), crf_labels(image, upsampled(maps), maps.classes, crf)

    done = 0
    with LabelMapWriter(context.out / "direct") as plain, LabelMapWriter(context.out / "direct_crf") as refined:
        for chunk, images in batches_by_size(dataset, ids, context.device):
            pairs = zip(images, score_maps(images), strict=True)
            for image_id, (own, after) in zip(chunk, ordered_map(label, pairs), strict=True):
                plain.add(image_id, own)
                refined.add(image_id, after)
            done += len(chunk)
            context.report.progress(done, len(ids), "images")
