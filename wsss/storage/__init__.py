"""Where finished work is kept: a folder or an S3 bucket, through the same few functions.

A URL is a path, or `s3://bucket/key`. The S3 endpoint comes from AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or
MLFLOW_S3_ENDPOINT_URL, credentials and region from where boto3 looks for them. Every write is atomic: a reader sees
the old content or the new one, never a part.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from wsss.errors import UserError
from wsss.storage import bucket
from wsss.storage.bucket import UnreachableError
from wsss.storage.disk import (
    StoredFile,
    disk_errors,
    free_bytes,
    inside,
    inside_name,
    move_folder,
    remove_folder,
    remove_unfinished,
    temporary_folder,
    tree,
    unfinished,
)
from wsss.storage.object_cache import ObjectCache

__all__ = [
    "ObjectCache",
    "StoredFile",
    "UnreachableError",
    "check_exclusive_writes",
    "copy_file",
    "disk_errors",
    "download_folder",
    "exists",
    "free_bytes",
    "inside",
    "inside_name",
    "is_remote",
    "join",
    "keeps_versions",
    "list_dirs",
    "list_files",
    "list_tree",
    "move_folder",
    "read_bytes",
    "remove",
    "remove_folder",
    "remove_unfinished",
    "sha256",
    "store_address",
    "temporary_folder",
    "unfinished",
    "upload_folder",
    "write_bytes",
]


def store_address(default: str | Path = "work/store") -> str:
    """Where step outputs are kept: WSSS_STORE, a folder or s3:// address, else `default`."""
    return os.environ.get("WSSS_STORE", "") or str(default)


def is_remote(url: str | Path) -> bool:
    """Whether a URL lies in a bucket.

    Raises:
        UserError: a scheme other than s3://.
    """
    scheme, separator, _ = str(url).partition("://")
    if separator and scheme != "s3":
        raise UserError(f"{url}: storage is a path or an s3://bucket/key address, not {scheme}://")
    return bool(separator)


def join(url: str | Path, *parts: str) -> str:
    """The URL of something below `url`."""
    return "/".join((str(url).rstrip("/") or "/", *parts)) if is_remote(url) else str(Path(url, *parts))


def exists(url: str | Path) -> bool:
    """Whether a file (an object) or a folder with something in it is there."""
    return bucket.exists(str(url)) if is_remote(url) else Path(url).exists()


def read_bytes(url: str | Path) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: it is not there.
    """
    return bucket.read_bytes(str(url)) if is_remote(url) else Path(url).read_bytes()


def write_bytes(url: str | Path, data: bytes | Iterable[bytes], if_absent: bool = False) -> bool:
    """Write a file, its parent folders too.

    Args:
        url: where to.
        data: the whole content, or its pieces, which on a disk are not held together.
        if_absent: leave a file that is already there alone; of several writers exactly one succeeds.

    Returns:
        Whether `data` was written.

    Raises:
        UserError: the place is full or can't be written.
    """
    if is_remote(url):
        return bucket.write_bytes(str(url), data if isinstance(data, bytes) else b"".join(data), if_absent)
    target = Path(url)
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = unfinished(target)
        try:
            with part.open("wb") as file:
                file.writelines([data] if isinstance(data, bytes) else data)
            if if_absent:
                os.link(part, target)
            else:
                os.replace(part, target)
        except FileExistsError:
            return False
        finally:
            part.unlink(missing_ok=True)
    return True


def copy_file(source: str | Path, target: str | Path) -> None:
    """Copy a file, of whatever size, which appears whole; the target's parent folders are made.

    Raises:
        FileNotFoundError: there is no source.
        UserError: the place is full or can't be written.
    """
    if is_remote(source) and is_remote(target):
        with temporary_folder() as folder:
            bucket.download_file(str(source), folder / "file")
            bucket.upload_file(folder / "file", str(target))
        return
    if is_remote(target):
        bucket.upload_file(Path(source), str(target))
        return
    path = Path(target)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = unfinished(path)
        try:
            if is_remote(source):
                bucket.download_file(str(source), part)
            else:
                shutil.copyfile(source, part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def sha256(url: str | Path) -> str:
    """The sha256 of a file's content, read in pieces.

    Raises:
        FileNotFoundError: it is not there.
    """
    if is_remote(url):
        return bucket.sha256(str(url))
    with Path(url).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_exclusive_writes(url: str | Path) -> None:
    """Refuse a store that ignores `write_bytes(..., if_absent=True)`; a bucket is asked once by each process.

    Raises:
        UserError: two writers could both create one file there.
    """
    if is_remote(url):
        bucket.check_exclusive_writes(str(url), os.getpid())


def keeps_versions(url: str | Path) -> bool | None:
    """Whether the bucket of an address keeps what is overwritten or deleted; None for a folder, or unknown."""
    return bucket.keeps_versions(str(url)) if is_remote(url) else None


def remove(url: str | Path) -> None:
    """Remove a file or a folder; nothing happens where there is none. A folder on a disk goes at once."""
    if is_remote(url):
        bucket.remove(str(url))
    elif Path(url).is_dir():
        remove_folder(Path(url))
    else:
        Path(url).unlink(missing_ok=True)


def list_dirs(url: str | Path) -> list[str]:
    """The names of the folders directly below a URL, sorted; none where there is no such place."""
    if is_remote(url):
        return bucket.list_names(str(url))[0]
    folder = Path(url)
    return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def list_files(url: str | Path) -> list[str]:
    """The names of the files directly below a URL, sorted; none where there is no such place."""
    if is_remote(url):
        return bucket.list_names(str(url))[1]
    folder = Path(url)
    return sorted(p.name for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []


def list_tree(url: str | Path) -> Iterator[StoredFile]:
    """Every file below a URL, in whichever order; none where there is no such place.

    A folder on a disk whose name begins with a dot is left out: it holds work that is not finished, or leases.
    """
    return bucket.tree(str(url)) if is_remote(url) else tree(Path(url))


def upload_folder(folder: Path, url: str | Path) -> bool:
    """Publish a local folder.

    On a disk the folder is moved when it lies on the same one, else copied, and appears in one rename. In a bucket its
    files appear one by one: what says that it is complete must be written after it, elsewhere.

    Args:
        folder: an existing folder; on a disk it may be gone afterwards.
        url: where to; a folder on a disk that is there already is left alone.

    Returns:
        False when it was left alone.
    """
    if is_remote(url):
        bucket.upload(folder, str(url))
        return True
    with disk_errors(url):
        return move_folder(folder, Path(url))


def download_folder(
    url: str | Path,
    folder: Path,
    names: Sequence[str] | None = None,
    check: Callable[[Path], None] = lambda part: None,
) -> None:
    """Copy what lies below a URL into a local folder, which appears complete or not at all.

    Args:
        url: where from.
        folder: where to; one that is there already is left alone.
        names: the files, relative to the URL; all by default (a folder on a disk is always copied whole).
        check: looks at the copy before it appears, and raises where it is not as it should be.

    Raises:
        FileNotFoundError: nothing is there, or not all of the named files.
        UserError: a name would leave the folder.
    """
    with disk_errors(folder):
        remove_unfinished(folder.parent)
        part = unfinished(folder)
        try:
            if is_remote(url):
                bucket.download(str(url), part, names)
            else:
                shutil.copytree(url, part)
            check(part)
            move_folder(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
