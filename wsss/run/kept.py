"""What steps have left on disks and in buckets: outputs in the store, their local copies, unfinished work."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from wsss import storage
from wsss.run.store import MANIFEST, StepStore

_THREADS = 8
_DEPTH = 3
"""STEP, FINGERPRINT and a file: what lies higher up is a lock or a probe."""


@dataclass(frozen=True)
class Kept:
    """A folder of a step.

    Attributes:
        size: its bytes.
        used: when it was last written or, on a disk, used (seconds since 1970).
        whole: it has a manifest.
        inputs: the fingerprints that its manifest names.
    """

    size: int = 0
    used: float = 0.0
    whole: bool = False
    inputs: tuple[str, ...] = ()


def folders(place: str | Path) -> dict[str, Kept]:
    """The folders STEP/FINGERPRINT below a place: the store, `work/cache` or `work/scratch`; inputs are not read."""
    found: dict[str, Kept] = {}
    for file in storage.list_tree(place):
        parts = file.name.split("/")
        if len(parts) >= _DEPTH and not file.name.startswith("."):
            name = "/".join(parts[:2])
            before = found.get(name, Kept())
            whole = before.whole or parts[2:] == [MANIFEST]
            found[name] = Kept(before.size + file.size, max(before.used, file.written), whole)
    return found


def outputs(store: StepStore) -> dict[str, Kept]:
    """What the store holds, by STEP/FINGERPRINT, with the fingerprints of inputs.

    Raises:
        UserError: a newer version wrote some of it, or the store can't be reached.
    """
    found = folders(store.url)

    def read(name: str) -> Kept:
        manifest = store.manifest(*name.split("/")) if found[name].whole else None
        return replace(found[name], inputs=tuple(manifest["inputs"].values()) if manifest else ())

    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(found, pool.map(read, found), strict=True))


def remove_unfinished(places: Iterable[str | Path]) -> None:
    """Remove what processes that are gone left half removed or half written in folders of steps."""
    for place in places:
        if not storage.is_remote(place):
            for name in storage.list_dirs(place):
                storage.remove_unfinished(Path(place, name))
