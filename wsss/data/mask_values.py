"""What the values of somebody's masks stand for, and masks with the project's indices in their place.

`--mask-values 0=tumour,1=stroma` names each value, `--mask-values "#ff0000=tumour,#000000=background"` each colour, and
`--ignore-values 4,255` says where nothing is scored. The masks that are stored have 1..C, 0 for the background where
there is one, and 255.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from wsss.classes import BACKGROUND, IGNORE, Classes
from wsss.data.palette_png import decode_colours, has_colours, read_values
from wsss.data.parallel import each, some
from wsss.errors import UserError, unknown

_COLOUR = re.compile(r"#([0-9a-fA-F]{6})")
_SHOWN = 20
"""So many values are listed."""
_WAY = "name them all, such as --mask-values {}, and what is not to be scored with --ignore-values"


@dataclass(frozen=True)
class ValueNames:
    """What the user says of the values in masks.

    Attributes:
        names: value (or colour, 0xRRGGBB) to class name or "background", in the user's order; empty where the values
            are indices already.
        ignored: values (or colours) where nothing is scored.
        colours: they are colours.
        background: the dataset has one.
    """

    names: Mapping[int, str]
    ignored: frozenset[int]
    colours: bool
    background: bool

    @classmethod
    def of(cls, mask_values: str | None, ignore_values: str | None, background: bool) -> ValueNames | None:
        """From the words of the command line; None where they say nothing.

        Raises:
            UserError: no VALUE=NAME, a value that is no number or colour, both kinds, a value twice, or a background
                where there is none.
        """
        if mask_values is None and ignore_values is None and background:
            return None
        pairs: list[tuple[str, str]] = []
        for part in (mask_values or "").split(",") if mask_values is not None else []:
            value, equals, name = part.partition("=")
            if not equals or not name.strip():
                raise UserError(
                    f"--mask-values has {part.strip()!r}; it is VALUE=NAME,VALUE=NAME, such as 0=sky,1=road"
                )
            pairs.append((value.strip(), name.strip()))
        ignored = [part.strip() for part in ignore_values.split(",")] if ignore_values is not None else []
        written = [value for value, _ in pairs] + ignored
        if len(colours := [value for value in written if _COLOUR.fullmatch(value)]) not in (0, len(written)):
            raise UserError(f"{', '.join(written)} are numbers and colours; masks hold either the ones or the others")
        numbers = [_number(value) for value in written]
        if twice := [value for value, count in Counter(numbers).items() if count > 1]:
            raise UserError(
                f"{some([_shown(v, bool(colours)) for v in twice])} stand twice in --mask-values and --ignore-values"
            )
        names = dict(zip(numbers, (name for _, name in pairs), strict=False))
        if not background and BACKGROUND in names.values():
            raise UserError(
                "--mask-values names the background, which --no-background says there is none of; choose one"
            )
        return cls(names, frozenset(numbers[len(pairs) :]), bool(colours), background)

    @property
    def classes(self) -> Classes | None:
        """The named classes in the user's order; None where no value is named."""
        names = tuple(dict.fromkeys(name for name in self.names.values() if name != BACKGROUND))
        return Classes(names, self.background) if names else None

    def indices(self, classes: Classes) -> dict[int, int]:
        """Value (or colour) to label-map index.

        Raises:
            UserError: a name that is no class.
        """
        if strange := [name for name in self.names.values() if name not in (BACKGROUND, *classes.names)]:
            raise unknown("class in --mask-values", strange[0], classes.names)
        known = {value: 0 if name == BACKGROUND else classes.index(name) for value, name in self.names.items()}
        if not known:
            known = {index: index for index in range(0 if self.background else 1, len(classes) + 1)}
        void = {} if self.colours or IGNORE in self.names else {IGNORE: IGNORE}
        return {**void, **known, **dict.fromkeys(self.ignored, IGNORE)}


class MaskReader(Protocol):
    """What makes label maps of somebody's masks."""

    def read(self, path: Path) -> np.ndarray:
        """A label map, uint8 H x W."""

    def record(self) -> dict[str, Any]:
        """What the manifest says of it, JSON-ready: what was found, its index, name and pixels."""


@dataclass(frozen=True)
class MaskValues:
    """How masks become label maps.

    Attributes:
        indices: value (or colour, 0xRRGGBB) to label-map index.
        colours: whether they are colours.
        pixels: how many pixels of all masks have each value that occurs.
        classes: the foreground classes.
    """

    indices: Mapping[int, int]
    colours: bool
    pixels: Mapping[int, int]
    classes: Classes

    def read(self, path: Path) -> np.ndarray:
        """The label map of a mask: uint8 H x W.

        Raises:
            UserError: it can't be read, or holds a value that has no meaning.
        """
        values = _read(path, self.colours)
        present = np.unique(values)
        if strange := sorted(set(present.tolist()) - self.indices.keys()):
            raise UserError(f"mask {path} holds {_shown(strange[0], self.colours)}, which has no meaning")
        table = np.array([self.indices[value] for value in present.tolist()], np.uint8)
        return table[np.searchsorted(present, values)]

    def record(self) -> dict[str, Any]:
        """What the manifest says of it, JSON-ready: each value that occurs, what it became, and its pixels."""
        names = {0: BACKGROUND, IGNORE: "ignored"} | dict(enumerate(self.classes.names, 1))
        return {
            _shown(value, self.colours): {
                "index": (index := self.indices[value]),
                "name": names[index],
                "pixels": count,
            }
            for value, count in sorted(self.pixels.items())
        }


def mask_values(
    masks: Mapping[str, Path], said: ValueNames | None, classes: Classes, folder: Path
) -> MaskValues | None:
    """Count the values of all masks, each of which must have a meaning; None where the masks are taken as they are.

    Args:
        masks: id to file.
        said: what the user says.
        classes: of the dataset.
        folder: of the masks, for the error.

    Raises:
        UserError: values or colours that are not named (all are listed, with their pixels), masks in colours where
            nothing is said of colours, or one that can't be read.
    """
    coloured = dict(zip(masks, each(has_colours, [*masks.values()], "looking at masks"), strict=True))
    if said is None and not any(coloured.values()):
        return None
    colours = any(coloured.values()) or (said is not None and said.colours)
    counts = each(lambda path: _count(path, colours), [*masks.values()], "counting values")
    pixels, holders = Counter[int](), Counter[int]()
    for count in counts:
        pixels.update(count)
        holders.update(count.keys())
    if said is not None and (said.colours or not colours):
        indices = said.indices(classes)
        if not (strange := sorted(pixels.keys() - indices.keys())):
            return MaskValues(indices, said.colours, pixels, classes)
        what = f"hold {'colours' if colours else 'values'} that are not named"
    else:
        what, strange = "are in colours", [value for value, _ in pixels.most_common()]
    raise _unnamed(folder, what, strange, pixels, holders, colours, said, classes)


def refuse_values_without_meaning(masks: Mapping[str, Path], classes: Classes, folder: Path) -> None:
    """Refuse masks that are no label maps: all their values are listed. Arguments as for `mask_values`.

    Raises:
        UserError: they hold other values than indices and 255.
    """
    pixels, holders = Counter[int](), Counter[int]()
    for count in each(lambda path: _count(path, False), [*masks.values()], "counting values"):
        pixels.update(count)
        holders.update(count.keys())
    if strange := sorted(pixels.keys() - {*classes.indices, IGNORE}):
        raise _unnamed(folder, "hold values that are no class", strange, pixels, holders, False, None, classes)


def _unnamed(
    folder: Path,
    what: str,
    strange: Sequence[int],
    pixels: Mapping[int, int],
    holders: Mapping[int, int],
    colours: bool,
    said: ValueNames | None,
    classes: Classes,
) -> UserError:
    listed = [
        f"{_shown(value, colours)} ({pixels[value]:,} px in {holders[value]:,} masks"
        + (f", {said.names[value]})" if said and value in said.names else ")")
        for value in ([*strange, *sorted(pixels.keys() - set(strange))])
    ]
    more = f" and {len(listed) - _SHOWN:,} more" if len(listed) > _SHOWN else ""
    example = ",".join(
        f"{_shown(value, colours)}={name}" for value, name in zip(strange, [*classes.names, "NAME"], strict=False)
    )
    return UserError(
        f"the masks in {folder} {what}: they hold {', '.join(listed[:_SHOWN])}{more}; "
        + _WAY.format(f'"{example}"' if colours else example)
    )


def _count(path: Path, colours: bool) -> dict[int, int]:
    values, counts = np.unique(_read(path, colours), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _read(path: Path, colours: bool) -> np.ndarray:
    """The values of a mask as stored, or its colours as 0xRRGGBB: integer H x W."""
    return decode_colours(path) if colours else read_values(path)


def _number(text: str) -> int:
    if colour := _COLOUR.fullmatch(text):
        return int(colour[1], 16)
    if text.isascii() and text.isdigit() and int(text) < 1 << 16:
        return int(text)
    raise UserError(f"{text!r} is no value of a mask; allowed: whole numbers 0 to 65535, or colours such as #ff0000")


def _shown(value: int, colours: bool) -> str:
    return f"#{value:06x}" if colours else str(value)
