"""Which version, and which commit, the work was done with."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from wsss.errors import UserError

_AT_ONCE = 500
VERSION = "0.1.0"
"""Of this package: what is known where there is no git to ask."""


class GitState(NamedTuple):
    """The commit of a working tree, None outside git or before the first, and whether it holds anything else."""

    commit: str | None
    dirty: bool


def state() -> GitState:
    """That of the current folder's repository or, outside of any, of the one that this program's source is tracked in.

    Untracked files that git does not ignore make it dirty. An environment that happens to lie in a repository does not
    make this program a part of it.
    """
    return state_of(repository() or ".")


def repository() -> Path | None:
    """The root of the repository that `state` is that of; None outside of any."""
    source = Path(__file__)
    if here := top():
        return Path(here)
    if not _git(source.parent, "ls-files", source.name):
        return None
    return Path(_git(source.parent, "rev-parse", "--show-toplevel"))


def has(repository: Path, name: str) -> bool:
    """Whether a repository has a commit, or a file of one as "COMMIT:PATH"."""
    return bool(_git(repository, "cat-file", "-t", name))


def archive(repository: Path, commit: str) -> bytes:
    """The files of a commit, and nothing else, as a zip archive: Python unpacks these inside a folder alone.

    Raises:
        UserError: git can't read the commit.
    """
    words = ["git", "-C", os.fspath(repository), "archive", "--format=zip", commit]
    made = subprocess.run(words, capture_output=True, check=False)
    if made.returncode:
        raise UserError(f"git can't read commit {commit}: {made.stderr.decode(errors='replace').strip()}")
    return made.stdout


def state_of(folder: str | Path) -> GitState:
    """The state of the repository around a folder."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    return GitState(commit or None, bool(_git(folder, "status", "--porcelain")))


def found_in_history(pattern: str, names: Sequence[str]) -> set[str]:
    """What an expression finds in files of the repository around the current folder, none outside of any.

    Looked at are the newest commit of every branch, tag, stash and remote's branch, the commits that working trees
    stand on, and the files of this one as they are.

    Args:
        pattern: an extended regular expression.
        names: how the files' paths end, such as ".dvc".

    Raises:
        UserError: git can't read the repository.
    """
    if problem := trouble():
        raise UserError(f"git can't read the repository here ({problem}), so nobody knows what its branches need")
    root = top()
    if not root:
        return set()
    refs = _listed(root, "for-each-ref", "--format=%(objecttype) %(objectname) %(*objecttype) %(*objectname)")
    words = " ".join((*refs, *_listed(root, "worktree", "list", "--porcelain"))).replace("HEAD ", "commit ").split()
    commits = {after for word, after in pairwise(words) if word == "commit" and after.strip("0")}
    paths = [f":(top)*{name}" for name in names]
    found: set[str] = set()
    ordered = sorted(commits)
    for begin in range(0, len(ordered), _AT_ONCE):
        some = ordered[begin : begin + _AT_ONCE]
        found |= {*_listed(root, "grep", "-h", "-I", "-o", "-E", pattern, *some, "--", *paths)}
    return found | {*_listed(root, "grep", "-h", "-I", "-o", "-E", "--untracked", pattern, "--", *paths)}


def _listed(root: str, *command: str) -> list[str]:
    """The lines that git prints; `git grep` that finds nothing prints none.

    Raises:
        UserError: git refuses.
    """
    done = subprocess.run(["git", "-C", root, *command], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode not in (0, 1) or (done.returncode and done.stderr):
        raise UserError(f"git {command[0]} failed in {root}: {' '.join(done.stderr.split())}")
    return done.stdout.splitlines()


def top() -> str:
    """The root of the repository around the current folder, empty outside of any."""
    return _git(".", "rev-parse", "--show-toplevel")


def trouble() -> str:
    """Why git says nothing of the repository around the current folder; empty where it does, or where there is none."""
    here = Path.cwd()
    if top() or not any((folder / ".git").exists() for folder in (here, *here.parents)):
        return ""
    try:
        done = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"it can't be started: {error.strerror}"
    return " ".join(done.stderr.split())


def _git(folder: str | Path, *command: str) -> str:
    try:
        done = subprocess.run(["git", "-C", os.fspath(folder), *command], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return os.fsdecode(done.stdout).strip()
