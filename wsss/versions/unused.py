"""What lies in DVC's cache, which of it a commit names, and how a version leaves it that nobody needs.

DVC's own `dvc gc` knows nothing of runs: the labels of a run that nobody committed are rubbish to it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wsss import git
from wsss.storage import inside
from wsss.versions.workspace import check_hash, workspace

_MD5 = r"md5: [0-9a-f]{32}(?:\.dir)?"
_LOCKS = (".dvc", "dvc.lock")
_SMALL = 2**16


@dataclass(frozen=True)
class Cached:
    """DVC's cache of a workspace.

    Attributes:
        folder: of its files.
        trees: every version of a folder that is there, to the md5s of its files.
        shared: it may belong to other workspaces too.
    """

    folder: Path
    trees: Mapping[str, frozenset[str]]
    shared: bool

    def path(self, md5: str) -> Path:
        """Where the content of a file, or the list of a folder's files, lies."""
        check_hash(md5)
        return self.folder / md5[:2] / md5[2:]

    def only_in(self, versions: Mapping[str, Collection[str]], locked: Collection[str]) -> set[str]:
        """The md5s of the files that some versions (with their files) have and nothing else that is here or locked."""
        others = (files for md5, files in self.trees.items() if md5 not in versions)
        return {*()}.union(*versions.values()).difference(locked, *others)

    def size(self, md5s: Collection[str]) -> int:
        """The bytes of files that are there."""
        return sum(path.stat().st_size for path in map(self.path, md5s) if path.exists())

    def remove(self, md5s: Collection[str]) -> None:
        """Remove files of the cache; those that are gone are no matter."""
        for md5 in md5s:
            self.path(md5).unlink(missing_ok=True)


def cached() -> Cached | None:
    """The cache of the workspace around the current folder; None where there is no workspace."""
    with workspace() as repo:
        if repo is None:
            return None
        folder = Path(repo.cache.local.path)
        own = Path(repo.root_dir, ".dvc").resolve()
    trees = {}
    for path in folder.glob("??/*.dir"):
        with suppress(ValueError, KeyError, TypeError):  # one that is damaged can't be laid out either
            trees[path.parent.name + path.name] = frozenset(file["md5"] for file in json.loads(path.read_bytes()))
    return Cached(folder, trees, shared=not folder.resolve().is_relative_to(own))


def locked() -> set[str]:
    """The md5s that a `.dvc` file or `dvc.lock` names: of any branch or tag of git, or as they are now.

    Raises:
        UserError: git can't read the repository.
    """
    lines = git.found_in_history(_MD5.replace("?:", ""), _LOCKS).union(*(re.findall(_MD5, text) for text in _here()))
    return {line.removeprefix("md5: ") for line in lines}


def fingerprints_in(cache: Cached, md5s: Collection[str]) -> set[str]:
    """The fingerprints of steps in the small files of these md5s that the cache has, as the pipeline writes them."""
    paths = [cache.path(md5) for md5 in md5s]
    return {*()}.union(*(fingerprints_of(path) for path in paths if path.exists() and path.stat().st_size < _SMALL))


def fingerprints_of(path: Path) -> set[str]:
    """All that looks like a step's fingerprint in a file."""
    return {*re.findall(r'"([0-9a-f]{64})"', path.read_text(encoding="utf-8", errors="replace"))}


def _here() -> Iterator[str]:
    """The locks below the current folder, where there is no git."""
    for parent, folders, names in os.walk("."):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.endswith(_LOCKS):
                with suppress(OSError):
                    yield inside(parent, name).read_text(encoding="utf-8", errors="replace")
