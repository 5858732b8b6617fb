"""The manifest: sha256 and size of every file of a dataset, computed once when it is added, and facts about it.

    {"facts": {...}, "files": {"JPEGImages/a.jpg": {"sha256": "...", "size": 1}, ...}}

A dataset of RGB pictures with a background, each image a group of its own, has no "facts".
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss.data.parallel import each
from wsss.errors import UserError
from wsss.storage import inside_name, write_bytes

MANIFEST = "manifest.json"
BACKGROUND_FACT, MASKS_FACT, PIXELS_FACT, BUCKET_FACT = "background", "masks", "pixels", "bucket"
"""The facts: False where there is no background, what masks held and became, how pixels are converted, the address
where the images lie that are not in the folder."""


_HASH, _SIZE = 32, 8
"""Bytes of each in an `Entry`."""


class Entry(bytes):
    """One file: its sha256 and its size, packed, as there are as many as images.

    Args:
        sha256: in hexadecimal, 64 digits.
        size: in bytes.

    Raises:
        ValueError: another number of digits, or no such size.
    """

    __slots__ = ()

    def __new__(cls, sha256: str, size: int) -> Entry:
        packed = bytes.fromhex(sha256)
        if len(packed) != _HASH or not 0 <= size < 1 << (8 * _SIZE):
            raise ValueError(f"{sha256!r} of {size!r} bytes is no file")
        return cls._of(packed + size.to_bytes(_SIZE, "big"))

    @classmethod
    def _of(cls, packed: bytes) -> Entry:
        return super().__new__(cls, packed)

    def __reduce__(self) -> tuple[Callable[[bytes], Entry], tuple[bytes]]:
        return Entry._of, (bytes(self),)

    @property
    def sha256(self) -> str:
        """In hexadecimal."""
        return self[:_HASH].hex()

    @property
    def size(self) -> int:
        """In bytes."""
        return int.from_bytes(self[_HASH:], "big")


def file_entry(path: Path) -> Entry:
    """Hash one file."""
    with path.open("rb") as file:
        return Entry(hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size)


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says.

    Attributes:
        files: relative path, with forward slashes, to `Entry`.
        facts: what is true of the dataset and can't be seen in its files, JSON-ready; empty for most.
    """

    files: Mapping[str, Entry]
    facts: Mapping[str, Any]


def write_manifest(
    root: Path, facts: Mapping[str, Any] | None = None, known: Mapping[str, Entry] | None = None
) -> Manifest:
    """Hash every file below `root` and write `manifest.json`, atomically; the manifest itself is left out.

    Args:
        root: the folder.
        facts: see `Manifest`.
        known: of files that were hashed already, by their relative path; all of them are there.

    Returns:
        What was written.
    """
    files = dict(known or {})
    others = [name for name in names_below(root) if name != MANIFEST and name not in files]
    others = [name for name in others if (root / name).is_file()]
    files.update(zip(others, each(lambda name: file_entry(root / name), others, "hashing"), strict=True))
    manifest = Manifest(files, facts or {})
    _write(root, manifest)
    return manifest


def refresh_manifest(root: Path, changed: Sequence[str], gone: Sequence[str] = ()) -> None:
    """Hash the files named in `changed` (paths relative to `root`), leave out those `gone`, keep all the rest."""
    before = open_manifest(root)
    kept = {name: entry for name, entry in before.files.items() if name not in set(gone)}
    _write(root, Manifest({**kept, **{name: file_entry(root / name) for name in changed}}, before.facts))


def names_below(root: Path) -> Iterator[str]:
    """The paths of all files below a folder, relative to it, with forward slashes; none where there is no folder."""
    for parent, _, files in os.walk(root):
        below = Path(parent).relative_to(root).as_posix()
        yield from files if below == "." else (f"{below}/{name}" for name in files)


def read_manifest(root: Path) -> Mapping[str, Entry]:
    """The files of `open_manifest`."""
    return open_manifest(root).files


def open_manifest(root: Path) -> Manifest:
    """Read `manifest.json`.

    Raises:
        UserError: it is missing or damaged, or a path would leave the folder.
    """
    path = root / MANIFEST
    try:
        with path.open("rb") as file:
            content = json.load(file, object_hook=_entry)
        files = {inside_name(".", name): _checked(entry) for name, entry in content["files"].items()}
        return Manifest(files, dict(content.get("facts", {})))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; pull the dataset again or add it again") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); pull the dataset again or add it again") from None


def _entry(found: dict[str, Any]) -> Entry | dict[str, Any]:
    """An entry as soon as it is read, so that no file is ever two objects."""
    return Entry(**found) if found.keys() == {"sha256", "size"} else found


def _checked(entry: Any) -> Entry:
    if not isinstance(entry, Entry):
        raise ValueError(f"{entry!r} is no entry of a file")
    return entry


def _write(root: Path, manifest: Manifest) -> None:
    """Write what `json.dumps(..., indent=0)` would give, which takes ten times as long."""
    facts = f'"facts": {json.dumps(manifest.facts, indent=0)},\n' if manifest.facts else ""

    def pieces() -> Iterator[bytes]:
        yield f'{{\n{facts}"files": {{\n'.encode()
        for at, name in enumerate(sorted(manifest.files)):
            entry = manifest.files[name]
            start = ",\n" if at else ""
            yield f'{start}{json.dumps(name)}: {{\n"sha256": "{entry.sha256}",\n"size": {entry.size}\n}}'.encode()
        yield b"\n}\n}\n"

    write_bytes(root / MANIFEST, pieces())
