"""What has changed in a dataset since it was added: content decides, and the manifest says what it was.

A file whose size is that of the manifest and which nobody touched since the manifest was last found to be right is not
read again. The system notes the time of every touch of a file and of its folder by itself (`st_ctime`), so that no
program can put it back; the time of the last check is the manifest's own (`st_mtime`).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from wsss.commands import command
from wsss.data import layout
from wsss.data.manifest import MANIFEST, Entry, file_entry, read_manifest
from wsss.data.parallel import each, some

_COARSEST_NS = 2_000_000_000
"""File systems count time in steps of up to two seconds."""

_KINDS = {layout.IMAGES: "image ", layout.MASKS: "mask ", layout.MASKS_AUG: "mask "}


@dataclass(frozen=True)
class Changes:
    """How a dataset folder differs from its manifest; paths relative to it, sorted.

    Attributes:
        changed: files with other content.
        missing: files that are gone. Masks that are gone all together are no change but a dataset without masks.
        new: masks that the manifest does not know.
    """

    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    new: tuple[str, ...] = ()

    def sentences(self, told: Collection[str] = ()) -> list[str]:
        """What to say, a part of a sentence for each kind of change; nothing of the files in `told`."""
        kinds = (
            (self.changed, "is not the file that was added", "are not those that were added"),
            (self.missing, "was added, and is missing", "were added, and are missing"),
            (self.new, "came after the dataset was added", "came after the dataset was added"),
        )
        said = []
        for paths, one, many in kinds:
            files = [_KINDS.get(Path(path).parts[0], "") + path for path in paths if path not in told]
            if files:
                said.append(f"{files[0]} {one}" if len(files) == 1 else f"{len(files):,} files {many} ({some(files, 5)})")
        return said


def find_changes(root: Path, *, thorough: bool = False) -> Changes:
    """Compare the files of a dataset folder with its manifest.

    Args:
        root: the folder.
        thorough: read every file, also those that nobody touched.

    Raises:
        UserError: the manifest is missing or damaged.
    """
    began = time.time_ns()
    entries = read_manifest(root)
    checked = 0 if thorough else (root / MANIFEST).stat().st_mtime_ns - _COARSEST_NS

    def state(name: str) -> str:
        return _state(root, name, entries[name], checked)

    states = dict(zip(entries, each(state, [*entries], "comparing"), strict=True))
    masks = {name for name in entries if _is_mask(name)}
    bare = all(states[name] == "missing" for name in masks)
    there = {
        f"{folder}/{path.name}"
        for folder in (layout.MASKS, layout.MASKS_AUG)
        for path in (root / folder).glob("*.png")
        if not path.name.startswith(".")
    }
    changes = Changes(
        changed=tuple(sorted(name for name, found in states.items() if found == "changed")),
        missing=tuple(sorted(n for n, found in states.items() if found == "missing" and not (bare and n in masks))),
        new=tuple(sorted(there - entries.keys())),
    )
    if changes == Changes():
        with contextlib.suppress(OSError):  # a folder that may not be written is read again the next time
            os.utime(root / MANIFEST, ns=(began, began))
    return changes


def mending(root: Path) -> str:
    """How a user takes changes in, or gets back what was there."""
    accept = command("wsss", "data", "accept", name_of(root))
    pointer = root.with_name(f"{root.name}.dvc")
    if not pointer.is_file():
        return f"`{accept}` takes the changes in, or put back what was added"
    tracked = pointer.relative_to(Path.cwd()) if pointer.is_relative_to(Path.cwd()) else pointer
    checkout = command("dvc", "checkout", "--force", str(tracked))
    return f"`{accept}` takes the changes in, `{checkout}` brings back what was added"


def name_of(root: Path) -> str:
    """How a dataset is called on the command line: by its name where it lies in the workspace, else by its folder."""
    home = Path("data") / root.name
    if home.is_dir() and home.samefile(root):
        return root.name
    return str(root.relative_to(Path.cwd()) if root.is_relative_to(Path.cwd()) else root)


def _state(root: Path, name: str, entry: Entry, checked: int) -> str:
    path = root / name
    try:
        found = path.stat()
    except OSError:
        return "missing"
    if found.st_size != entry.size:
        return "changed"
    folders = [root / part for part in Path(name).parents if part != Path()]
    touched = max(found.st_ctime_ns, path.lstat().st_ctime_ns, *(place.stat().st_ctime_ns for place in folders))
    if touched < checked:
        return ""
    return "" if file_entry(path) == entry else "changed"


def _is_mask(name: str) -> bool:
    return name.startswith((f"{layout.MASKS}/", f"{layout.MASKS_AUG}/"))


