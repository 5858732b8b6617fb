"""The rule of a registered name: what the gate asks of a candidate; set in `params.yaml`, section `gate`.

gate:
  margin: 0.5                # for all names
  floors: {cat: 40}          # points of IoU, by class
  names:
    wsss-photos: {latency: 200, supervision: [tags, saliency]}
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsss.classes import Classes
from wsss.errors import UserError, unknown
from wsss.settings import flatten, parse, setting, settings_of

PARAMS = "params.yaml"
SECTION = "gate"
TAGS = "tags"
_FLOORS, _NAMES = "floors", "names"


@dataclass(frozen=True)
class GateSettings:
    """What the gate asks of a candidate; points are percentage points of IoU."""

    confidence: float = setting(0.95, "how sure it has to be", low=0.5, high=0.999)
    margin: float = setting(0.0, "by more than so much it has to be better", low=0.0, high=100.0, unit="points of mIoU")
    tolerance: float = setting(
        1.0,
        "by less than so much it may be worse if it is faster or smaller",
        low=0.0,
        high=100.0,
        unit="points of mIoU",
    )
    gain: float = setting(
        0.2,
        "the share of time for an image, or of size, by which it then has to be below the champion",
        low=0.01,
        high=1.0,
    )
    first: float = setting(0.0, "what a first model has to reach", low=0.0, high=100.0, unit="points of mIoU")
    floor: float = setting(0.0, "what each class has to reach", low=0.0, high=100.0, unit="points of IoU")
    latency: float | None = setting(None, "the most time for an image, alone, on this machine", low=0.0, unit="ms")
    size: float | None = setting(None, "the most that the weights may weigh", low=0.0, unit="MB")
    supervision: tuple[str, ...] | None = setting(
        None, "what the name's models may have seen, `tags` among it; by default what the name says"
    )
    evaluation_set: str | None = setting(None, "the sha256 that the evaluation set has to have, or its beginning")
    groups: str | None = setting(
        None, "a CSV `id,group`: what the bootstrap keeps whole, instead of the dataset's groups", file=True
    )
    samples: int = setting(2000, "draws of the bootstrap", low=200, high=100000)


@dataclass(frozen=True)
class Rule:
    """The settings that hold for one name.

    Attributes:
        settings: the gate's.
        floors: class name to points of IoU, beside `settings.floor`.
    """

    settings: GateSettings = field(default_factory=GateSettings)
    floors: Mapping[str, float] = field(default_factory=dict)

    @property
    def content(self) -> dict[str, Any]:
        """The rule as a record keeps it, JSON-ready."""
        return flatten(self.settings) | {_FLOORS: dict(self.floors)}

    def floor(self, name: str) -> float:
        """What a class has to reach, in points of IoU."""
        return self.floors.get(name, self.settings.floor)


def read_rule(name: str, classes: Classes, params: Path = Path(PARAMS)) -> Rule:
    """The rule of a registered name; the defaults where there is no file or no section.

    Args:
        name: the registered model.
        classes: the dataset's, for the floors.
        params: the file.

    Raises:
        UserError: it can't be read, holds an unknown key or class, or a value that is not allowed.
    """
    section = _section(params)
    own = _mapping(_mapping(section.pop(_NAMES, None), f"{params}: {SECTION}.{_NAMES}").get(name), f"{params}: {name}")
    floors: dict[str, Any] = {}
    for part in (section, own):
        floors |= _mapping(part.pop(_FLOORS, None), f"{params}: {SECTION}.{_FLOORS}")
    known = [each.key for each in settings_of(GateSettings)]
    for key in (*section, *own):
        if key not in known:
            raise unknown(f"setting in section {SECTION} of {params}:", str(key), [*known, _FLOORS, _NAMES])
    settings = parse(GateSettings, section | own, f"{SECTION}.")
    if settings.supervision is not None and TAGS not in settings.supervision:
        raise UserError(
            f"{params}: {SECTION}.supervision = {', '.join(settings.supervision)} lacks {TAGS}, which every model has "
            f"seen; write {TAGS} and what else is allowed, such as [{TAGS}, saliency]"
        )
    for each, value in floors.items():
        if each not in classes.occurring:
            raise unknown(f"class in {SECTION}.{_FLOORS} of {params}:", str(each), classes.occurring)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
            raise UserError(f"{params}: {SECTION}.{_FLOORS}.{each} = {value!r}; allowed: 0 to 100 points of IoU")
    return Rule(settings, {str(each): float(value) for each, value in floors.items()})


def read_groups(path: str, ids: Sequence[str]) -> list[str]:
    """The group of each image, from a CSV with the columns `id` and `group`.

    Raises:
        UserError: the file can't be read, or lacks a column or an image.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = {row["id"]: row["group"] for row in csv.DictReader(file)}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{SECTION}.groups: {path} can't be read: {error}") from None
    except KeyError as error:
        raise UserError(f"{SECTION}.groups: {path} has no column {error}; it needs the columns id and group") from None
    if missing := [id for id in ids if not rows.get(id)]:
        raise UserError(
            f"{SECTION}.groups: {path} names no group for {len(missing)} images of the evaluation set, such as "
            f"{missing[0]}; give each image a row"
        )
    return [rows[id] for id in ids]


def points(share: float) -> str:
    """A share of 1 in points, for people."""
    return "-" if not math.isfinite(share) else f"{100 * share:.1f}"


def _section(params: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(params.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{params} can't be read: {' '.join(str(error).split())}") from None
    return _mapping(_mapping(content, str(params)).get(SECTION), f"{params}: {SECTION}")


def _mapping(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict | None):
        raise UserError(f"{where} is {content!r}; it has to be keys with values")
    return dict(content or {})
