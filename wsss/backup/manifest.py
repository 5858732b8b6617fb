"""What a backup says of itself: its parts, each a list of files whose contents are pieces of the vault."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from wsss.errors import UserError

FORMAT = 1
FILES, SQLITE, POSTGRESQL = "files", "sqlite", "postgresql"
LEDGER, TRACKING, STUDIES, ACCOUNTS = "ledger", "tracking", "studies", "accounts"
ARTIFACTS, BESIDE, STORE, DVC = "artifacts", "mlruns", "store", "dvc"
ELSEWHERE = "artifacts in "
"""What the name of a part begins with whose artifacts lie at an address of their own."""


class File(NamedTuple):
    """A file of a part.

    Attributes:
        name: with slashes, relative to the part's place.
        size: its bytes.
        sha256: of its content, which is the piece of this name.
        seen: a mark of size, times and inode; while it stays, nobody reads the file again.
    """

    name: str
    size: int
    sha256: str
    seen: str


@dataclass(frozen=True)
class Part:
    """A part of a backup.

    Attributes:
        name: which.
        kind: "files", or the database that was dumped: "sqlite" or "postgresql".
        files: how many.
        size: their bytes.
        list: the piece that lists them (`encode_files`).
        facts: of a database: `schema` (MLflow's revision, empty for other tables), `rows` of each table, `addresses`
            of its experiments' artifacts.
    """

    name: str
    kind: str
    files: int
    size: int
    list: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Backup:
    """A complete backup.

    Attributes:
        name: when it began, such as "20261127T162555Z".
        began: the same in seconds since 1970.
        version: of wsss.
        new: bytes that were not in the vault before it.
        parts: in the order in which they were copied.
    """

    name: str
    began: float
    version: str
    new: int
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(part.size for part in self.parts)

    def part(self, name: str) -> Part | None:
        """The part of a name, if the backup has it."""
        return next((part for part in self.parts if part.name == name), None)

    def encode(self) -> bytes:
        """As it is kept: JSON with a sha256 of the rest."""
        content = {"format": FORMAT, **asdict(self)}
        return json.dumps({**content, "sha256": _digest(content)}, indent=1).encode()


def decode(content: bytes, where: str) -> Backup:
    """A backup from its bytes.

    Raises:
        UserError: it is damaged, or a newer version wrote it.
    """
    try:
        found = json.loads(content)
        number, digest = found.get("format"), found.pop("sha256")
        if isinstance(number, int) and number > FORMAT:
            raise UserError(
                f"{where} was written by a newer version (format {number}, this one knows {FORMAT}); update"
            )
        if digest != _digest(found):
            raise ValueError
        del found["format"]
        return Backup(**{**found, "parts": tuple(Part(**part) for part in found["parts"])})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{where} is damaged; restore another backup of this place") from None


def encode_files(files: Iterable[File]) -> bytes:
    """A list of files, by name, a JSON array a line: equal files give equal bytes."""
    return "".join(json.dumps(file) + "\n" for file in sorted(files)).encode()


def decode_files(content: bytes) -> list[File]:
    """The files of a list, whose sha256 was checked."""
    return [File(*json.loads(line)) for line in content.splitlines()]


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
