"""Turning score maps into label maps: the background score and the dense CRF, which most refiners share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from wsss.data.label_maps import EncodedLabelMap, LabelMapWriter, encode_label_map
from wsss.data.score_maps import ScoreMap, ScoreMaps, ScoreMapWriter
from wsss.errors import UserError
from wsss.interface import BACKGROUND_SCORES, CRF, Step, StepContext
from wsss.ops.crf import DenseCrf
from wsss.ops.tiles import is_large, labels_in_tiles, part_at_size
from wsss.settings import choice, factor, setting
from wsss.stages.inference import resize
from wsss.stream import ordered_map

PROBABILITY_FLOOR = 1e-5


@dataclass(frozen=True)
class BackgroundSettings:
    """Where the background comes from."""

    background: str = setting(
        "power",
        "background score: power is (1 - max M)^alpha, constant is the threshold",
        source="PSA and IRN code",
        choices=("power", "constant"),
    )
    alpha: float = setting(
        16.0, "exponent of the power; larger is less background", low=0.05, high=256, search=factor(0.125, 4)
    )
    threshold: float = setting(0.2, "score of the constant background", low=0, high=1)


@dataclass(frozen=True)
class CrfSettings:
    """The dense CRF over the image (Kraehenbuehl and Koltun, NeurIPS 2011)."""

    iterations: int = setting(10, "mean-field iterations; 0 is no CRF", source="PSA code", low=0, high=100)
    gaussian_sxy: float = setting(
        3.0, "width of the smoothness kernel", source="PSA code", low=0.1, high=500, unit="px"
    )
    gaussian_weight: float = setting(3.0, "weight of the smoothness kernel", source="PSA code", low=0, high=500)
    bilateral_sxy: float = setting(
        80.0, "width of the appearance kernel", source="PSA code", low=0.1, high=500, unit="px"
    )
    bilateral_srgb: float = setting(
        13.0, "its width in colour", source="PSA code", low=0.1, high=255, search=choice(3.0, 5.0, 8.0, 13.0)
    )
    bilateral_weight: float = setting(
        10.0, "weight of the appearance kernel", source="PSA code", low=0, high=500, search=choice(3.0, 5.0, 10.0)
    )


def background_score(scores: np.ndarray, settings: BackgroundSettings) -> np.ndarray:
    """The background's map, from foreground maps float K x h x w in [0, 1] (K may be 0): float32 h x w.

    "power" is (1 - max_c M_c)^alpha (AffinityNet, eq. 2); "constant" is the threshold (IRN's released code).
    """
    top = scores.max(0) if len(scores) else np.zeros(scores.shape[1:], scores.dtype)
    if settings.background == "constant":
        return np.full(top.shape, settings.threshold, np.float32)
    return (1 - np.clip(top.astype(np.float32), 0, 1)) ** settings.alpha


def with_background(score_map: ScoreMap, settings: BackgroundSettings, exists: bool = True) -> ScoreMap:
    """A score map with the background's map put in front; a background of the localizer's own is kept instead.

    Where none exists (`Dataset.has_background`), the score map is left as it is.
    """
    if 0 in score_map.classes or not exists:
        return score_map
    background = background_score(score_map.scores, settings)[None].astype(np.float16)
    return ScoreMap(
        np.concatenate([background, score_map.scores]),
        np.concatenate([np.zeros(1, np.uint8), score_map.classes]),
        score_map.size,
    )


def foreground_maps(score_map: ScoreMap) -> ScoreMap:
    """The maps of the foreground classes, each divided by its maximum (plus 1e-5) where there was a background."""
    if 0 not in score_map.classes:
        return score_map
    kept = score_map.classes > 0
    scores = score_map.scores[kept].astype(np.float32)
    scores = scores / (scores.max((1, 2), keepdims=True) + 1e-5) if len(scores) else scores
    return ScoreMap(scores.astype(np.float16), score_map.classes[kept], score_map.size)


def upsampled(score_map: ScoreMap) -> np.ndarray:
    """The maps at the image's size: float32 K x H x W, bilinear from corner to corner."""
    maps = torch.from_numpy(score_map.scores.astype(np.float32))[None]
    return resize(maps, score_map.size)[0].numpy()


def argmax_labels(score_map: ScoreMap) -> np.ndarray:
    """The class of the largest map at each pixel: uint8 H x W."""
    scores, classes, size = score_map.scores, score_map.classes, score_map.size
    if is_large(*size):
        return labels_in_tiles(*size, lambda rows, cols: classes[part_at_size(scores, size, rows, cols).argmax(0)])
    return classes[upsampled(score_map).argmax(0)]


def probabilities(maps: np.ndarray) -> np.ndarray:
    """Maps scaled to sum to one at each pixel, none below the floor: float32 K x H x W."""
    kept = np.maximum(maps, PROBABILITY_FLOOR)
    return (kept / kept.sum(0)).astype(np.float32)


def dense_crf(image: np.ndarray, settings: CrfSettings) -> DenseCrf:
    """The CRF of an image (uint8 H x W x 3) with a step's settings; can be used for several unaries."""
    return DenseCrf(
        image,
        gaussian_sxy=settings.gaussian_sxy,
        gaussian_weight=settings.gaussian_weight,
        bilateral_sxy=settings.bilateral_sxy,
        bilateral_srgb=settings.bilateral_srgb,
        bilateral_weight=settings.bilateral_weight,
    )


def crf_marginals(image: np.ndarray, maps: np.ndarray, settings: CrfSettings) -> np.ndarray:
    """The CRF's marginals of one image, float32 K x H x W; arguments as for `crf_labels`."""
    unary = probabilities(maps)
    if settings.iterations and len(maps) > 1:
        unary = dense_crf(image, settings)(unary, iterations=settings.iterations)
    return unary


def crf_labels(image: np.ndarray, maps: np.ndarray, classes: np.ndarray, settings: CrfSettings) -> np.ndarray:
    """The CRF's labelling of one image.

    Args:
        image: uint8 H x W x 3.
        maps: float K x H x W, at least 0; scaled to probabilities here.
        classes: uint8 K, the label of each map.
        settings: of the CRF.

    Returns:
        uint8 H x W.
    """
    return classes[crf_marginals(image, maps, settings).argmax(0)]


def crf_label_map(image: np.ndarray, score_map: ScoreMap, settings: CrfSettings) -> np.ndarray:
    """The CRF's labelling of one image from its score maps: uint8 H x W; of a large one, tile by tile."""
    scores, classes, size = score_map.scores, score_map.classes, score_map.size

    def label(rows: slice, columns: slice) -> np.ndarray:
        return crf_labels(image[rows, columns], part_at_size(scores, size, rows, columns), classes, settings)

    if is_large(*size):
        return labels_in_tiles(*size, label)
    return crf_labels(image, upsampled(score_map), classes, settings)


def write_labels(context: StepContext, what: str, ids: Sequence[str], label: Callable[[str], np.ndarray]) -> None:
    """Label maps of the images `ids` in `out/<what>`, made on all cores; an interrupted step continues.

    Args:
        context: the step's.
        what: the folder's name.
        ids: of the images.
        label: from an id to uint8 H x W; called from several threads at once.
    """
    with LabelMapWriter(context.out / what, resume=True) as writer:
        left = [image_id for image_id in ids if image_id not in writer.kept]
        encoded = ordered_map(lambda image_id: encode_label_map(label(image_id)), left)
        for done, (image_id, labels) in enumerate(zip(left, encoded, strict=True), len(ids) - len(left) + 1):
            writer.add(image_id, labels)
            context.report.progress(done, len(ids), "images")


def add_background(context: StepContext) -> None:
    """Put the background's map in front of the localizer's maps (`scores`), and label by the largest (`labels`)."""
    maps = ScoreMaps(context.inputs["localize"] / "cam")
    ids = context.of_dataset(maps.ids)

    def refine(image_id: str) -> tuple[str, ScoreMap, EncodedLabelMap]:
        full = with_background(maps.read(image_id), context.settings, context.dataset.has_background)
        return image_id, full, encode_label_map(argmax_labels(full))

    with (
        ScoreMapWriter(context.out / "scores", resume=True) as scores,
        LabelMapWriter(context.out / "labels", resume=True) as labels,
    ):
        kept = scores.kept & labels.kept
        left = [image_id for image_id in ids if image_id not in kept]
        for done, (image_id, full, label) in enumerate(ordered_map(refine, left), len(ids) - len(left) + 1):
            scores.add(image_id, full)
            labels.add(image_id, label)
            context.report.progress(done, len(ids), "images")


def crf_step(scores_from: str) -> Callable[[StepContext], None]:
    """A step that runs the CRF over the score maps (background included) of the step `scores_from`."""

    def run(context: StepContext) -> None:
        maps = ScoreMaps(context.inputs[scores_from] / "scores")
        if not len(maps):
            raise UserError("there are no score maps to refine")

        def label(image_id: str) -> np.ndarray:
            return crf_label_map(context.dataset.image(image_id), maps.read(image_id), context.settings)

        write_labels(context, "labels_crf", context.of_dataset(maps.ids), label)

    return run


def background(settings: type[BackgroundSettings] = BackgroundSettings) -> Step:
    """The step that puts a background in front of the localizer's maps."""
    return Step(
        "background",
        1,
        settings,
        add_background,
        inputs=("localize",),
        outputs=("labels",),
        pictures=(BACKGROUND_SCORES,),
        each_image=True,
    )


def crf(scores_from: str) -> Step:
    """The step that runs the CRF over the score maps of the step `scores_from`."""
    return Step(
        "crf",
        1,
        CrfSettings,
        crf_step(scores_from),
        inputs=(scores_from,),
        outputs=("labels_crf",),
        uses=CRF,
        each_image=True,
    )
