"""DCSM (Shimoda and Yanai, ECCV 2016): class scores propagated back to the layers, each class told from the others.

Written from the behaviour of the authors' released MatConvNet code, whose figures are the paper's; it makes the maps,
and its training is not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from wsss.data.score_maps import ScoreMap, ScoreMaps, ScoreMapWriter
from wsss.interface import NETWORK, Method, Stage, Step, StepContext
from wsss.methods.cam import LOCALIZE
from wsss.methods.dcsm.network import DcsmNet, DcsmSettings, cam_training, check_dcsm, pooling_of, train_dcsm
from wsss.methods.dcsm.saliency import LabellingSettings, SaliencySettings
from wsss.methods.dcsm.tiled import saliency_of, scores_of_large
from wsss.nets.kernels import own_depthwise
from wsss.scores import metric_names
from wsss.scores.metric_names import TAG_METRICS, TRAIN_LOSS
from wsss.settings import flatten, loguniform, setting
from wsss.stages.cam import tag_metrics
from wsss.stages.direct import direct, predict_directly
from wsss.stages.inference import id_batches
from wsss.stages.localize import ClassifierSettings
from wsss.stages.outputs import load_model, write_metrics
from wsss.stages.presets import CRFS, from_step, of_step
from wsss.stages.refine import BackgroundSettings, CrfSettings, background, crf, with_background
from wsss.stages.segment import DEEPLAB
from wsss.stream import ordered_map
from wsss.training import to_device


@dataclass(frozen=True)
class DcsmBackgroundSettings(BackgroundSettings):
    """The background is what no class's saliency claims."""

    alpha: float = setting(
        1.0,
        "exponent of the power; larger is less background",
        source="paper",
        low=0.05,
        high=256,
        search=loguniform(0.05, 4),
    )


@dataclass(frozen=True)
class DirectSettings(SaliencySettings, DcsmBackgroundSettings, CrfSettings):
    """Predicting with the saliency maps of the classes that the network itself sees."""


def load_dcsm(context: StepContext) -> DcsmNet:
    """The trained network, in eval mode, on the step's device, its parameters without gradients."""
    folder = context.inputs["train"]
    network = partial(DcsmNet, pooling=pooling_of(folder))
    model = to_device(load_model(folder, network), context.device).requires_grad_(False)
    if context.device.type == "cuda":
        own_depthwise(model)
    return model


def score_map(maps: Tensor, classes: list[int], size: tuple[int, int]) -> ScoreMap:
    """Saliency maps float32 n x h x w in [0, 1] of the foreground classes 0..C - 1, as they are stored."""
    return ScoreMap(maps.numpy().astype(np.float16), np.array(classes, np.uint8) + np.uint8(1), size)


def predict_dcsm(context: StepContext) -> None:
    """Label maps of dev and val without tags (`direct`, `direct_crf`); an image without candidates is background.

    Without a background the class with the highest score is a candidate in any case.
    """
    settings: DirectSettings = context.settings
    model = load_dcsm(context)
    has_background = context.dataset.has_background
    unseen = 0

    def score_maps(images: Sequence[np.ndarray]) -> list[ScoreMap]:
        nonlocal unseen
        found = saliency_of(model, images, None, settings, context.device, at_least_one=not has_background)
        unseen += sum(not classes for _, classes in found)
        size = (images[0].shape[0], images[0].shape[1])
        return [with_background(score_map(maps, classes, size), settings, has_background) for maps, classes in found]

    predict_directly(context, score_maps, settings)
    write_metrics(context.out, {"direct/images_without_candidate": unseen})


def infer_dcsm(context: StepContext) -> None:
    """Saliency maps of the tagged classes for train and dev (`cam`); the ranking quality on dev and val."""
    settings: LabellingSettings = context.settings
    dataset, device = context.dataset, context.device
    model = load_dcsm(context)
    ids = [*dataset.splits["train"], *dataset.splits["dev"]]

    def make(batch: list[str]) -> list[tuple[str, ScoreMap]]:
        images, tags = [dataset.image(i) for i in batch], [dataset.tags(i) for i in batch]
        size = (images[0].shape[0], images[0].shape[1])
        found = saliency_of(model, images, tags, settings, device, subtract=settings.subtract)
        return [(i, score_map(maps, classes, size)) for i, (maps, classes) in zip(batch, found, strict=True)]

    with ScoreMapWriter(context.out / "cam", resume=True) as writer:
        batches = [batch for batch in id_batches(dataset, ids, device) if not writer.kept.issuperset(batch)]
        done = len(ids) - sum(map(len, batches))
        for made in ordered_map(make, batches, workers=None if device.type == "cpu" else 1):
            for image_id, maps in made:
                writer.add(image_id, maps)
            done += len(made)
            context.report.progress(done, len(ids), "images")
    empty = ScoreMaps(context.out / "cam").count_empty()
    write_metrics(context.out, {metric_names.EMPTY_CAMS: empty, **tag_metrics(context, model, scores_of_large)})


def as_cam_trains(preset: str) -> dict[str, object]:
    """CAM's settings of training in a preset, for DCSM on average pooling: one classifier serves both."""
    chosen = {**flatten(ClassifierSettings()), **from_step(LOCALIZE.presets[preset], "train"), "pooling": "average"}
    return of_step("train", chosen)


DCSM = Stage(
    "localize",
    "dcsm",
    (
        Step(
            "train",
            1,
            DcsmSettings,
            train_dcsm,
            metrics=(TRAIN_LOSS,),
            check=check_dcsm,
            uses=NETWORK,
            twin=cam_training,
        ),
        direct(DirectSettings, predict_dcsm),
        Step(
            "infer",
            1,
            LabellingSettings,
            infer_dcsm,
            inputs=("train",),
            outputs=("cam",),
            metrics=TAG_METRICS,
            uses=NETWORK,
            each_image=True,
        ),
    ),
    {
        "demo": {
            **as_cam_trains("demo"),
            "predict.side": None,
            "predict.alpha": 0.16,
            **of_step("predict", CRFS["demo"]),
            "infer.side": None,
        },
        "small": {
            **as_cam_trains("small"),
            "predict.scales": (0.8, 1.2),
            "predict.side": None,
            "predict.alpha": 0.1,
            **of_step("predict", CRFS["small"]),
            "infer.scales": (0.8, 1.2),
            "infer.side": None,
        },
        "paper": {},
    },
)

DCSM_REFINE = Stage(
    "refine",
    "dcsm",
    (
        background(DcsmBackgroundSettings),
        crf("background"),
    ),
    {
        "demo": {"background.alpha": 0.16, **of_step("crf", CRFS["demo"])},
        "small": {"background.alpha": 0.1, **of_step("crf", CRFS["small"])},
        "paper": {},
    },
)

METHOD = Method(
    name="dcsm",
    title="DCSM + CRF",
    year=2016,
    citation="Shimoda, Yanai: Distinct Class-Specific Saliency Maps for Weakly Supervised Semantic Segmentation, ECCV "
    "2016",
    summary="Guided gradients of each class's score at intermediate layers, minus those of the other classes; with a "
    "dense CRF the maps also predict without tags.",
    stages={"localize": DCSM, "refine": DCSM_REFINE, "segment": DEEPLAB},
)
