"""How the model of a run predicts, what that costs, and at what sizes it learned."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from wsss.data import Dataset
from wsss.data.described import longer_sides
from wsss.interface import StepResult
from wsss.run.plan import Plan, PlannedStep
from wsss.scores import Evaluation, Masks, Scores, confusion
from wsss.serving.heatmaps import Direct
from wsss.serving.networks import NETWORKS, SEGMENTER
from wsss.serving.package import load_step
from wsss.serving.segmenter import Inference
from wsss.stages.evaluate import read_evaluations
from wsss.stages.predict import PredictSettings
from wsss.stages.refine import BackgroundSettings

_DIRECT = "direct"
_SECONDS = 60.0
_IMAGES = 100
"""So long, and over so many images at most, the cost of several passes is measured."""


@dataclass(frozen=True)
class Cost:
    """What several passes over an image cost and gain, against one, on images of dev.

    Attributes:
        images: how many were labelled.
        seconds: for an image, at one pass and at all of them.
        miou: in [0, 1], at one pass and at all of them.
    """

    images: int
    seconds: tuple[float, float]
    miou: tuple[float, float]


def run_inference(plan: Plan, dataset: Dataset) -> Inference:
    """How a run's model predicts: as its `pred`, at the scales and with the mirrored copies of `segment.predict`.

    The CRF of `pred_crf` is left out, since it takes longer than everything else. Images outside of the sizes of
    training are brought there, which `pred` does not do.
    """
    predict = next((p.settings for p in plan.steps if isinstance(p.settings, PredictSettings)), PredictSettings())
    return Inference(_sides(dataset), predict.scales, predict.flip, pixels=dataset.pixels)


def direct_step(plan: Plan) -> PlannedStep | None:
    """The step in which a run's localizer predicts by itself, if it is one that can be packaged."""
    steps = (p for p in plan.steps if _DIRECT in p.step.outputs and p.implementation in NETWORKS)
    return next(steps, None)


def direct_inference(step: PlannedStep, dataset: Dataset) -> Inference:
    """How a run's localizer predicts by itself: as its `direct`, in float32.

    Args:
        step: see `direct_step`.
        dataset: the run's.
    """
    how = step.settings
    background = None
    if isinstance(how, BackgroundSettings):
        background = (how.background if dataset.has_background else "none", how.alpha, how.threshold)
    direct = Direct(how.stride, background=background, side=getattr(how, "side", None))
    return Inference(_sides(dataset), how.scales, getattr(how, "flip", False), direct=direct, pixels=dataset.pixels)


def _sides(dataset: Dataset) -> tuple[int, int]:
    sides = longer_sides(dataset)
    return Inference.sides if sides is None else sides


def measure_cost(trained: StepResult, dataset: Dataset, inference: Inference, kind: str = SEGMENTER) -> Cost | None:
    """What the scales and mirrored copies of a trained network cost and gain; None with one pass or without masks.

    Args:
        trained: the output of its training step.
        dataset: whose dev it labels.
        inference: how it predicts.
        kind: one of `NETWORKS`.
    """
    if inference.passes == 1 or not dataset.has_images:
        return None
    masks = Masks(dataset)
    ids = masks.ids("dev")[:_IMAGES]
    if not ids:
        return None
    one = replace(inference, scales=(1.0,), flip=False)
    models = [load_step(trained.folder, dataset.classes, how, kind) for how in (one, inference)]
    matrices, seconds = np.zeros((2, *(2 * [len(dataset.classes) + 1])), np.int64), np.zeros(2)
    begin, done = time.monotonic(), 0
    for image_id in ids:
        image, mask = dataset.image(image_id), masks.read(image_id)
        for place, model in enumerate(models):
            start = time.monotonic()
            labels = model(image)
            seconds[place] += time.monotonic() - start
            matrices[place] += confusion(mask, labels, len(dataset.classes))
        done += 1
        if time.monotonic() - begin > _SECONDS:
            break
    first, second = (Scores.of(matrix).miou for matrix in matrices)
    return Cost(done, (float(seconds[0]) / done, float(seconds[1]) / done), (first, second))


def prediction_evaluations(steps: Mapping[str, StepResult], what: str = "pred") -> list[Evaluation]:
    """The evaluations of what a run's model predicts, as its package does (`pred`, `direct`), on dev and val."""
    step = steps.get(f"evaluate.{what}")
    return list(read_evaluations(step.folder).values()) if step else []
