"""FCN-MIL (Pathak et al., ICLR workshop 2015): a fully convolutional net that learns from its best cell of each class.

Written from the paper; there is no released code. What the paper leaves open (the table from ImageNet's classes to
VOC's, crop, batch, schedule) is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from wsss.data.score_maps import ScoreMap
from wsss.interface import NETWORK, Method, Stage, Step, StepContext
from wsss.methods.cam import REFINE
from wsss.methods.fcn_mil.network import FcnMil, FcnMilSettings, check_mil, train_mil
from wsss.nets.folding import folded
from wsss.scores.metric_names import TAG_METRICS, TRAIN_LOSS
from wsss.settings import setting
from wsss.stages.cam import CamSettings, image_maps, tag_metrics, write_score_maps
from wsss.stages.direct import direct, predict_directly
from wsss.stages.outputs import load_model, write_metrics
from wsss.stages.presets import CRFS, NETWORKS, of_step
from wsss.stages.refine import CrfSettings
from wsss.stages.segment import DEEPLAB
from wsss.training import to_device


@dataclass(frozen=True)
class MapSettings(CamSettings):
    """Making score maps with the trained network."""

    scales: tuple[float, ...] = setting((1.0,), "image scales", source="paper", low=0.1, high=8)
    flip: bool = setting(False, "add mirrored images", source="paper")


@dataclass(frozen=True)
class DirectSettings(MapSettings, CrfSettings):
    """Predicting with the network alone: the paper's result, and a CRF after it."""

    precision: str = setting(
        "float32", "number format; a packaged model is float32", choices=("auto", "float32", "bfloat16")
    )


def chosen_score_map(
    probabilities: Tensor, chosen: np.ndarray, size: tuple[int, int], background: bool = True
) -> ScoreMap:
    """The maps of the background and of the chosen classes.

    Args:
        probabilities: p, float32 (C + 1) x h x w, the background first.
        chosen: bool C.
        size: of the image.
        background: whether there is one.
    """
    classes = np.flatnonzero(np.concatenate([[background], chosen]))
    return ScoreMap(probabilities.numpy()[classes].clip(0, 1).astype(np.float16), classes.astype(np.uint8), size)


def predict_mil(context: StepContext) -> None:
    """Label maps of dev and val without tags: the largest p at each pixel, over all classes."""
    settings: DirectSettings = context.settings
    model = folded(to_device(load_model(context.inputs["train"], FcnMil), context.device))
    every = np.ones(len(context.dataset.classes), bool)

    def score_maps(images: Sequence[np.ndarray]) -> list[ScoreMap]:
        maps = image_maps(model, images, settings, context.device).cpu()
        return [chosen_score_map(p, every, images[0].shape[:2], context.dataset.has_background) for p in maps]

    predict_directly(context, score_maps, settings)


def infer_mil(context: StepContext) -> None:
    """Score maps of the background and the tagged classes for train and dev; how max p ranks dev's and val's tags."""
    model = to_device(load_model(context.inputs["train"], FcnMil), context.device)
    write_score_maps(context, model, partial(chosen_score_map, background=context.dataset.has_background))
    write_metrics(context.out, tag_metrics(context, model))


LOCALIZE = Stage(
    "localize",
    "fcn_mil",
    (
        Step("train", 1, FcnMilSettings, train_mil, metrics=(TRAIN_LOSS,), check=check_mil, uses=NETWORK),
        direct(DirectSettings, predict_mil),
        Step(
            "infer",
            1,
            MapSettings,
            infer_mil,
            inputs=("train",),
            outputs=("cam",),
            metrics=TAG_METRICS,
            uses=NETWORK,
            each_image=True,
        ),
    ),
    {
        "demo": {
            **of_step("train", NETWORKS["demo"]),
            **of_step("predict", CRFS["demo"]),
            "train.transplant": False,
            "train.pretrain_epochs": 16,
            "train.pretrain_lr": 4e-3,
            "train.output_stride": 8,
            "train.dropout": 0.0,
            "train.lr": 2e-4,
            "train.crop": 97,
            "train.scale_low": 0.75,
            "train.batch_size": 16,
            "train.epochs": 4,
            "infer.scales": (1.0, 1.5),
            "infer.flip": True,
            "infer.stride": 4,
            "predict.scales": (1.0, 1.5),
            "predict.flip": True,
            "predict.stride": 4,
        },
        "small": {
            **of_step("train", NETWORKS["small"]),
            **of_step("predict", CRFS["small"]),
            "train.dropout": 0.2,
            "train.crop": 161,
            "train.scale_low": 0.6,
            "train.scale_high": 0.9,
            "train.jitter": 0.1,
            "train.batch_size": 16,
            "train.epochs": 13,
            "train.image_limit": 6000,
        },
        "paper": {},
    },
)

METHOD = Method(
    name="fcn_mil",
    title="FCN-MIL",
    year=2015,
    citation="Pathak, Shelhamer, Long, Darrell: Fully Convolutional Multi-Class Multiple Instance Learning, "
    "ICLR workshop 2015",
    summary="A fully convolutional net with a background class learns from the single best cell of each tagged class; "
    "it predicts without tags.",
    stages={"localize": LOCALIZE, "refine": REFINE, "segment": DEEPLAB},
)
