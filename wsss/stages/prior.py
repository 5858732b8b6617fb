"""Prior correction: a network that names classes on labels has learnt how frequent each is; here that is divided out.

With q_c the share that class c had in the loss and s the strength, p_c becomes p_c / q_c^s, scaled to the sum 1: scores
before the softmax lose s log q_c (Menon et al., Long-tail learning via logit adjustment, ICLR 2021, post-hoc form, tau
for s). The shares are counted from the labels that the network was trained on: no mask is seen for it that the
network did not see.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsss.classes import IGNORE
from wsss.interface import StepContext
from wsss.nets.deeplab import DeepLab
from wsss.settings import choice, setting
from wsss.stages.outputs import load_model, save_model
from wsss.storage import write_bytes

SHARES = "shares.json"
"""Beside a trained network: the share of each class in its loss, by index."""


def prior_setting() -> Any:
    """The setting of the strength, the same wherever a network names classes on labels."""
    return setting(
        0.0,
        "prior correction: probabilities are divided by the classes' shares in training to this power; 0 is none",
        low=0,
        high=1,
        search=choice(0.0, 0.25, 0.5, 0.75, 1.0),
    )


@dataclass(frozen=True)
class PriorSettings:
    """Dividing the classes' shares out of the trained network."""

    strength: float = prior_setting()


def label_counts(maps: Iterable[np.ndarray], classes: int) -> np.ndarray:
    """How many pixels of label maps (uint8 H x W) have each label: int64 C + 1; 255 is left out."""
    counts = np.zeros(IGNORE + 1, np.int64)
    for labels in maps:
        counts += np.bincount(labels.ravel(), minlength=len(counts))
    return counts[: classes + 1]


def shares_in_loss(counts: np.ndarray, balanced: bool) -> np.ndarray:
    """The share of each class in a cross-entropy: float64 C + 1, the sum 1, all 0 without a label.

    Args:
        counts: C + 1, the labelled pixels of each class.
        balanced: the loss is half of the background's mean and half of the foreground's.
    """
    sides = [counts[:1], counts[1:]] if balanced else [counts]
    shares = np.concatenate([side / max(side.sum(), 1) for side in sides])
    return shares / max(shares.sum(), 1e-12)


def log_prior(shares: np.ndarray, strength: float) -> Tensor:
    """What scores before the softmax lose: s log q_c, float32 C + 1; 0 for a class that was in no label.

    Args:
        shares: q, C + 1, in [0, 1].
        strength: s, in [0, 1].
    """
    learnt = np.where(shares > 0, shares, 1)
    return torch.from_numpy(strength * np.log(learnt)).float()


def write_shares(folder: Path, shares: np.ndarray) -> None:
    """Keep the shares beside the network that was trained with them."""
    write_bytes(folder / SHARES, json.dumps({"shares": shares.tolist()}).encode())


def read_shares(folder: Path) -> np.ndarray:
    """The shares beside a network: float64 C + 1."""
    return np.array(json.loads((folder / SHARES).read_text(encoding="utf-8"))["shares"], np.float64)


def load_segmenter(folder: Path, prior: float = 0.0) -> DeepLab:
    """The trained network of a step's output, in eval mode, on the CPU; see `wsss.stages.prior` for `prior`."""
    model = load_model(folder, DeepLab)
    if prior:
        bias = model.head[0].bias
        assert isinstance(bias, Tensor)
        bias.data -= log_prior(read_shares(folder), prior)
    return model


def correct_prior(context: StepContext) -> None:
    """The trained network with the prior correction in its last bias: what predicts, is packaged and served."""
    settings: PriorSettings = context.settings
    trained = context.inputs["train"]
    architecture = json.loads((trained / "model.json").read_text(encoding="utf-8"))
    save_model(context.out, load_segmenter(trained, settings.strength), architecture)
    context.report.progress(1, 1, "networks")
