"""Deep Clustering (Wang, Ma, You; Neurocomputing 2020): superpixels labelled anew round by round. A reconstruction.

Neither the paper's text nor any code of it could be read. This is built from its abstract, from the usual form of the
center loss (Wen et al., ECCV 2016), and from MCOF (Wang et al., CVPR 2018) by some of the same authors.
"""

from __future__ import annotations

from wsss.interface import CRF, NETWORK, Method, Stage, Step
from wsss.methods.affinity.labels import AFFINITY_LABELS
from wsss.methods.cam import LOCALIZE
from wsss.methods.deep_clustering.learning import RoundsSettings, check_rounds
from wsss.methods.deep_clustering.regions import SuperpixelSettings, crf_on_regions, make_superpixels
from wsss.methods.deep_clustering.rounds import run_rounds
from wsss.stages.presets import CRFS, NETWORKS, of_step
from wsss.stages.refine import CrfSettings
from wsss.stages.segment import DEEPLAB

REFINE = Stage(
    "refine",
    "deep_clustering",
    (
        Step("superpixels", 1, SuperpixelSettings, make_superpixels, each_image=True),
        AFFINITY_LABELS,
        Step(
            "rounds",
            2,
            RoundsSettings,
            run_rounds,
            inputs=("superpixels", "labels", "localize.train"),
            outputs=("rounds", "labels"),
            uses=NETWORK,
            check=check_rounds,
        ),
        Step(
            "crf",
            1,
            CrfSettings,
            crf_on_regions,
            inputs=("superpixels", "rounds"),
            outputs=("labels_crf",),
            uses=CRF,
            each_image=True,
        ),
    ),
    {
        "demo": {
            **of_step("rounds", NETWORKS["demo"]),
            **of_step("labels", CRFS["demo"]),
            **of_step("crf", CRFS["demo"]),
            "superpixels.count": 120,
            "labels.alpha_low": 3.0,
            "labels.alpha_high": 8.0,
            "rounds.weights": "localize",
            "rounds.stride": 4,
            "rounds.region_sxy": 40.0,
            "rounds.region_srgb": 8.0,
            "rounds.dimension": 64,
            "rounds.lr": 2e-3,
            "rounds.head_lr": 1.0,
            "rounds.crop": 97,
            "rounds.scale_low": 0.9,
            "rounds.scale_high": 1.1,
            "rounds.jitter": 0.0,
            "rounds.batch_size": 8,
            "rounds.confidence": 0.7,
            "rounds.epochs": 3,
        },
        "small": {
            **of_step("rounds", NETWORKS["small"]),
            **of_step("labels", CRFS["small"]),
            **of_step("crf", CRFS["small"]),
            "superpixels.count": 200,
            "labels.alpha_low": 0.5,
            "labels.alpha_high": 4.0,
            "rounds.weights": "localize",
            "rounds.rounds": 2,
            "rounds.keep": 0.05,
            "rounds.prior": 0.25,
            "rounds.region_sxy": 40.0,
            "rounds.region_srgb": 5.0,
            "rounds.lr": 2e-4,
            "rounds.head_lr": 10.0,
            "rounds.crop": 161,
            "rounds.scale_low": 0.6,
            "rounds.scale_high": 0.9,
            "rounds.jitter": 0.1,
            "rounds.batch_size": 16,
            "rounds.image_limit": 4000,
        },
        "paper": {},
    },
)

METHOD = Method(
    name="deep_clustering",
    title="Deep Clustering (reconstruction)",
    year=2020,
    citation="Wang, Ma, You: Deep clustering for weakly-supervised semantic segmentation in autonomous driving scenes, "
    "Neurocomputing 381:20-28, 2020",
    summary="A network classifies superpixels with cross-entropy and center loss, labels them anew, and is trained on "
    "its confident labels again, so that objects grow round by round. A reconstruction: the paper's text and code "
    "could not be read.",
    stages={"localize": LOCALIZE, "refine": REFINE, "segment": DEEPLAB},
)
