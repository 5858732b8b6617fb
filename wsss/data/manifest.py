"""The manifest: sha256 and size of every file of a dataset, computed once when it is added."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsss.data.parallel import each
from wsss.errors import UserError
from wsss.storage import inside, write_bytes

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Entry:
    """One file: its sha256 in hexadecimal and its size in bytes."""

    sha256: str
    size: int


def file_entry(path: Path) -> Entry:
    """Hash one file."""
    with path.open("rb") as file:
        return Entry(hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size)


def write_manifest(root: Path) -> None:
    """Hash every file below `root` and write `manifest.json`, atomically; the manifest itself is left out."""
    paths = sorted(path for path in root.rglob("*") if path.is_file() and path != root / MANIFEST)
    entries = each(file_entry, paths, "hashing")
    _write(root, {path.relative_to(root).as_posix(): entry for path, entry in zip(paths, entries, strict=True)})


def refresh_manifest(root: Path, changed: Sequence[str], gone: Sequence[str] = ()) -> None:
    """Hash the files named in `changed` (paths relative to `root`), leave out those `gone`, keep all other entries."""
    kept = {name: entry for name, entry in read_manifest(root).items() if name not in set(gone)}
    _write(root, {**kept, **{name: file_entry(root / name) for name in changed}})


def read_manifest(root: Path) -> dict[str, Entry]:
    """Relative path, with forward slashes, to `Entry`.

    Raises:
        UserError: it is missing or damaged, or a path would leave the folder.
    """
    path = root / MANIFEST
    try:
        files = json.loads(path.read_text("utf-8"))["files"]
        return {
            inside(".", name).as_posix(): Entry(entry["sha256"], entry["size"]) for name, entry in files.items()
        }
    except FileNotFoundError:
        raise UserError(f"{path} is missing; pull the dataset again or add it again") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); pull the dataset again or add it again") from None


def _write(root: Path, entries: dict[str, Entry]) -> None:
    files = {name: {"sha256": entry.sha256, "size": entry.size} for name, entry in sorted(entries.items())}
    write_bytes(root / MANIFEST, (json.dumps({"files": files}, indent=0) + "\n").encode())
