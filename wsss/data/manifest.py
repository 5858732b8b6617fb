"""The manifest: sha256 and size of every file of a dataset, computed once when it is added, and facts about it.

    {"facts": {...}, "files": {"JPEGImages/a.jpg": {"sha256": "...", "size": 1}, ...}}

A dataset of RGB pictures with a background, each image a group of its own, has no "facts".
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss.data.parallel import each
from wsss.errors import UserError
from wsss.storage import inside, write_bytes

MANIFEST = "manifest.json"
BACKGROUND_FACT, MASKS_FACT, PIXELS_FACT = "background", "masks", "pixels"
"""The facts: False where there is no background, what masks held and became, how pixels are converted."""


@dataclass(frozen=True)
class Entry:
    """One file: its sha256 in hexadecimal and its size in bytes."""

    sha256: str
    size: int


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


def write_manifest(root: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Hash every file below `root` and write `manifest.json`, atomically; the manifest itself is left out."""
    paths = sorted(path for path in root.rglob("*") if path.is_file() and path != root / MANIFEST)
    entries = each(file_entry, paths, "hashing")
    files = {path.relative_to(root).as_posix(): entry for path, entry in zip(paths, entries, strict=True)}
    _write(root, Manifest(files, facts or {}))


def refresh_manifest(root: Path, changed: Sequence[str], gone: Sequence[str] = ()) -> None:
    """Hash the files named in `changed` (paths relative to `root`), leave out those `gone`, keep all the rest."""
    before = open_manifest(root)
    kept = {name: entry for name, entry in before.files.items() if name not in set(gone)}
    _write(root, Manifest({**kept, **{name: file_entry(root / name) for name in changed}}, before.facts))


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
        content = json.loads(path.read_text("utf-8"))
        files = {
            inside(".", name).as_posix(): Entry(entry["sha256"], entry["size"])
            for name, entry in content["files"].items()
        }
        return Manifest(files, dict(content.get("facts", {})))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; pull the dataset again or add it again") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); pull the dataset again or add it again") from None


def _write(root: Path, manifest: Manifest) -> None:
    files = {name: {"sha256": entry.sha256, "size": entry.size} for name, entry in sorted(manifest.files.items())}
    content = {**({"facts": manifest.facts} if manifest.facts else {}), "files": files}
    write_bytes(root / MANIFEST, (json.dumps(content, indent=0) + "\n").encode())
