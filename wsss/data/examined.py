"""Images that are being added, each read once: its hash, what it holds, and whether all of it can be decoded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from wsss.data.attempts import Attempt, Examined, state_of
from wsss.data.files import paths_of
from wsss.data.manifest import Entry, file_entry
from wsss.data.parallel import in_batches
from wsss.data.stored_images import UNREADABLE, Stored, stored
from wsss.errors import UserError

__all__ = ["Examined", "Reader", "examine", "seen"]

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


def examine(images: Mapping[str, Path], name: str, reader: Reader | None = None) -> dict[str, Examined]:
    """Read images, whatever is wrong with them; what an earlier attempt to add the dataset has read is not read again.

    Args:
        images: id to file.
        name: of the dataset.
        reader: how; by default as files on a disk.
    """
    attempt, reader = Attempt(name), reader or Reader(_look, _state, os.path.abspath)
    paths, key = paths_of(images), reader.key
    known = attempt.known({key(path): reader.state(path) for path in paths.values()}) if attempt.begun else {}
    unread = [path for path in paths.values() if key(path) not in known] if known else [*paths.values()]
    found: list[Examined] = []
    alike: dict[Stored | None, Stored | None] = {}
    for some_paths, (states, *columns) in in_batches(
        partial(_look_at_all, reader.look), unread, "reading images", reader.threads
    ):
        # Most images are of a few sizes: one object for each.
        batch = [
            Examined(entry, alike.setdefault(holds, holds), sound) for entry, holds, sound in zip(*columns, strict=True)
        ]
        found += batch
        attempt.keep(zip(map(key, some_paths), states, batch, strict=True))
    attempt.keep((), last=True)
    read = iter(found)
    return {id: (known and known.get(key(path))) or next(read) for id, path in paths.items()}


def _look_at_all(look: Callable[[str], tuple[str, Examined]], paths: Sequence[str]) -> list[tuple]:
    """The states of some files, their entries, what they hold, and whether they are sound: a column of each.

    Columns go from one process to another in half the time that rows take.
    """
    return [*zip(*((state, *its) for state, its in map(look, paths)), strict=True)]


def _state(path: str) -> str:
    try:
        return state_of(os.stat(path))
    except OSError:
        return ""


def _look(path: str) -> tuple[str, Examined]:
    """The state of a file, and what is in it."""
    try:
        with open(path, "rb", buffering=0) as opened:
            touched = os.fstat(opened.fileno())
            file: Path | bytes = opened.readall() if touched.st_size <= _IN_MEMORY else Path(path)
        entry = Entry(hashlib.sha256(file).hexdigest(), len(file)) if isinstance(file, bytes) else file_entry(file)
    except OSError:
        return "", Examined(None, None, False)
    return state_of(touched), seen(file, entry)


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
