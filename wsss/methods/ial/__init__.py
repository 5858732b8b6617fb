"""Iterative Affinity Learning (Wang, Liu, Ma, Yang, IJCV 2020): a reconstruction.

Only the paper's abstract could be read, and there is no released code. What it says is kept: a unary segmentation
network, a pairwise affinity network that refines its probabilities, confident regions that train both, rounds, and an
energy. Everything else is this project's: networks, schedules, thresholds, and the form of the energy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wsss.interface import CRF, NETWORK, Method, Stage, Step
from wsss.methods.affinity import REFINE as AFFINITY
from wsss.methods.affinity.labels import AFFINITY_LABELS
from wsss.methods.cam import LOCALIZE
from wsss.methods.ial.rounds import iterate
from wsss.methods.ial.settings import RoundsSettings, check_rounds
from wsss.stages.presets import CRFS, NETWORKS, from_step, of_step
from wsss.stages.refine import crf
from wsss.stages.segment import DEEPLAB


def walk_of(preset: Mapping[str, Any]) -> dict[str, Any]:
    """What AffinityNet's preset says of the walk, for the refinement; every cell is a source here as it is."""
    return {name: value for name, value in from_step(preset, "walk").items() if name in ("radius", "beta", "steps")}


REFINE = Stage(
    "refine",
    "ial",
    (
        AFFINITY_LABELS,
        Step(
            "rounds",
            2,
            RoundsSettings,
            iterate,
            inputs=("labels", "localize.train"),
            outputs=("rounds", "labels"),
            uses=NETWORK | CRF,
            check=check_rounds,
        ),
        crf("rounds"),
    ),
    {
        "demo": {
            **of_step("labels", from_step(AFFINITY.presets["demo"], "labels")),
            **of_step("rounds", NETWORKS["demo"]),
            **of_step("crf", CRFS["demo"]),
            **of_step("rounds", walk_of(AFFINITY.presets["demo"])),
            "labels.alpha_low": 8.0,
            "rounds.weights": "localize",
            "rounds.rates": (1, 2, 4),
            "rounds.lr": 2e-3,
            "rounds.pairwise_lr": 2e-3,
            "rounds.head_lr": 1.0,
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
            "rounds.loosen": 0.0,
            "rounds.later": 1.0,
        },
        "small": {
            **of_step("labels", from_step(AFFINITY.presets["small"], "labels")),
            **of_step("rounds", NETWORKS["small"]),
            **of_step("crf", CRFS["small"]),
            **of_step("rounds", walk_of(AFFINITY.presets["small"])),
            "rounds.rounds": 2,
            "rounds.prior": 1.0,
            "rounds.weights": "localize",
            "rounds.rates": (2, 4, 6),
            "rounds.lr": 2e-4,
            "rounds.head_lr": 3.0,
            "rounds.pairwise_lr": 2e-4,
            "rounds.crop": 161,
            "rounds.scale_low": 0.6,
            "rounds.scale_high": 1.0,
            "rounds.batch_size": 16,
            "rounds.image_limit": 4000,
            "rounds.loosen": 0.0,
            "rounds.later": 1.0,
            "rounds.scales": (1.0,),
            "rounds.flip": False,
        },
        "paper": {"rounds.backbone": "resnet101"},
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
