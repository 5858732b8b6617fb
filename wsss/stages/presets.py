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


def of_step(step: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A step's settings as they stand in a stage's preset: "crf.iterations" for "iterations"."""
    return {f"{step}.{name}": value for name, value in settings.items()}


def from_step(preset: Mapping[str, Any], step: str) -> dict[str, Any]:
    """The settings of one step in a stage's preset: "iterations" for "crf.iterations"."""
    return {key.removeprefix(f"{step}."): value for key, value in preset.items() if key.startswith(f"{step}.")}
