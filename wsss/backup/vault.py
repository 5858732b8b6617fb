"""Where backups lie: a folder or a bucket in which every content is kept once.

    TO/pieces/ab/abcdef...       a content, by its sha256
    TO/backups/NAME.json         a backup (`wsss.backup.manifest`), written last: with it the backup is complete

A backup that was killed leaves pieces alone, which the next one finds. On a disk files are for their owner alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from wsss import storage
from wsss.backup.manifest import Backup, File, Part, decode, decode_files
from wsss.errors import UserError, unknown

PIECES, BACKUPS = "pieces", "backups"
THREADS = 8


class Vault:
    """A place of backups.

    Args:
        url: a folder or s3:// address.
    """

    def __init__(self, url: str) -> None:
        self.url = url if storage.is_remote(url) else os.path.abspath(Path(url).expanduser())

    def piece(self, sha256: str) -> str:
        """Where a content lies."""
        return storage.join(self.url, PIECES, sha256[:2], sha256)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The bytes of every piece, by its sha256; read once, and kept up by `add`."""
        files = storage.list_tree(storage.join(self.url, PIECES))
        found = ((file.name.rpartition("/")[2], file.size) for file in files)
        return {name: size for name, size in found if re.fullmatch(r"[0-9a-f]{64}", name)}

    def tidy(self) -> None:
        """Remove what killed backups left half written."""
        if not storage.is_remote(self.url):
            for folder in (*Path(self.url, PIECES).glob("??"), Path(self.url, BACKUPS)):
                storage.remove_unfinished(folder)

    def has(self, sha256: str, size: int) -> bool:
        """Whether a content is there, at its full size."""
        return self.sizes.get(sha256) == size

    def add(self, content: bytes | Path, sha256: str = "") -> tuple[str, int]:
        """Keep a content, unless it is there.

        Args:
            content: the bytes, or a file that has them and does not change meanwhile.
            sha256: of the content, where the caller knows it.

        Returns:
            Its sha256, and how many bytes are new.
        """
        if isinstance(content, bytes):
            sha256, size = hashlib.sha256(content).hexdigest(), len(content)
        else:
            sha256, size = sha256 or storage.sha256(content), content.stat().st_size
        if self.has(sha256, size):
            return sha256, 0
        if isinstance(content, bytes):
            storage.write_bytes(self.piece(sha256), content)
        else:
            storage.copy_file(content, self.piece(sha256))
        self.sizes[sha256] = size
        return sha256, size

    def files(self, part: Part) -> list[File]:
        """The files of a part.

        Raises:
            UserError: their list is missing or damaged.
        """
        what = f"the list of the part {part.name}"
        try:
            content = storage.read_bytes(self.piece(part.list))
        except FileNotFoundError:
            raise UserError(f"{self.piece(part.list)}, {what}, is missing; restore another backup") from None
        if hashlib.sha256(content).hexdigest() != part.list:
            raise UserError(f"{self.piece(part.list)}, {what}, is damaged; restore another backup")
        return decode_files(content)

    def names(self) -> list[str]:
        """The complete backups, oldest first."""
        files = storage.list_files(storage.join(self.url, BACKUPS))
        return [name.removesuffix(".json") for name in files if re.fullmatch(r"\d{8}T\d{6}Z\.json", name)]

    def read(self, name: str = "") -> Backup:
        """A backup, by default the newest.

        Raises:
            UserError: there is none, or it is damaged.
        """
        names = self.names()
        if not names:
            raise UserError(f"{self.url} holds no complete backup")
        if name and name not in names:
            raise unknown("backup", name, names)
        address = self._manifest(name or names[-1])
        return decode(storage.read_bytes(address), address)

    def write(self, backup: Backup) -> None:
        """Make a backup complete; all its pieces are there."""
        if not storage.is_remote(self.url):
            os.sync()
        storage.write_bytes(self._manifest(backup.name), backup.encode())

    def prune(self, keep: int) -> int:
        """Keep the newest backups, and remove the pieces that none of them needs; gives how many backups went."""
        names = self.names()
        kept = [self.read(name) for name in names[-keep:]]
        needed = {part.list for backup in kept for part in backup.parts}
        needed |= {file.sha256 for backup in kept for part in backup.parts for file in self.files(part)}
        for name in names[:-keep]:
            storage.remove(self._manifest(name))
        for sha256 in self.sizes.keys() - needed:
            storage.remove(self.piece(sha256))
            del self.sizes[sha256]
        return len(names[:-keep])

    def damage(self, sha256: str, size: int) -> str:
        """What is wrong with a piece, which is read whole; empty where nothing is."""
        there = self.sizes.get(sha256)
        if there is None:
            return "is missing"
        if there != size:
            return f"has {there:,} of {size:,} bytes"
        return "" if storage.sha256(self.piece(sha256)) == sha256 else "is damaged (another sha256)"

    def verify(self, parts: Iterable[Part], progress: Callable[[int], Callable[[int], None]]) -> None:
        """Read every piece of some parts.

        Args:
            parts: of a backup.
            progress: given how many pieces there are, gives what is told the bytes of each that was read.

        Raises:
            UserError: a piece is missing or damaged; the sentence names its part, its file and the piece.
        """
        of = {file.sha256: (part.name, file) for part in parts for file in self.files(part)}
        done = progress(len(of))

        def examine(sha256: str) -> str:
            part, file = of[sha256]
            wrong = self.damage(sha256, file.size)
            done(file.size)
            return f"{self.piece(sha256)}, which has {file.name} of the part {part}, {wrong}" if wrong else ""

        with ThreadPoolExecutor(THREADS) as pool:
            problems = [problem for problem in pool.map(examine, of) if problem]
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise UserError(f"{problems[0]}{more}; restore another backup, or bring the piece back from a copy")

    def known(self) -> tuple[Mapping[str, Mapping[str, File]], float]:
        """The files of the newest backup, by part and name, and when it began; nothing where it can't be read."""
        try:
            backup = self.read()
            return {part.name: {file.name: file for file in self.files(part)} for part in backup.parts}, backup.began
        except (UserError, FileNotFoundError):
            return {}, 0.0

    def _manifest(self, name: str) -> str:
        return storage.join(self.url, BACKUPS, f"{name}.json")


@contextmanager
def private() -> Iterator[None]:
    """What this process writes meanwhile is for its owner alone."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
