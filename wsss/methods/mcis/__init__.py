"""MCIS, mining cross-image semantics (Sun et al., ECCV 2020): what two images share says where it is.

Written from the paper and from the behaviour of the authors' released code. The extra images of settings 2 and 3 are
not part of the release: what is done with them here is a reconstruction.
"""

from __future__ import annotations

from wsss.interface import BACKGROUND_SCORES, CRF, NETWORK, Method, Stage, Step
from wsss.methods.mcis import refine
from wsss.methods.mcis.infer import McisInferSettings, check_infer, infer_maps
from wsss.methods.mcis.settings import McisTrainSettings, check_train, declared
from wsss.methods.mcis.train import train_co_attention
from wsss.scores.metric_names import TAG_METRICS, TRAIN_LOSS
from wsss.stages.presets import CRFS, NETWORKS, of_step
from wsss.stages.refine import CrfSettings
from wsss.stages.segment import DEEPLAB

LOCALIZE = Stage(
    "localize",
    "mcis",
    (
        Step(
            "train",
            1,
            McisTrainSettings,
            train_co_attention,
            metrics=(TRAIN_LOSS,),
            declares=declared,
            check=check_train,
            uses=NETWORK,
        ),
        Step(
            "infer",
            1,
            McisInferSettings,
            infer_maps,
            inputs=("train",),
            outputs=("cam",),
            metrics=TAG_METRICS,
            check=check_infer,
            uses=NETWORK,
        ),
    ),
    {
        "demo": {
            **of_step("train", NETWORKS["demo"]),
            "train.added": 0,
            "train.width": 96,
            "train.attention": "cosine",
            "train.temperature": 10.0,
            "train.side": 97,
            "train.placement": "random",
            "train.scale_low": 0.75,
            "train.jitter": 0.0,
            "train.views": ("pair",),
            "train.lr": 1e-3,
            "train.head_lr": 1.0,
            "train.affinity_lr": 0.01,
            "train.batch_size": 8,
            "train.epochs": 12,
            "train.filter_epochs": 10,
            "infer.side": 97,
            "infer.scales": (1.0, 1.5),
            "infer.views": ("pair",),
            "infer.stretch": "minimum",
            "infer.stride": 4,
        },
        "small": {
            **of_step("train", NETWORKS["small"]),
            "train.added": 0,
            "train.width": 128,
            "train.side": 161,
            "train.jitter": 0.1,
            "train.start": "local",
            "train.views": ("pair",),
            "train.affinity_lr": 0.0,
            "train.contrast_from": 1,
            "train.lr": 2e-4,
            "train.head_lr": 5.0,
            "train.batch_size": 8,
            "train.filter_epochs": 2,
            "train.epochs": 13,
            "train.image_limit": 7000,
            "infer.side": 193,
            "infer.views": ("pair", "flip"),
            "infer.stretch": "minimum",
        },
        "paper": {},
    },
)

REFINE = Stage(
    "refine",
    "mcis",
    (
        Step(
            "background",
            1,
            refine.McisBackgroundSettings,
            refine.add_labels,
            inputs=("localize",),
            outputs=("labels",),
            pictures=(BACKGROUND_SCORES,),
            declares=refine.declared,
            check=refine.check_background,
            needs_background=refine.needs_background,
        ),
        Step("crf", 1, CrfSettings, refine.refine_labels, inputs=("background",), outputs=("labels_crf",), uses=CRF),
    ),
    {
        "demo": {"background.alpha": 0.25, **of_step("crf", CRFS["demo"])},
        "small": {"background.alpha": 0.3, **of_step("crf", CRFS["small"])},
        "paper": {},
    },
)

METHOD = Method(
    name="mcis",
    title="MCIS",
    year=2020,
    citation="Sun, Wang, Dai, Van Gool: Mining Cross-Image Semantics for Weakly Supervised Semantic Segmentation, "
    "ECCV 2020",
    summary="A classifier looks at pairs of images: features they share must tell their common tags, what is left of "
    "each the others; related images sharpen the maps. Extra single-label or web images can join (reconstructed).",
    stages={"localize": LOCALIZE, "refine": REFINE, "segment": DEEPLAB},
)
