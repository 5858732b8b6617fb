"""Where finished work is kept: a folder or an S3 bucket, through the same few functions.

A URL is a path, or `s3://bucket/key`. The S3 endpoint comes from AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or
MLFLOW_S3_ENDPOINT_URL, credentials and region from where boto3 looks for them. Every write is atomic: a reader sees
the old content or the new one, never a part.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from wsss.errors import UserError

_S3 = "s3://"
_THREADS = 8
_NEARLY_FULL = 1 << 20


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
    if not is_remote(url):
        return Path(url).exists()
    bucket, key = _split(url)
    with _s3_errors(url) as s3:
        listing = s3.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
        first = [item["Key"] for item in listing.get("Contents", ())]
        if first and (first[0] == key or first[0].startswith(f"{key}/")):
            return True
        return bool(s3.list_objects_v2(Bucket=bucket, Prefix=f"{key}/", MaxKeys=1).get("KeyCount"))


def read_bytes(url: str | Path) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: it is not there.
    """
    if not is_remote(url):
        return Path(url).read_bytes()
    bucket, key = _split(url)
    with _s3_errors(url) as s3:
        return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def write_bytes(url: str | Path, data: bytes, if_absent: bool = False) -> bool:
    """Write a file, its parent folders too.

    Args:
        url: where to.
        data: the whole content.
        if_absent: leave a file that is already there alone; of several writers exactly one succeeds.

    Returns:
        Whether `data` was written.
    """
    if is_remote(url):
        bucket, key = _split(url)
        with _s3_errors(url) as s3:
            return _put(s3, Bucket=bucket, Key=key, Body=data, **({"IfNoneMatch": "*"} if if_absent else {}))
    target = Path(url)
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = _sibling(target)
        try:
            part.write_bytes(data)
            if if_absent:
                os.link(part, target)
            else:
                os.replace(part, target)
        except FileExistsError:
            return False
        finally:
            part.unlink(missing_ok=True)
    return True


def list_dirs(url: str | Path) -> list[str]:
    """The names of the folders directly below a URL, sorted; none where there is no such place."""
    if not is_remote(url):
        folder = Path(url)
        return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    bucket, key = _split(url)
    prefix = f"{key}/" if key else ""
    with _s3_errors(url) as s3:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
        found = (item["Prefix"] for page in pages for item in page.get("CommonPrefixes", ()))
        return sorted(name.removeprefix(prefix).rstrip("/") for name in found)


def upload_folder(folder: Path, url: str | Path, last: str | None = None) -> bool:
    """Publish a local folder: what is at `url` is complete or not there.

    On a disk the folder is moved when it lies on the same one, else copied, and appears in one rename. In a bucket,
    the file named `last` goes up after all others and only if nobody else has put it there: its presence is what says
    that the folder is complete.

    Args:
        folder: an existing folder; on a disk it may be gone afterwards.
        url: where to; a complete folder that is already there is left alone.
        last: the file, directly in `folder`, that marks completeness; without one any folder there counts as complete.

    Returns:
        False when a complete folder was already there.
    """
    if not is_remote(url):
        with disk_errors(url):
            return _move_folder(folder, Path(url), last)
    bucket, key = _split(url)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / (last or "")]
    if last is not None and exists(join(url, last)):
        return False
    with _s3_errors(url) as s3, ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda p: s3.upload_file(str(p), bucket, f"{key}/{p.relative_to(folder).as_posix()}"), files))
    return last is None or write_bytes(join(url, last), (folder / last).read_bytes(), if_absent=True)


def download_folder(url: str | Path, folder: Path) -> None:
    """Copy what lies below a URL into a local folder, which appears complete or not at all.

    Raises:
        FileNotFoundError: nothing is there.
    """
    part = _sibling(folder)
    with disk_errors(folder):
        try:
            if is_remote(url):
                _download(url, part)
            else:
                shutil.copytree(url, part)
            _move_folder(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def free_bytes(path: str | Path) -> int:
    """Free bytes on the disk that holds `path`, or would hold it."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Turn a full disk, in whichever words a library says it, into one sentence.

    Raises:
        UserError: the disk that holds `path` has no room left.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not _says_full(error, path):
            raise
        raise UserError(
            f"the disk that holds {path} is full ({free_bytes(path) / 1e9:.1f} GB free); make room, then run the same "
            "command again: finished steps are kept"
        ) from error


def _says_full(error: Exception, path: str | Path) -> bool:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return True
    words = str(error).lower()
    if any(said in words for said in ("no space left", "disk is full", "quota exceeded")):
        return True
    return isinstance(error, OSError | RuntimeError) and "writ" in words and free_bytes(path) < _NEARLY_FULL


def _sibling(path: Path) -> Path:
    """A new name next to `path`, on the same disk, that nobody takes for a finished result."""
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}.part"


def _move_folder(source: Path, target: Path, last: str | None = None) -> bool:
    target.parent.mkdir(parents=True, exist_ok=True)
    if last is not None and not (target / last).exists():
        shutil.rmtree(target, ignore_errors=True)
    if target.exists():
        return False
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        if error.errno != errno.EXDEV:
            raise
        part = _sibling(target)
        try:
            shutil.copytree(source, part)
            return _move_folder(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return True


def _download(url: str | Path, folder: Path) -> None:
    bucket, key = _split(url)
    prefix = f"{key}/" if key else ""
    with _s3_errors(url) as s3:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", ()) if not item["Key"].endswith("/")]
        if not keys:
            raise FileNotFoundError(errno.ENOENT, "nothing is stored there", str(url))
        targets = [folder / name.removeprefix(prefix) for name in keys]
        for parent in {target.parent for target in targets}:
            parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda name, target: s3.download_file(bucket, name, str(target)), keys, targets))


def _split(url: str | Path) -> tuple[str, str]:
    bucket, _, key = str(url).removeprefix(_S3).partition("/")
    if not bucket:
        raise UserError(f"{url} names no bucket; write s3://bucket/key")
    return bucket, key.strip("/")


def _put(s3: Any, **request: Any) -> bool:
    from botocore.exceptions import ClientError

    try:
        s3.put_object(**request)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
            return False
        raise
    return True


@contextmanager
def _s3_errors(url: str | Path) -> Iterator[Any]:
    """An S3 client whose failures become FileNotFoundError or one sentence."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        endpoints = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL")
        yield _client(next(filter(None, map(os.environ.get, endpoints)), None), os.getpid())
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ("NoSuchKey", "404"):
            raise FileNotFoundError(errno.ENOENT, "nothing is stored there", str(url)) from error
        if code == "NoSuchBucket":
            raise UserError(f"{url}: there is no such bucket; create it or name another") from error
        raise UserError(f"{url}: the store refused: {error}; check the credentials and the bucket's rules") from error
    except (BotoCoreError, Boto3Error) as error:
        raise UserError(
            f"{url}: the store can't be used: {error}; check AWS_ENDPOINT_URL, the credentials and the network"
        ) from error


@cache
def _client(endpoint: str | None, process: int) -> Any:
    """One thread-safe client for each process (`process` is its id: a client must not be shared across a fork)."""
    import boto3

    return boto3.client("s3", endpoint_url=endpoint)
