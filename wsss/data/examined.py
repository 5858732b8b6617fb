"""Images that are being added, each read once: its hash, what it holds, and whether all of it can be decoded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from wsss.data.manifest import Entry, file_entry
from wsss.data.parallel import each
from wsss.data.stored_images import UNREADABLE, Stored, stored
from wsss.errors import UserError


class Examined(NamedTuple):
    """What is known of an image file.

    Attributes:
        entry: its hash and size; None where it can't be read.
        holds: what it holds by its header; None where that can't be read.
        sound: it is RGB of 8 bits, and all of its pixels were decoded.
    """

    entry: Entry | None
    holds: Stored | None
    sound: bool


def examine(images: Mapping[str, Path]) -> dict[str, Examined]:
    """Read images, whatever is wrong with them.

    Args:
        images: id to file.
    """
    alike: dict[Stored, Stored] = {}

    def look(path: Path) -> Examined:
        try:
            entry = file_entry(path)
        except OSError:
            return Examined(None, None, False)
        try:
            holds = stored(path, decode=True)
            # Most images are of a few sizes: one object for each.
            return Examined(entry, alike.setdefault(holds, holds), holds.kind == "RGB")
        except (*UNREADABLE, UserError):
            return Examined(entry, _header(path), False)

    return dict(zip(images, each(look, [*images.values()], "reading images"), strict=True))


def _header(path: Path) -> Stored | None:
    try:
        return stored(path)
    except (*UNREADABLE, UserError):
        return None
