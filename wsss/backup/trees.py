"""Files of a folder or a bucket, copied into a vault while others write there.

What is in the backup is whole: a file that changes while it is read is read again, and one that was written a moment
ago is waited for, since a program may still be at it. Objects of a bucket appear whole.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from wsss import storage
from wsss.backup.manifest import File
from wsss.backup.vault import THREADS, Vault
from wsss.errors import UserError
from wsss.progress import say

SETTLED_S = 1.0
"""So long ago a file has to have been written last."""
_DOUBT_S = 2.0
"""What was written so shortly before a backup began may have changed within the same tick of the clock."""
_SMALL = 8 << 20
_TRIES = 20
_UNFINISHED = ".part"
_OURS = ".leases"
Progress = Callable[[int], None]
"""Told the bytes of each file that is done."""


class Seen(NamedTuple):
    """A file as it was listed: its name below the place, bytes, mark, and when it was last written."""

    name: str
    size: int
    mark: str
    written: float


def listed(place: str) -> Iterator[Seen]:
    """Every file below a place, but for leases and what is being written under a name of its own."""
    if storage.is_remote(place):
        for each in storage.list_tree(place):
            if not each.name.startswith(f"{_OURS}/") and not each.name.endswith("/"):
                yield Seen(each.name, each.size, f"{each.size} {each.written}", each.written)
        return
    for parent, folders, names in os.walk(place):
        folders[:] = sorted(name for name in folders if name != _OURS and not _is_unfinished(name))
        for name in names:
            path = Path(parent, name)
            if not _is_unfinished(name) and (seen := _look(path, path.relative_to(place).as_posix())):
                yield seen


def copy(
    place: str, seen: Iterable[Seen], vault: Vault, known: Mapping[str, File], since: float, progress: Progress
) -> tuple[list[File], int]:
    """Copy files into a vault.

    Args:
        place: the folder or s3:// address that they lie below.
        seen: which.
        vault: where to; what it has is not copied again.
        known: the files of the backup before, by name: one that still has its mark is not read again.
        since: when that backup began (seconds since 1970).
        progress: told the bytes of each file that is done.

    Returns:
        The files, without those that are gone by now, and how many bytes are new.
    """

    def take(each: Seen) -> tuple[File, int] | None:
        before = known.get(each.name)
        unchanged = before is not None and before.seen == each.mark and each.written < since - _DOUBT_S
        if before is not None and unchanged and vault.has(before.sha256, before.size):
            taken: tuple[File, int] | None = (before, 0)
        elif storage.is_remote(place):
            taken = _take_object(place, each, vault)
        else:
            taken = _take_file(place, each, vault)
        progress(taken[0].size if taken else 0)
        return taken

    # Those written last come last, so that nobody has to be waited for more than once.
    order = sorted(seen, key=lambda each: each.written)
    with ThreadPoolExecutor(THREADS) as pool:
        taken = [each for each in pool.map(take, order) if each is not None]
    return [file for file, _ in taken], sum(new for _, new in taken)


def _take_file(place: str, seen: Seen, vault: Vault) -> tuple[File, int] | None:
    path = Path(place, seen.name)
    for _ in range(_TRIES):
        before = _look(path, seen.name)
        if before is None:
            return None
        if (young := before.written + SETTLED_S - time.time()) > 0:
            time.sleep(min(young, SETTLED_S))
        try:
            with storage.disk_errors(path):
                content = path.read_bytes() if before.size <= _SMALL else path
                digest = "" if isinstance(content, bytes) else storage.sha256(path)
                if _look(path, seen.name) != before:
                    continue
                digest, new = vault.add(content, digest)
        except FileNotFoundError:
            return None
        # What is large was read once more to be copied, and may have changed by then.
        if not new or isinstance(content, bytes) or not vault.damage(digest, before.size):
            return File(seen.name, before.size, digest, before.mark), new
        storage.remove(vault.piece(digest))
        vault.sizes.pop(digest, None)
    say(f"{path} is written to all the time; it is not in this backup")
    return None


def _take_object(place: str, seen: Seen, vault: Vault) -> tuple[File, int] | None:
    url = storage.join(place, seen.name)
    try:
        if seen.size <= _SMALL:
            content = storage.read_bytes(url)
            digest, new = vault.add(content)
            return File(seen.name, len(content), digest, seen.mark), new
        with storage.temporary_folder() as folder:
            storage.copy_file(url, folder / "object")
            digest, new = vault.add(folder / "object")
            return File(seen.name, (folder / "object").stat().st_size, digest, seen.mark), new
    except FileNotFoundError:
        return None


def _look(path: Path, name: str) -> Seen | None:
    """A regular file, or a link to one, as it is now."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(state.st_mode):
        return None
    mark = f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"
    # Not the time of the content, which anybody may set.
    return Seen(name, state.st_size, mark, state.st_ctime)


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") and name.endswith(_UNFINISHED)


def put(vault: Vault, files: Iterable[File], place: str, progress: Progress, going_on: bool = False) -> None:
    """Write files of a backup, which were verified, below a place.

    Args:
        vault: where their contents are.
        files: which.
        place: a folder or s3:// address.
        progress: told the bytes of each file that is done.
        going_on: an earlier call was cut off: what it has written stays.

    Raises:
        UserError: a name would leave the place, or it can't be written.
    """
    there = {each.name: each.size for each in listed(place)} if going_on else {}

    def write(file: File) -> None:
        name = storage.inside_name(place, file.name)
        if there.get(name) != file.size:
            try:
                storage.copy_file(vault.piece(file.sha256), storage.join(place, name))
            except FileNotFoundError:
                raise UserError(f"{vault.piece(file.sha256)} is gone while it was being restored") from None
        progress(file.size)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(write, files))
