"""Iterative Affinity Learning (Wang, Liu, Ma, Yang, IJCV 2020): a reconstruction.

Only the paper's abstract could be read, and there is no released code. What it says is kept: a unary segmentation
network, a pairwise affinity network that refines its probabilities, confident regions that train both, rounds, and an
energy. Everything else is this project's: networks, schedules, thresholds, and the form of the energy.
"""

from __future__ import annotations

from wsss.interface import CRF, NETWORK, Method, Stage, Step
from wsss.methods.affinity import REFINE as AFFINITY
from wsss.methods.affinity.labels import AffinityLabelSettings, check_labels, make_affinity_labels
from wsss.methods.cam import LOCALIZE
from wsss.methods.ial.rounds import iterate
from wsss.methods.ial.settings import RoundsSettings, check_rounds
from wsss.stages.refine import CrfSettings, crf_step
from wsss.stages.segment import DEEPLAB


def _as_affinity(preset: str) -> dict[str, object]:
    """AffinityNet's preset of the steps that both have."""
    return {key: value for key, value in AFFINITY.presets[preset].items() if key.startswith(("labels.", "crf."))}


REFINE = Stage(
    "refine",
    "ial",
    (
        Step(
            "labels", 1, AffinityLabelSettings, make_affinity_labels, inputs=("localize",), check=check_labels, uses=CRF
        ),
        Step(
            "rounds",
            1,
            RoundsSettings,
            iterate,
            inputs=("labels", "localize.train"),
            outputs=("rounds", "labels"),
            uses=NETWORK,
            check=check_rounds,
        ),
        Step("crf", 1, CrfSettings, crf_step("rounds"), inputs=("rounds",), outputs=("labels_crf",), uses=CRF),
    ),
    {
        "demo": _as_affinity("demo")
        | {
            "labels.alpha_low": 8.0,
            "rounds.backbone": "tiny",
            "rounds.weights": "localize",
            "rounds.freeze_bn": False,
            "rounds.rates": (1, 2, 4),
            "rounds.optimizer": "adamw",
            "rounds.lr": 2e-3,
            "rounds.pairwise_lr": 2e-3,
            "rounds.head_lr": 1.0,
            "rounds.weight_decay": 1e-2,
            "rounds.crop": 65,
            "rounds.scale_low": 0.9,
            "rounds.scale_high": 1.1,
            "rounds.batch_size": 16,
            "rounds.epochs": 10,
            "rounds.pairwise_epochs": 6,
            "rounds.stride": 4,
            "rounds.scales": (1.0,),
            "rounds.confident_foreground": 0.7,
            "rounds.confident_background": 0.97,
        },
        "small": _as_affinity("small")
        | {
            "rounds.rounds": 2,
            "rounds.backbone": "mobilenet_v2",
            "rounds.weights": "localize",
            "rounds.output_stride": 16,
            "rounds.rates": (2, 4, 6),
            "rounds.optimizer": "adamw",
            "rounds.lr": 2e-4,
            "rounds.head_lr": 3.0,
            "rounds.pairwise_lr": 2e-4,
            "rounds.weight_decay": 1e-2,
            "rounds.crop": 161,
            "rounds.scale_low": 0.6,
            "rounds.scale_high": 1.0,
            "rounds.batch_size": 16,
            "rounds.image_limit": 4000,
            "rounds.later": 0.3,
            "rounds.scales": (1.0,),
            "rounds.flip": False,
        },
        "paper": _as_affinity("paper") | {"rounds.backbone": "resnet101"},
    },
)

METHOD = Method(
    name="ial",
    title="Iterative Affinity Learning (reconstruction)",
    year=2020,
    citation="Wang, Liu, Ma, Yang: Weakly-Supervised Semantic Segmentation by Iterative Affinity Learning, IJCV 2020",
    summary="A segmentation network and an affinity network take turns: refined predictions give the confident regions "
    "that both are trained on in the next round. A reconstruction from the abstract.",
    stages={"localize": LOCALIZE, "refine": REFINE, "segment": DEEPLAB},
)
