"""AffinityNet (Ahn and Kwak, CVPR 2018): confident seeds teach an affinity, a random walk spreads the maps with it.

Written from the paper and from the behaviour of the authors' released code (PSA); where both differ, the code's
behaviour is the default and the docs say so.
"""

from __future__ import annotations

from wsss.interface import BACKGROUND_SCORES, NETWORK, Method, Picture, Stage, Step
from wsss.methods.affinity.labels import AFFINITY_LABELS
from wsss.methods.affinity.network import AffinityTrainSettings, check_train, train_affinity
from wsss.methods.affinity.walk import WalkSettings, walk
from wsss.methods.cam import LOCALIZE
from wsss.scores.metric_names import TRAIN_LOSS
from wsss.stages.presets import CRFS, NETWORKS, of_step
from wsss.stages.refine import crf
from wsss.stages.segment import DEEPLAB

REFINE = Stage(
    "refine",
    "affinity",
    (
        AFFINITY_LABELS,
        Step(
            "train",
            2,
            AffinityTrainSettings,
            train_affinity,
            inputs=("labels", "localize.train"),
            metrics=(TRAIN_LOSS,),
            check=check_train,
            uses=NETWORK,
        ),
        Step(
            "walk",
            3,
            WalkSettings,
            walk,
            inputs=("localize", "train"),
            outputs=("labels",),
            uses=NETWORK,
            pictures=(BACKGROUND_SCORES, Picture("affinity", "affinity", 0)),
            each_image=True,
        ),
        crf("walk"),
    ),
    {
        "demo": {
            **of_step("train", NETWORKS["demo"]),
            **of_step("labels", CRFS["demo"]),
            **of_step("crf", CRFS["demo"]),
            "train.weights": "localize",
            "train.lr": 2e-3,
            "train.head_lr": 1.0,
            "labels.alpha_low": 2.0,
            "labels.alpha_high": 16.0,
            "train.stride": 4,
            "train.every_source": True,
            "train.jitter": 0.1,
            "train.crop": 65,
            "train.batch_size": 16,
            "train.epochs": 10,
            "walk.every_source": True,
            "walk.alpha": 10.0,
            "walk.beta": 32.0,
            "walk.steps": 64,
        },
        "small": {
            **of_step("train", NETWORKS["small"]),
            **of_step("labels", CRFS["small"]),
            **of_step("crf", CRFS["small"]),
            "labels.alpha_low": 0.5,
            "labels.alpha_high": 4.0,
            "train.lr": 2e-4,
            "train.jitter": 0.1,
            "train.crop": 161,
            "train.batch_size": 16,
            "train.image_limit": 6000,
            "walk.alpha": 1.0,
            "walk.beta": 16.0,
            "walk.steps": 64,
        },
        "paper": {},
    },
)

METHOD = Method(
    name="affinity",
    title="AffinityNet",
    year=2018,
    citation="Ahn, Kwak: Learning Pixel-Level Semantic Affinity With Image-Level Supervision, CVPR 2018",
    summary="A network learns from confident CAM regions which neighbouring pixels belong together; a random walk over "
    "these affinities completes the maps.",
    stages={"localize": LOCALIZE, "refine": REFINE, "segment": DEEPLAB},
)
