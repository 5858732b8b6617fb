"""Typed settings: the one place where a setting's default, range, meaning and source are written.

A step's settings are a frozen dataclass whose fields are made with `setting`. From it are derived the command line's
`--set`, the params file, the search space, the docs tables and the error messages.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss.errors import UserError, unknown


@dataclass(frozen=True)
class Search:
    """How a setting is searched.

    `kind` is one of "uniform", "loguniform" (float between `low` and `high`), "int" (both ends included), "choice" (one
    of `values`) or "factor" (the preset's value times a number between `low` and `high`, on a logarithmic scale).
    """

    kind: str
    low: float = 0.0
    high: float = 0.0
    values: tuple[Any, ...] = ()

    @property
    def text(self) -> str:
        """How it is searched, for people."""
        if self.kind == "choice":
            return ", ".join(f"{value:g}" if type(value) is float else str(value) for value in self.values)
        unit = "× the preset" if self.kind == "factor" else f"({self.kind})"
        return f"{self.low:g} to {self.high:g} {unit}"

    def holds(self, value: Any) -> bool:
        """Whether a search may draw the value; a factor is resolved first, see `Setting.space`."""
        return value in self.values if self.kind == "choice" else self.low <= value <= self.high


def choice(*values: Any) -> Search:
    """Search over these values."""
    return Search("choice", values=values)


def loguniform(low: float, high: float) -> Search:
    """Search between two numbers, on a logarithmic scale."""
    return Search("loguniform", low, high)


def factor(low: float, high: float) -> Search:
    """Search around the preset's value: times a factor, on a logarithmic scale. For what the presets decide."""
    return Search("factor", low, high)


def uniform(low: float, high: float) -> Search:
    """Search between two numbers."""
    return Search("uniform", low, high)


def setting(
    default: Any,
    meaning: str,
    *,
    source: str = "ours",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] | None = None,
    unit: str = "",
    search: Search | None = None,
    file: bool = False,
    words: tuple[str, ...] = (),
    folder: bool = False,
    dataset: bool = False,
) -> Any:
    """A field of a settings class.

    Args:
        default: its value when nothing else is said.
        meaning: one sentence for people.
        source: where the default comes from: a paper, its code, or "ours".
        low, high: the allowed range of a number, both ends included; of every element of a tuple.
        choices: the allowed values, where they can be listed.
        unit: the unit of a number, such as "px".
        search: how a search draws it; None is not worth searching.
        file: the value is the path of a file, whose content then counts, not its name.
        words: what else it may be, such as "none".
        folder: the value is the path of a folder, whose files' names and contents then count.
        dataset: the value is the name of a dataset, whose content then counts.
    """
    return dataclasses.field(
        default=default,
        metadata=dict(
            meaning=meaning,
            source=source,
            low=low,
            high=high,
            choices=choices,
            unit=unit,
            search=search,
            file=file,
            words=words,
            folder=folder,
            dataset=dataset,
        ),
    )


@dataclass(frozen=True)
class Setting:
    """One setting, described: what the tables, the search and the errors are made from."""

    key: str
    type: Any
    default: Any
    meaning: str
    source: str
    low: float | None
    high: float | None
    choices: tuple[Any, ...] | None
    unit: str
    search: Search | None
    file: bool
    words: tuple[str, ...]
    folder: bool
    dataset: bool

    def space(self, value: Any) -> Search | None:
        """How the setting is searched where a preset gives it a value, within what is allowed; None if it is not.

        Around no value there is nothing to search.
        """
        if self.search is None or self.search.kind != "factor":
            return self.search
        if value is None:
            return None
        lowest, highest = self.low or 0.0, math.inf if self.high is None else self.high
        return loguniform(max(value * self.search.low, lowest), min(value * self.search.high, highest))

    @property
    def allowed(self) -> str:
        """The allowed values in words, with their unit."""
        or_none = ", or none" if _unwrap_optional(self.type)[1] and not self.file else ""
        return f"{self._values} {self.unit}".strip() + or_none

    @property
    def _values(self) -> str:
        """Those that are not none."""
        if self.choices is not None:
            return "one of " + ", ".join(map(str, self.choices))
        if self.file:
            return " or ".join(filter(None, (", ".join(self.words), "a file")))
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"at least {self.low:g}"
        if self.high is not None:
            return f"at most {self.high:g}"
        return {bool: "true or false", str: "text"}.get(self.type, "any")


def settings_of(cls: type, prefix: str = "") -> list[Setting]:
    """The settings of a settings class, in order; `prefix` is put before each key."""
    hints = typing.get_type_hints(cls)
    return [
        Setting(prefix + field.name, hints[field.name], field.default, **field.metadata)
        for field in dataclasses.fields(cls)
    ]


def parse(cls: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """Build a settings object from names to values; text is converted to each setting's type.

    Args:
        cls: a settings class.
        values: name to value, the value of the right type or its text (a tuple's text is separated by commas).
        prefix: where the settings belong, such as "refine.walk.", for the error messages.

    Raises:
        UserError: an unknown name, text that is not of the type, a value out of its range.
    """
    known = {s.key: s for s in settings_of(cls)}
    for name in values:
        if name not in known:
            raise unknown(f"setting in {prefix.rstrip('.') or cls.__name__}:", name, known)
    return cls(**{name: _convert(known[name], value, prefix + name) for name, value in values.items()})


def flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Name to value of a settings object, JSON-ready (tuples become lists)."""
    return {
        prefix + field.name: list(value) if isinstance(value := getattr(settings, field.name), tuple) else value
        for field in dataclasses.fields(settings)
    }


def as_text(value: Any) -> str:
    """A JSON-ready value as text that `parse` reads: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def check_files(settings: Any, prefix: str = "") -> None:
    """Refuse a file that is not there; `prefix` is put before the settings' keys.

    Raises:
        UserError: the value of a file setting is neither one of its words nor the path of a file.
    """
    values = flatten(settings, prefix)
    for spec in settings_of(type(settings), prefix):
        value = values[spec.key]
        if spec.file and value is not None and value not in spec.words and not Path(value).is_file():
            raise UserError(f"{spec.key} = {value}: there is no such file; allowed: {spec.allowed}")


def _convert(spec: Setting, value: Any, key: str) -> Any:
    kind, optional = _unwrap_optional(spec.type)
    if value is None or (isinstance(value, str) and value.lower() in ("none", "null") and optional):
        if not optional:
            raise UserError(f"{key} can't be none; allowed: {spec.allowed}")
        return None
    several = typing.get_origin(kind) is tuple
    try:
        if several:
            texts = value.strip("[]() ").split(",") if isinstance(value, str) else value
            # A list of texts is logged as JSON, in quotes.
            parts = [part.strip().strip("\"'") if isinstance(part, str) else part for part in texts]
            converted = tuple(_to_type(typing.get_args(kind)[0], part) for part in parts)
            if not converted:
                raise ValueError(value)
        else:
            converted = _to_type(kind, value)
    except (TypeError, ValueError, OverflowError):
        name = "list of numbers" if several else getattr(kind, "__name__", str(kind))
        raise UserError(f"{key} = {value!r} is not a valid {name}; allowed: {spec.allowed}") from None
    for element in converted if several else (converted,):
        finite = not isinstance(element, float) or math.isfinite(element)
        too_low = spec.low is not None and not element >= spec.low
        too_high = spec.high is not None and not element <= spec.high
        if not finite or too_low or too_high or (spec.choices is not None and element not in spec.choices):
            allowed = f"{'' if finite else 'finite numbers, '}{spec.allowed}"
            raise UserError(f"{key} = {converted} is out of range; allowed: {allowed}")
    return converted


def _unwrap_optional(kind: Any) -> tuple[Any, bool]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        rest = [a for a in typing.get_args(kind) if a is not type(None)]
        return rest[0], True
    return kind, False


_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _to_type(kind: Any, value: Any) -> Any:
    """Text, or a number that loses nothing, as a setting's type.

    Raises:
        ValueError, TypeError, OverflowError: it is no such value.
    """
    text = value.strip() if isinstance(value, str) else value
    if kind is bool:
        if str(text).lower() not in _WORDS:
            raise ValueError(value)
        return _WORDS[str(text).lower()]
    if isinstance(text, bool):
        raise TypeError(value)
    if kind is int and not isinstance(text, int):
        if not float(text).is_integer():
            raise ValueError(value)
        return int(float(text)) if "." in str(text) else int(text)
    return kind(text) if isinstance(kind, type) else str(text)
