"""Affinity labels: confident foreground and background from two CRFs (AffinityNet, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsss.classes import IGNORE
from wsss.data.score_maps import ScoreMaps
from wsss.errors import UserError
from wsss.interface import CRF, Step, StepContext
from wsss.ops.tiles import is_large, labels_in_tiles, part_at_size
from wsss.settings import factor, setting
from wsss.stages.refine import (
    BackgroundSettings,
    CrfSettings,
    background_score,
    dense_crf,
    foreground_maps,
    probabilities,
    upsampled,
    write_labels,
)


@dataclass(frozen=True)
class AffinityLabelSettings(CrfSettings):
    """The two background exponents around which a pixel is confident, and the CRF."""

    alpha_low: float = setting(
        4.0,
        "exponent of the strong background: what is foreground even so, is foreground",
        source="PSA code",
        low=0.05,
        high=256,
        search=factor(0.25, 1.25),
    )
    alpha_high: float = setting(
        32.0,
        "exponent of the weak background: what is background even so, is background",
        source="PSA code (24 in the CVPR version)",
        low=0.05,
        high=256,
        search=factor(0.75, 2),
    )


def check_labels(settings: AffinityLabelSettings) -> None:
    """Refuse exponents in the wrong order."""
    if settings.alpha_low > settings.alpha_high:
        raise UserError(
            f"refine.labels.alpha_low = {settings.alpha_low} is above alpha_high = {settings.alpha_high}; the strong "
            "background has the lower exponent"
        )


def confident_classes(strong: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The class where it wins against the strong background, 255 elsewhere; see `confident_labels`."""
    labels = classes[strong.argmax(0)]
    return np.where(labels == 0, np.uint8(IGNORE), labels)


def confident_labels(strong: np.ndarray, weak: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The labels both CRFs are sure of.

    Args:
        strong: float K x H x W, marginals with the strong background (low exponent).
        weak: the same with the weak background (high exponent).
        classes: uint8 K, the class of each channel, background (0) first.

    Returns:
        uint8 H x W: the class where `strong` says foreground, 0 where `weak` says background, 255 elsewhere. Where
        they contradict each other, background wins, as in the released code.
    """
    labels = confident_classes(strong, classes)
    return np.where(classes[weak.argmax(0)] == 0, np.uint8(0), labels)


def make_affinity_labels(context: StepContext) -> None:
    """Confident labels of the training images, at their own size (`labels`).

    In a dataset without a background the strong background is a doubt: what a class wins in spite of it is confident,
    and all the rest is 255. The weak background, and `alpha_high` with it, is not asked.
    """
    settings: AffinityLabelSettings = context.settings
    maps = ScoreMaps(context.inputs["localize"] / "cam")
    ids = context.dataset.splits["train"]

    def label(image_id: str) -> np.ndarray:
        score_map = foreground_maps(maps.read(image_id))
        if not len(score_map.classes):
            return np.zeros(score_map.size, np.uint8)
        image, classes = context.dataset.image(image_id), np.concatenate([np.zeros(1, np.uint8), score_map.classes])
        if is_large(*score_map.size):
            return labels_in_tiles(
                *score_map.size,
                lambda rows, columns: confident(
                    image[rows, columns], part_at_size(score_map.scores, score_map.size, rows, columns), classes
                ),
            )
        return confident(image, upsampled(score_map), classes)

    def confident(image: np.ndarray, foreground: np.ndarray, classes: np.ndarray) -> np.ndarray:
        crf = dense_crf(image, settings) if settings.iterations else None

        def marginals(alpha: float) -> np.ndarray:
            background = background_score(foreground, BackgroundSettings(alpha=alpha))
            unary = probabilities(np.concatenate([background[None], foreground]))
            return crf(unary, iterations=settings.iterations) if crf else unary

        strong = marginals(settings.alpha_low)
        if not context.dataset.has_background:
            return confident_classes(strong, classes)
        return confident_labels(strong, marginals(settings.alpha_high), classes)

    write_labels(context, "labels", ids, label)


AFFINITY_LABELS = Step(
    "labels",
    1,
    AffinityLabelSettings,
    make_affinity_labels,
    inputs=("localize",),
    check=check_labels,
    uses=CRF,
    each_image=True,
)
"""The step, which other refiners begin with too."""
