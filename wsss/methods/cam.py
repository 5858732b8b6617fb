"""CAM: class activation maps with a background score and a dense CRF. The floor of every table."""

from __future__ import annotations

from wsss.interface import NETWORK, Method, Stage, Step
from wsss.scores.metric_names import TAG_METRICS, TRAIN_LOSS
from wsss.stages.cam import CamSettings, infer_cam
from wsss.stages.localize import ClassifierSettings, check_training, train_classifier
from wsss.stages.presets import CRFS, NETWORKS, of_step
from wsss.stages.refine import background, crf
from wsss.stages.segment import DEEPLAB

LOCALIZE = Stage(
    "localize",
    "cam",
    (
        Step(
            "train",
            2,
            ClassifierSettings,
            train_classifier,
            metrics=(TRAIN_LOSS,),
            check=check_training,
            uses=NETWORK,
            workers=True,
        ),
        Step(
            "infer",
            2,
            CamSettings,
            infer_cam,
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
            "train.dropout": 0.0,
            "train.lr": 4e-3,
            "train.head_lr": 1.0,
            "train.crop": 97,
            "train.scale_low": 0.75,
            "train.scale_high": 1.0,
            "train.jitter": 0.0,
            "train.batch_size": 16,
            "train.epochs": 20,
            "infer.scales": (1.0, 1.5),
            "infer.stride": 4,
        },
        "small": {
            **of_step("train", NETWORKS["small"]),
            "train.dropout": 0.2,
            "train.lr": 2e-4,
            "train.crop": 225,
            "train.scale_low": 0.75,
            "train.scale_high": 1.0,
            "train.jitter": 0.1,
            "train.epochs": 6,
            "train.image_limit": 11600,
        },
        "paper": {},
    },
)

REFINE = Stage(
    "refine",
    "cam",
    (
        background(),
        crf("background"),
    ),
    {
        "demo": {"background.alpha": 6.0, **of_step("crf", CRFS["demo"])},
        "small": {"background.alpha": 1.0, **of_step("crf", CRFS["small"])},
    },
)

METHOD = Method(
    name="cam",
    title="CAM",
    year=2016,
    citation="Zhou, Khosla, Lapedriza, Oliva, Torralba: Learning Deep Features for Discriminative Localization, "
    "CVPR 2016",
    summary="A classifier's own activation maps, thresholded against the background and sharpened by a dense CRF.",
    stages={"localize": LOCALIZE, "refine": REFINE, "segment": DEEPLAB},
    role="floor",
)
