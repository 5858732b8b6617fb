"""Folders on a disk: appearing whole, names that stay inside, unfinished work of dead processes, disks that refuse."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from wsss.errors import UserError
from wsss.failures import ADVICE, os_sentence
from wsss.process import is_gone, this_process

_NEARLY_FULL = 1 << 20
_UNFINISHED = ".part"
_PLAIN = re.compile(r"(?:[^/\0.][^/\0]*/)*[^/\0.][^/\0]*")
"""Most names: no part of theirs is empty or begins with a dot."""


class StoredFile(NamedTuple):
    """A file below a place: its name there with slashes, its bytes, when it was written (seconds since 1970).

    Of an object in a bucket `mark` is another when its content is; of a file on a disk it is empty.
    """

    name: str
    size: int
    written: float
    mark: str = ""


def inside(root: str | Path, name: object) -> Path:
    """The path of something below a folder whose name comes from elsewhere: a manifest, an index, an archive, a tag.

    Args:
        root: the folder.
        name: a relative path with forward slashes.

    Raises:
        UserError: the path would leave the folder, or the name is none.
    """
    return Path(root, inside_name(root, name))


def inside_name(root: str | Path, name: object) -> str:
    """The same name with no part that says nothing, such as "." or an empty one; see `inside`."""
    if isinstance(name, str) and _PLAIN.fullmatch(name):
        return name
    path = PurePosixPath(name) if isinstance(name, str) else PurePosixPath()
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in str(path):
        raise UserError(
            f"the name {name!r} does not stay inside {root}; names that come from elsewhere are relative paths without "
            "'..': what holds it is damaged or not to be trusted"
        )
    return str(path)


def free_bytes(path: str | Path) -> int:
    """Free bytes on the disk that holds `path`, or would hold it."""
    place = Path(path).absolute()
    while not os.path.exists(place):
        place = place.parent
    return shutil.disk_usage(place).free


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Turn a disk that is full (in whichever words a library says it) or can't be written into one sentence.

    Raises:
        UserError: the disk that holds `path` has no room left, or what lies there must not be written.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not _says_full(error, path):
            # That something is not there is what callers ask.
            if isinstance(error, OSError) and error.errno in ADVICE and error.errno != errno.ENOENT:
                raise UserError(os_sentence(error, path)) from error
            raise
        place = getattr(error, "filename", None) or path
        raise UserError(
            f"the disk that holds {place} is full ({free_bytes(place) / 1e9:.1f} GB free); make room, then run the "
            "same command again: finished steps are kept"
        ) from error


def _says_full(error: Exception, path: str | Path) -> bool:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return True
    words = str(error).lower()
    if any(said in words for said in ("no space left", "disk is full", "quota exceeded")):
        return True
    return isinstance(error, OSError | RuntimeError) and "writ" in words and free_bytes(path) < _NEARLY_FULL


def unfinished(path: Path) -> Path:
    """A new name next to `path`, on the same disk, that nobody takes for a finished result; it says whose it is."""
    return path.parent / f".{path.name[:40]}.{uuid.uuid4().hex[:8]}.{this_process()}{_UNFINISHED}"


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that are gone left unfinished (`unfinished`) directly below a folder, as far as one may."""
    for left in folder.glob(f".*{_UNFINISHED}"):
        if is_gone(left.name.removesuffix(_UNFINISHED).rpartition(".")[2]):
            with suppress(OSError):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for what is needed for a moment; one that a killed process left is removed by the next call."""
    parent = Path(tempfile.gettempdir())
    remove_unfinished(parent)
    folder = unfinished(parent / "wsss")
    with disk_errors(parent):
        folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_folder(source: Path, target: Path) -> bool:
    """Move a folder in one rename, after a copy from another disk; False where `target` is there already."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return False
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        if error.errno != errno.EXDEV:
            raise
        part = unfinished(target)
        try:
            shutil.copytree(source, part)
            return move_folder(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return True


def tree(folder: Path) -> Iterator[StoredFile]:
    """Every file below a folder, but for what lies in folders whose names begin with a dot."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            with suppress(FileNotFoundError):
                state = path.lstat()
                yield StoredFile(path.relative_to(folder).as_posix(), state.st_size, state.st_mtime)


def remove_folder(folder: Path) -> None:
    """Remove a folder at once: it is never seen with a part of its content."""
    gone = unfinished(folder)
    with suppress(FileNotFoundError):
        os.rename(folder, gone)
        shutil.rmtree(gone)
