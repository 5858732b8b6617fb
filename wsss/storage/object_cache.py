"""A folder of objects that were fetched from a bucket, of no more than so many bytes; what was used longest ago goes.

    <folder>/<ab>/<sha256>    one object, whole; its time of change is when it was last used
    <folder>/.used            the bytes of all of them, or more

Any number of processes share a folder, and any of them may be killed: a file appears in one rename, and whoever reads
it compares its hash. The count is raised before a file is there, and counted anew when it reaches the limit.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from wsss.errors import UserError
from wsss.storage.disk import disk_errors, remove_unfinished, unfinished

_LEFT = 0.9
"""The share of the limit that is filled after objects have gone, so that not each new one looks for the oldest."""


class ObjectCache:
    """Objects by their sha256.

    Args:
        folder: made when something is kept.
        limit: bytes of all files together.
        mend: what a user may do where the folder is full or can't be written, the end of a sentence.
    """

    def __init__(self, folder: Path, limit: int, mend: str) -> None:
        self.folder = folder
        self.limit = limit
        self._mend = mend

    def get(self, sha256: str) -> bytes | None:
        """The content of an object; None where it is not here. One that is damaged is removed."""
        path = self._path(sha256)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:  # another process may have removed it
            return None
        if hashlib.sha256(data).hexdigest() != sha256:
            path.unlink(missing_ok=True)
            return None
        return data

    def put(self, sha256: str, data: bytes) -> None:
        """Keep an object; one that is larger than the limit is not kept.

        Raises:
            UserError: the disk is full, or the folder can't be written.
        """
        if len(data) > self.limit:
            return
        path = self._path(sha256)
        try:
            with disk_errors(self.folder):
                path.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(self.folder / ".lock"):
                    if not path.exists():
                        self._write(path, data)
        except UserError as error:
            raise UserError(f"the cache of images in {self.folder} can't be used: {error}; or {self._mend}") from None

    def _write(self, path: Path, data: bytes) -> None:
        used = self._used()
        if used is None or used + len(data) > self.limit:
            used = self._make_room(len(data))
        (self.folder / ".used").write_text(str(used + len(data)), encoding="utf-8")
        part = unfinished(self.folder / path.name)
        try:
            part.write_bytes(data)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def _used(self) -> int | None:
        with suppress(OSError, ValueError):
            return int((self.folder / ".used").read_text(encoding="utf-8"))
        return None

    def _make_room(self, needed: int) -> int:
        """Remove objects where so many bytes more would not fit; the bytes that are left."""
        remove_unfinished(self.folder)
        files = sorted(self._files())
        used = sum(size for _, size, _ in files)
        if used + needed > self.limit:
            for _, size, path in files:
                if used + needed <= max(_LEFT * self.limit, needed):
                    break
                with suppress(FileNotFoundError):
                    os.unlink(path)
                used -= size
        return used

    def _files(self) -> Iterator[tuple[int, int, str]]:
        """When each object was last used, its bytes and its path."""
        for parent, _, names in os.walk(self.folder):
            for name in names if parent != str(self.folder) else ():
                with suppress(FileNotFoundError):
                    state = os.stat(path := f"{parent}/{name}")
                    yield state.st_mtime_ns, state.st_size, path

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256
