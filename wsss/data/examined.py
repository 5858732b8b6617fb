"""Images and masks that are being added, each read once: its hash, what it holds, whether all of it can be decoded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from wsss.data.attempts import Attempt, Examined, state_of
from wsss.data.files import paths_of
from wsss.data.manifest import Entry, file_entry
from wsss.data.masks import values_in
from wsss.data.palette_png import decode_palette_png
from wsss.data.parallel import in_batches
from wsss.data.stored_images import UNREADABLE, Stored, stored
from wsss.errors import UserError

__all__ = ["Examined", "Reader", "examine", "examine_masks", "seen"]

_IN_MEMORY = 64 * 2**20
"""Bytes of a file that is read once, as a whole; a larger one is read for its hash and again for its pixels."""


class Reader(NamedTuple):
    """How images are read.

    Attributes:
        look: the path of a file to its state (see `wsss.data.attempts.Attempt.keep`) and what is in it.
        state: the path of a file to its state.
        key: the path of a file to what it is known by from one attempt to the next.
        threads: how many look at the same time; 0 for processes, a core each.
    """

    look: Callable[[str], tuple[str, Examined]]
    state: Callable[[str], str]
    key: Callable[[str], str]
    threads: int = 0


def examine_masks(masks: Mapping[str, Path], name: str) -> dict[str, Examined]:
    """Read label maps as `examine` reads images; what is wrong with one has neither `holds` nor `labels`."""
    return examine(masks, name, Reader(_look_at_mask, _state, os.path.abspath), "masks")


def examine(
    images: Mapping[str, Path], name: str, reader: Reader | None = None, what: str = "images"
) -> dict[str, Examined]:
    """Read images, whatever is wrong with them; what an earlier attempt to add the dataset has read is not read again.

    Args:
        images: id to file.
        name: of the dataset.
        reader: how; by default as files on a disk.
        what: they are, see `Attempt`.
    """
    attempt, reader = Attempt(name, what), reader or Reader(_look, _state, os.path.abspath)
    paths, key = paths_of(images), reader.key
    known = attempt.known({key(path): reader.state(path) for path in paths.values()}) if attempt.begun else {}
    unread = [path for path in paths.values() if key(path) not in known] if known else [*paths.values()]
    found: list[Examined] = []
    alike: dict[Any, Any] = {}
    for some_paths, (states, *columns) in in_batches(
        partial(_look_at_all, reader.look), unread, f"reading {what}", reader.threads
    ):
        # Most are of a few sizes, and show the same few classes: one object for each.
        batch = [
            Examined(entry, alike.setdefault(holds, holds), sound, alike.setdefault(labels, labels))
            for entry, holds, sound, labels in zip(*columns, strict=True)
        ]
        found += batch
        attempt.keep(zip(map(key, some_paths), states, batch, strict=True))
    attempt.keep((), last=True)
    read = iter(found)
    return {id: (known and known.get(key(path))) or next(read) for id, path in paths.items()}


def _look_at_all(look: Callable[[str], tuple[str, Examined]], paths: Sequence[str]) -> list[tuple]:
    """The states of some files, and what is known of them: a column of each.

    Columns go from one process to another in half the time that rows take.
    """
    return [*zip(*((state, *its) for state, its in map(look, paths)), strict=True)]


def _state(path: str) -> str:
    try:
        return state_of(os.stat(path))
    except OSError:
        return ""


def _look(path: str) -> tuple[str, Examined]:
    """The state of an image file, and what is in it."""
    return _looked_at(path, seen)


def _look_at_mask(path: str) -> tuple[str, Examined]:
    """The state of a mask's file, and what is in it."""
    return _looked_at(path, _seen_mask)


def _looked_at(path: str, see: Callable[[Path | bytes, Entry], Examined]) -> tuple[str, Examined]:
    try:
        with open(path, "rb", buffering=0) as opened:
            touched = os.fstat(opened.fileno())
            file: Path | bytes = opened.readall() if touched.st_size <= _IN_MEMORY else Path(path)
        entry = Entry(hashlib.sha256(file).hexdigest(), len(file)) if isinstance(file, bytes) else file_entry(file)
    except OSError:
        return "", Examined(None, None, False)
    return state_of(touched), see(file, entry)


def seen(file: Path | bytes, entry: Entry) -> Examined:
    """What is in an image file, its path or its bytes."""
    try:
        holds = stored(file, decode=True)
        return Examined(entry, holds, holds.kind == "RGB")
    except (*UNREADABLE, UserError):
        pass
    try:
        return Examined(entry, stored(file), False)
    except (*UNREADABLE, UserError):
        return Examined(entry, None, False)


def _seen_mask(file: Path | bytes, entry: Entry) -> Examined:
    try:
        labels = decode_palette_png(file if isinstance(file, bytes) else file.read_bytes(), "")
    except UserError:
        return Examined(entry, None, False)
    return Examined(entry, Stored("label map", labels.shape[0], labels.shape[1], 1, False, 1), True, values_in(labels))
