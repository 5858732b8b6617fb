"""What the presets say of every method's steps alike, so that a comparison compares the methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "demo": {"backbone": "tiny", "weights": "none", "freeze_bn": False, "optimizer": "adamw", "weight_decay": 1e-2},
    "small": {"backbone": "mobilenet_v2", "output_stride": 16, "optimizer": "adamw", "weight_decay": 1e-2},
}
"""Preset to the settings of every step that trains a network."""
CRFS: Mapping[str, Mapping[str, Any]] = {
    "demo": {"bilateral_sxy": 40.0, "bilateral_srgb": 8.0},
    "small": {"bilateral_sxy": 40.0, "bilateral_srgb": 5.0},
}
"""Preset to the settings of every CRF that makes label maps."""


MEDIUM: Mapping[str, Any] = {"backbone": "resnet50", "rates": (3, 6, 9, 12)}
"""What of `small` the preset `medium` has otherwise: the published rates' reach in px, at output stride 16."""
SMALLER = frozenset({"epochs", "crop", "side", "scale_low", "scale_high", "width"})
"""What `small` makes smaller than it is published."""
LONGER = 20
"""So many times as many images does a network see in `medium` as in `small`, but for the published epochs at most."""


def longer(small: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's preset `medium`, from its `small`: for an hour of a GPU on thousands of photographs.

    What was chosen on dev stays; backbone, sizes and epochs are as published, or nearly so; a training ends after
    `LONGER` times as many images.
    """
    found: dict[str, Any] = {}
    for key, value in small.items():
        name = key.rpartition(".")[2]
        if name == "image_limit":
            found[key] = value * LONGER
        elif name not in SMALLER or value is None:
            found[key] = MEDIUM.get(name, value)
    return found


def of_step(step: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A step's settings as they stand in a stage's preset: "crf.iterations" for "iterations"."""
    return {f"{step}.{name}": value for name, value in settings.items()}


def from_step(preset: Mapping[str, Any], step: str) -> dict[str, Any]:
    """The settings of one step in a stage's preset: "iterations" for "crf.iterations"."""
    return {key.removeprefix(f"{step}."): value for key, value in preset.items() if key.startswith(f"{step}.")}
