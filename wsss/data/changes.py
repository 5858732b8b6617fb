"""What has changed in a dataset since it was added: content decides, and the manifest says what it was.

A file of another size has changed; one that nobody touched since its content was last compared has not. The file system
itself notes when a file was touched (`st_ctime`), so that no program can put that back. What was compared is kept
beside the dataset, in `.checked/NAME.json`; without it everything is read again.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from wsss.commands import command
from wsss.data import layout
from wsss.data.manifest import file_entry, read_manifest
from wsss.data.parallel import each, some
from wsss.errors import UserError
from wsss.storage import write_bytes

CHECKED = ".checked"
_COARSEST_NS = 2_000_000_000
"""File systems count time in steps of up to two seconds: a file touched just now may change again unnoticed."""

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
                said.append(
                    f"{files[0]} {one}" if len(files) == 1 else f"{len(files):,} files {many} ({some(files, 5)})"
                )
        return said


def find_changes(root: Path, *, thorough: bool = False) -> Changes:
    """Compare the files of a dataset folder with its manifest.

    Args:
        root: the folder.
        thorough: read every file, also those that nobody touched.

    Raises:
        UserError: the manifest is missing or damaged.
    """
    entries = read_manifest(root)
    known = {} if thorough else _read_checked(root)
    now = time.time_ns()
    checked: dict[str, list] = {}

    def state(name: str) -> str:
        try:
            touched = os.stat(f"{root}/{name}")
        except OSError:
            return "missing"
        if touched.st_size != entries[name].size:
            return "changed"
        seen = [entries[name].sha256, touched.st_dev, touched.st_ino, touched.st_mtime_ns, touched.st_ctime_ns]
        if known.get(name) != seen and file_entry(root / name) != entries[name]:
            return "changed"
        if max(touched.st_mtime_ns, touched.st_ctime_ns) < now - _COARSEST_NS:
            checked[name] = seen
        return "same"

    states = dict(zip(entries, each(state, [*entries], "comparing"), strict=True))
    if checked != known:
        _write_checked(root, checked)
    masks = {name for name in entries if _is_mask(name)}
    bare = all(states[name] == "missing" for name in masks)
    there = {
        f"{folder}/{path.relative_to(root / folder).as_posix()}"
        for folder in (layout.MASKS, layout.MASKS_AUG)
        for path in layout.ids_in(root / folder, layout.PNG).values()
    }
    return Changes(
        changed=tuple(sorted(name for name, found in states.items() if found == "changed")),
        missing=tuple(sorted(n for n, found in states.items() if found == "missing" and not (bare and n in masks))),
        new=tuple(sorted(there - entries.keys())),
    )


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


def _checked_file(root: Path) -> Path:
    return root.parent / CHECKED / f"{root.name}.json"


def _read_checked(root: Path) -> dict[str, list]:
    """Name to what is known of a file whose content was compared: sha256, device, inode and times; empty without."""
    try:
        known = json.loads(_checked_file(root).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write_checked(root: Path, checked: dict[str, list]) -> None:
    """Keep what was compared, out of git's sight; a folder that can't be written is read again the next time."""
    if root.name.startswith("."):  # it is still being made
        return
    path = _checked_file(root)
    with contextlib.suppress(OSError, UserError):
        path.parent.mkdir(exist_ok=True)
        (path.parent / ".gitignore").write_text("*\n", encoding="utf-8")
        write_bytes(path, json.dumps(checked).encode())


def _is_mask(name: str) -> bool:
    return name.startswith((f"{layout.MASKS}/", f"{layout.MASKS_AUG}/"))
