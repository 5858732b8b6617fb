"""Predicting with a localizer alone, without tags and without a segmentation network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from wsss.data.label_maps import EncodedLabelMap, LabelMapWriter, encode_label_map
from wsss.data.score_maps import ScoreMap
from wsss.interface import CRF, NETWORK, Step, StepContext
from wsss.stages.inference import stream_images
from wsss.stages.refine import CrfSettings, argmax_labels, crf_label_map


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

    def label(image_id: str, image: np.ndarray, maps: ScoreMap) -> tuple[EncodedLabelMap, EncodedLabelMap]:
        refined = crf_label_map(image, maps, crf)
        return encode_label_map(argmax_labels(maps)), encode_label_map(refined)

    with (
        LabelMapWriter(context.out / "direct", resume=True) as plain,
        LabelMapWriter(context.out / "direct_crf", resume=True) as refined,
    ):
        kept = plain.kept & refined.kept
        results = stream_images(dataset, ids, context.device, score_maps, label, skip=kept, one_at_a_time=True)
        for done, (image_id, (own, after)) in enumerate(results, len(kept) + 1):
            plain.add(image_id, own)
            refined.add(image_id, after)
            context.report.progress(done, len(ids), "images")


def direct(settings: type, run: Callable[[StepContext], None]) -> Step:
    """The step of a localizer that predicts with its trained network alone, by `predict_directly`."""
    outputs = ("direct", "direct_crf")
    return Step("predict", 2, settings, run, inputs=("train",), outputs=outputs, uses=NETWORK | CRF, each_image=True)
