"""What has changed in a dataset since it was added: content decides, and the manifest says what it was.

A file of another size has changed; one that nobody touched since its content was last compared has not. The file system
itself notes when a file was touched (`st_ctime`), so that no program can put that back. What was compared is kept
beside the dataset, in `.checked/NAME.npz`; without it everything is read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsss.commands import command
from wsss.data import layout
from wsss.data.files import suffix
from wsss.data.manifest import BUCKET_FACT, Entry, Manifest, file_entry, names_below, open_manifest
from wsss.data.parallel import each, some
from wsss.errors import UserError
from wsss.storage import write_bytes

CHECKED = ".checked"
_COARSEST_NS = 2_000_000_000
"""File systems count time in steps of up to two seconds: a file touched just now may change again unnoticed."""

_POSITIVE = 2**63 - 1

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
    entries = here(open_manifest(root))
    names = [*entries]
    before = {} if thorough else _read_checked(root)
    keys = _keys(entries)
    now = time.time_ns()
    touched = _touched(root, names)
    there = touched[:, 0] >= 0
    sizes = np.fromiter((entry.size for entry in entries.values()), np.int64, len(names))
    same = there & (touched[:, 0] == sizes)
    seen = _known(before, keys, touched)
    unread = np.flatnonzero(same & ~seen)
    same[unread] = each(lambda at: file_entry(root / names[at]) == entries[names[at]], unread.tolist(), "comparing")
    settled = same & (touched[:, 3:].max(1, initial=0) < now - _COARSEST_NS)
    if before.keys() != {"keys", "touched"} or len(unread) or settled.sum() != len(before["keys"]):
        _write_checked(root, keys[settled], touched[settled])
    missing = {names[at] for at in np.flatnonzero(~there)}
    masks = {name for name in entries if _is_mask(name)}
    bare = masks <= missing
    lying = {
        f"{folder}/{name}"
        for folder in (layout.MASKS, layout.MASKS_AUG)
        for name in names_below(root / folder)
        if suffix(name) in layout.PNG
    }
    return Changes(
        changed=tuple(sorted(names[at] for at in np.flatnonzero(there & ~same))),
        missing=tuple(sorted(missing - masks if bare else missing)),
        new=tuple(sorted(lying - entries.keys())),
    )


def here(manifest: Manifest) -> Mapping[str, Entry]:
    """The files of a manifest that lie in the dataset's folder: all, or all but the images that lie in a bucket."""
    if BUCKET_FACT not in manifest.facts:
        return manifest.files
    return {name: entry for name, entry in manifest.files.items() if not name.startswith(f"{layout.IMAGES}/")}


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


def _touched(root: Path, names: Sequence[str]) -> np.ndarray:
    """Size, device, inode, times of the last change of content and of anything (ns): int64 N x 5; -1 where gone."""
    found = np.full((len(names), 5), -1, np.int64)
    start = f"{root}/"
    for at, name in enumerate(names):
        try:
            its = os.stat(start + name)
        except OSError:
            continue
        found[at] = its.st_size, its.st_dev & _POSITIVE, its.st_ino & _POSITIVE, its.st_mtime_ns, its.st_ctime_ns
    return found


def _keys(entries: Mapping[str, Entry]) -> np.ndarray:
    """64 bits that stand for a file's name and content: uint64 N."""
    texts = (f"{entry.sha256}{name}".encode() for name, entry in entries.items())
    keys = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(keys, np.uint64)


def _known(before: Mapping[str, np.ndarray], keys: np.ndarray, touched: np.ndarray) -> np.ndarray:
    """Which files are as they were when their content was last compared: bool N."""
    if not len(before.get("keys", ())):
        return np.zeros(len(keys), bool)
    order = np.argsort(before["keys"])
    at = order[np.searchsorted(before["keys"], keys, sorter=order).clip(max=len(order) - 1)]
    return (before["keys"][at] == keys) & (before["touched"][at] == touched).all(1)


def _checked_file(root: Path) -> Path:
    return root.parent / CHECKED / f"{root.name}.npz"


def _read_checked(root: Path) -> dict[str, np.ndarray]:
    """Keys and states of the files whose content was compared; nothing without a sound file of them."""
    try:
        with np.load(_checked_file(root), allow_pickle=False) as arrays:
            keys, touched = arrays["keys"], arrays["touched"]
    except Exception:  # readers of zip and npy raise a dozen unrelated types on damaged files
        return {}
    sound = (keys.dtype, touched.dtype) == (np.uint64, np.int64) and touched.shape == (*keys.shape, 5)
    return {"keys": keys, "touched": touched} if sound else {}


def _write_checked(root: Path, keys: np.ndarray, touched: np.ndarray) -> None:
    """Keep what was compared, out of git's sight; a folder that can't be written is read again the next time."""
    if root.name.startswith("."):  # it is still being made
        return
    path = _checked_file(root)
    with contextlib.suppress(OSError, UserError):
        path.parent.mkdir(exist_ok=True)
        (path.parent / ".gitignore").write_text("*\n", encoding="utf-8")
        file = io.BytesIO()
        np.savez(file, keys=keys, touched=touched)
        write_bytes(path, file.getvalue())


def _is_mask(name: str) -> bool:
    return name.startswith((f"{layout.MASKS}/", f"{layout.MASKS_AUG}/"))
