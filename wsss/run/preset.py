"""Presets: where the settings of a plan begin, by name or from a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wsss.methods as methods
from wsss.errors import UserError, unknown
from wsss.stages.presets import longer

PRESETS = ("demo", "small", "medium", "paper")
_FILE = '{"method": NAME, "preset": NAME, "settings": {KEY: VALUE, ...}}'


@dataclass(frozen=True)
class Preset:
    """Where the settings of a plan begin.

    Attributes:
        name: one of `PRESETS`, by which runs are grouped.
        file: the preset file that was named; empty without one.
        method: whose file it is.
        settings: what the file says, on top of the preset: "<stage>.name", "<stage>.<step>.<setting>" or "weights" to
            a value or its text.
    """

    name: str
    file: str = ""
    method: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_preset(preset: str) -> Preset:
    """A preset by its name, or by the path of a preset file, such as a search writes.

    Raises:
        UserError: there is no such preset or file, or the file is not one; its settings are checked by `make_plan`.
    """
    if preset in PRESETS:
        return Preset(preset)
    path = Path(preset)
    if not path.is_file():
        if path.suffix or len(path.parts) > 1:
            raise UserError(f"there is no preset file {preset}; presets by name are {', '.join(PRESETS)}")
        raise UserError(f"{unknown('preset', preset, PRESETS)}, or name a preset file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"preset file {preset} can't be read as JSON: {error}") from None
    if wrong := _no_preset_file(content):
        raise UserError(f"{preset} is no preset file{wrong}; it is {_FILE}")
    if content["preset"] not in PRESETS:
        raise UserError(f"preset file {preset}: {unknown('preset', content['preset'], PRESETS)}")
    if content["method"] not in methods.names():
        raise UserError(f"preset file {preset}: {unknown('method', content['method'], methods.names())}")
    return Preset(content["preset"], preset, content["method"], content["settings"])


def _no_preset_file(content: Any) -> str:
    """What is wrong with the content of a file, in brackets; empty where it is a preset file's."""
    parts = {"method", "preset", "settings"}
    if not isinstance(content, dict):
        return " (no object)"
    if missing := sorted(parts - content.keys()):
        return f" ({', '.join(missing)} is missing)"
    if more := sorted(content.keys() - parts):
        return f" ({', '.join(more)} is unknown)"
    return "" if isinstance(content["settings"], dict) else " (settings is no object)"


def of_preset(presets: Mapping[str, Mapping[str, Any]], preset: str) -> Mapping[str, Any]:
    """What presets say under a name; where `medium` is not among them, it is `small` for longer."""
    if preset == "medium" and preset not in presets:
        return longer(presets.get("small", {}))
    return presets.get(preset, {})
