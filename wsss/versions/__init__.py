"""Versions of data and labels: the one place that speaks to DVC.

A version is what DVC calls an `md5`: the hash of a folder's sorted list of paths and file hashes, so that equal content
has an equal version wherever it lies. Data folders are tracked by a `.dvc` file, the labels of a pipeline by
`dvc.lock`; `store` keeps any other folder, such as the labels of a run that nobody committed, in the same cache and
remote.

Everything happens in the DVC workspace around the current folder. Where there is none, the first `add` or `store` makes
one, with a remote in the user's home; `dvc remote add -d` or `dvc remote modify --local` names another.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsss.errors import UserError
from wsss.storage import disk_errors, inside, remove_unfinished, unfinished
from wsss.versions.workspace import check_hash, patiently, workspace

if TYPE_CHECKING:
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

_CONTENTS = "files/md5"
"""Below a remote."""


@dataclass(frozen=True)
class DataVersion:
    """The content of a folder.

    Attributes:
        md5: DVC's hash, 32 hexadecimal digits and ".dir".
        nfiles: how many files, in subfolders too.
        size: their bytes.
    """

    md5: str
    nfiles: int
    size: int


def add(folder: str | Path) -> DataVersion:
    """Put a folder of the workspace under DVC (`dvc add`): its `.dvc` file is for git, the folder itself is ignored.

    The content goes into the cache once and the folder is linked to it; where links are not possible it is copied.

    Raises:
        UserError: DVC can't track the folder, the disk is full, or another DVC command holds its lock for ten minutes.
    """
    with workspace(create=True) as repo, disk_errors(folder):
        (stage,) = patiently(lambda: repo.add(os.fspath(folder)))
        (out,) = stage.outs
        if not out.hash_info.isdir:
            raise UserError(f"{folder} is a file; versions are kept of folders")
        return _version(out.hash_info.value, out.meta)


def version_of(folder: str | Path) -> DataVersion | None:
    """The version of a folder that DVC tracks, None for one that it does not.

    The content is what counts, so that a file changed since `dvc add` gives another version; only files whose time,
    size or inode changed since DVC last saw them are hashed again.

    Raises:
        UserError: the folder is tracked but not here.
    """
    from dvc.exceptions import OutputNotFoundError
    from dvc_data.hashfile.build import build

    with workspace() as repo:
        try:
            out = repo.find_outs_by_path(os.fspath(folder))[0] if repo else None
        except OutputNotFoundError:
            return None
        if out is None or not out.hash_info:
            return None
        if not os.path.isdir(out.fs_path):
            raise UserError(f"{folder} is under DVC but not here; get it with: dvc pull {folder}")
        _, meta, tree = build(repo.cache.local, out.fs_path, out.fs, "md5", dry_run=True, ignore=repo.dvcignore)
        return _version(tree.oid, meta)


def content_of(folder: str | Path) -> DataVersion:
    """The version that a folder would have, tracked or not; nothing is kept of it.

    Raises:
        UserError: the folder is missing.
    """
    from dvc.fs import localfs
    from dvc_data.hashfile.build import build

    if not os.path.isdir(folder):
        raise UserError(f"{folder} is no folder")
    with workspace(create=True) as repo:
        path = os.fspath(Path(folder).absolute())
        _, meta, tree = build(repo.cache.local, path, localfs, "md5", dry_run=True)
        return _version(tree.oid, meta)


def store(folder: str | Path) -> DataVersion:
    """Keep a copy of any folder in DVC's cache; its version equals what `dvc add` of the same content would give.

    Raises:
        UserError: the folder is missing or empty, or the disk is full.
    """
    from dvc.fs import localfs
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.transfer import transfer

    if not any(path.is_file() for path in Path(folder).rglob("*")):
        raise UserError(f"{folder} holds no file to keep a version of")
    with workspace(create=True) as repo, disk_errors(repo.cache.local.path):
        cache = repo.cache.local
        staging, meta, tree = build(cache, os.fspath(Path(folder).absolute()), localfs, "md5")
        if failed := transfer(staging, cache, {tree.hash_info}, shallow=False).failed:
            raise UserError(f"{len(failed)} files of {folder} could not be copied into DVC's cache {cache.path}")
        return _version(tree.oid, meta)


def manifest(md5: str) -> list[dict[str, str]]:
    """What a version in the cache consists of: {"md5": ..., "relpath": ...} for each file, sorted by path.

    Kept somewhere else, it is all that `fetch` needs besides the files; UserError when the version is not in the cache.
    """
    with workspace() as repo:
        return _tree(repo, md5).as_list()


def push(md5: str, remote: str | None = None) -> None:
    """Copy a version from the cache to a remote (the default one when none is named).

    Raises:
        UserError: the version is not in the cache, there is no such remote, or it can't be written.
    """
    with workspace() as repo:
        ids = _ids(_tree(repo, md5))
        if failed := repo.cloud.push(ids, remote=remote).failed:
            raise UserError(f"{len(failed)} of {len(ids)} files of version {md5} could not be copied to the remote")


def fetch(md5: str, manifest: Sequence[dict[str, str]] | None = None, remote: str | None = None) -> DataVersion:
    """Bring a version into the cache; a version that is there already needs no remote.

    Args:
        md5: the version.
        manifest: what it consists of, for a version whose own list was never pushed.
        remote: the remote's name; None is the default one.

    Raises:
        UserError: the manifest is another version's or names a file outside of the folder, or files are neither in the
            cache nor in the remote.
    """
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    with workspace(create=True) as repo, disk_errors(repo.cache.local.path):
        cache = repo.cache.local
        check_hash(md5)
        if manifest is not None:
            for file in manifest:
                inside(".", file.get("relpath"))
                check_hash(file.get("md5"))
            listed = Tree.from_list(manifest, hash_name="md5")
            listed.digest()
            if listed.oid != md5:
                raise UserError(f"the manifest is that of version {listed.oid}, not of {md5}")
            cache.add(listed.path, listed.fs, md5)
        elif not cache.oids_exist([md5]):
            repo.cloud.pull({HashInfo("md5", md5)}, remote=remote)
        tree = _tree(repo, md5)
        if _missing(repo, tree):
            repo.cloud.pull(_ids(tree), remote=remote)
        if missing := _missing(repo, tree):
            raise UserError(
                f"{len(missing)} of {len(tree)} files of version {md5} are neither here nor in the remote; "
                "push them from where the version was made"
            )
        return DataVersion(md5, len(tree), sum(os.path.getsize(cache.oid_to_path(i.value)) for _, _, i in tree))


def checkout(md5: str, folder: str | Path) -> None:
    """Lay out a version of the cache as a folder, which appears complete or not at all.

    Raises:
        UserError: the version is not in the cache, or the folder exists and holds something else.
    """
    from dvc.fs import localfs
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.checkout import checkout as lay_out

    target = Path(folder).absolute()
    with workspace(create=True) as repo, disk_errors(target):
        tree = _tree(repo, md5)
        if target.exists() and any(target.iterdir()):
            _, _, there = build(repo.cache.local, os.fspath(target), localfs, "md5", dry_run=True)
            if there.oid != md5:
                raise UserError(f"{folder} exists and holds something else; name another folder")
            return
        remove_unfinished(target.parent)
        part = unfinished(target)
        try:
            lay_out(os.fspath(part), localfs, tree, repo.cache.local)
            os.replace(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def homes(create: bool = False) -> tuple[Path | None, str | None]:
    """Where the contents of versions lie: the folder of the cache, and the same below the default remote.

    Args:
        create: make a workspace where there is none.

    Returns:
        Of each None where there is none; the remote's is a folder or an address of its own scheme, such as s3://.
    """
    with workspace(create=create) as repo:
        if repo is None:
            return None, None
        cache = Path(repo.cache.local.path)
        name = repo.config["core"].get("remote")
        remote = repo.config["remote"].get(name, {}).get("url") if name else None
    if remote and "://" not in remote:
        remote = str(Path(remote).expanduser())
    return cache, f"{remote.rstrip('/')}/{_CONTENTS}" if remote else None


def default_remote() -> str | None:
    """Where `push` copies to when no remote is named; None without a workspace or a default remote."""
    with workspace() as repo:
        name = repo and repo.config["core"].get("remote")
        return repo.config["remote"].get(name, {}).get("url") if name else None


def _tree(repo: Any, md5: str) -> Tree:
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    check_hash(md5)
    try:
        if repo is None:
            raise FileNotFoundError
        tree = Tree.load(repo.cache.local, HashInfo("md5", md5))
    except FileNotFoundError:
        raise UserError(f"version {md5} is not in DVC's cache; fetch it first") from None
    for names, _, file in tree:
        inside(".", "/".join(names))
        check_hash(file.value)
    return tree


def _ids(tree: Tree) -> set[HashInfo]:
    return {tree.hash_info} | {file_id for _, _, file_id in tree}


def _missing(repo: Any, tree: Tree) -> set[str]:
    wanted = {file_id.value for file_id in _ids(tree) if file_id.value}
    return wanted - set(repo.cache.local.oids_exist(wanted))


def _version(md5: str, meta: Any) -> DataVersion:
    return DataVersion(md5, meta.nfiles, meta.size)
