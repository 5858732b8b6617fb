"""The functions of `wsss.storage` for s3:// addresses."""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from wsss.errors import UserError
from wsss.storage.disk import StoredFile, inside

SCHEME = "s3://"
_THREADS = 8
_NO_RIGHT = "these keys may not do that here; take those of a role that may, or ask who administers the bucket"
_REFUSED = {
    "InvalidAccessKeyId": "it knows no such access key; correct AWS_SHARED_CREDENTIALS_FILE or ~/.aws/credentials",
    "SignatureDoesNotMatch": "the secret key is wrong; correct AWS_SHARED_CREDENTIALS_FILE or ~/.aws/credentials",
    "InvalidToken": "the credentials are not valid; log in anew, or make new keys",
    "ExpiredToken": "the credentials have expired; log in anew, or make new keys",
    "ExpiredTokenException": "the credentials have expired; log in anew, or make new keys",
    "RequestTimeTooSkewed": "this machine's clock is off; set it",
    "AccessDenied": _NO_RIGHT,
    "403": _NO_RIGHT,
    "InsufficientStorage": "its disk is full; make room, then run the same command again: finished steps are kept",
}
"""What a store's refusal means and how to mend it, by S3's code."""
_CHUNK = 1 << 20
_BUSY = ("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL")


class UnreachableError(UserError):
    """A bucket that does not answer, or says that it is busy: asked again later it may."""


def exists(url: str) -> bool:
    """Whether an object, or something below it, is there."""
    bucket, key = _split(url)
    with _errors(url) as s3:
        listing = s3.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
        first = [item["Key"] for item in listing.get("Contents", ())]
        if first and (first[0] == key or first[0].startswith(f"{key}/")):
            return True
        return bool(s3.list_objects_v2(Bucket=bucket, Prefix=f"{key}/", MaxKeys=1).get("KeyCount"))


def read_bytes(url: str) -> bytes:
    """The content of an object; FileNotFoundError without one."""
    bucket, key = _split(url)
    with _errors(url) as s3:
        return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def write_bytes(url: str, data: bytes, if_absent: bool) -> bool:
    """Write an object; False where it was to be absent and is not."""
    from botocore.exceptions import ClientError

    bucket, key = _split(url)
    with _errors(url) as s3:
        try:
            s3.put_object(Bucket=bucket, Key=key, Body=data, **({"IfNoneMatch": "*"} if if_absent else {}))
        except ClientError as error:
            if error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
                return False
            raise
    return True


@cache
def check_exclusive_writes(url: str, process: int) -> None:
    """Refuse a store that lets two writers both create one object; asked once by each process (`process` is its id).

    Raises:
        UserError: it ignores `If-None-Match: *`.
    """
    probe = f"{url.rstrip('/')}/.probe-{uuid.uuid4().hex}"
    try:
        if not write_bytes(probe, b"1", if_absent=True) or write_bytes(probe, b"2", if_absent=True):
            raise UserError(
                f"{url}: this store ignores conditional writes (If-None-Match), so that two machines can't share it "
                "safely; use one that keeps them, such as AWS S3, SeaweedFS from 4.08 or versitygw, or a folder"
            )
    finally:
        remove(probe)


def keeps_versions(url: str) -> bool | None:
    """Whether the bucket of an address keeps what is overwritten or deleted; None where it does not say."""
    from botocore.exceptions import ClientError

    bucket, _ = _split(url)
    with _errors(url) as s3:
        try:
            return s3.get_bucket_versioning(Bucket=bucket).get("Status") == "Enabled"
        except ClientError as error:
            if error.response["Error"]["Code"] in ("AccessDenied", "403", "NotImplemented", "MethodNotAllowed", "501"):
                return None
            raise


def remove(url: str) -> None:
    """Remove an object and all that lies below it; nothing happens where there is none."""
    bucket, key = _split(url)
    with _errors(url) as s3:
        s3.delete_object(Bucket=bucket, Key=key)
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{key}/"):
            if keys := [{"Key": item["Key"]} for item in page.get("Contents", ())]:
                answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
                if refused := answer.get("Errors"):
                    first = refused[0]
                    raise UserError(f"{SCHEME}{bucket}/{first.get('Key')} can't be removed: {first.get('Message')}")


def list_names(url: str) -> tuple[list[str], list[str]]:
    """The names of the folders and of the objects directly below an address, each sorted."""
    bucket, key = _split(url)
    prefix = f"{key}/" if key else ""
    folders: list[str] = []
    objects: list[str] = []
    with _errors(url) as s3:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/"):
            folders += (item["Prefix"].removeprefix(prefix).rstrip("/") for item in page.get("CommonPrefixes", ()))
            objects += (item["Key"].removeprefix(prefix) for item in page.get("Contents", ()))
    return sorted(folders), sorted(name for name in objects if name)


def tree(url: str) -> Iterator[StoredFile]:
    """Every object below an address."""
    bucket, key = _split(url)
    prefix = f"{key}/" if key else ""
    with _errors(url) as s3:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", ()):
                name, written = item["Key"].removeprefix(prefix), item["LastModified"].timestamp()
                yield StoredFile(name, item["Size"], written, item["ETag"].strip('"'))


def upload(folder: Path, url: str) -> None:
    """Copy the files of a folder to below an address."""
    bucket, key = _split(url)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    with _errors(url) as s3, ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda p: s3.upload_file(str(p), bucket, f"{key}/{p.relative_to(folder).as_posix()}"), files))


def download(url: str, folder: Path, names: Sequence[str] | None) -> None:
    """Copy objects below an address into a folder: those of some names, or all; FileNotFoundError without one.

    Raises:
        UserError: a name would leave the folder.
    """
    bucket, key = _split(url)
    prefix = f"{key}/" if key else ""
    with _errors(url) as s3:
        if names is None:
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            keys = [item["Key"] for page in pages for item in page.get("Contents", ()) if not item["Key"].endswith("/")]
            names = [each.removeprefix(prefix) for each in keys]
            if not names:
                raise FileNotFoundError(errno.ENOENT, "nothing is stored there", url)
        targets = [inside(folder, name) for name in names]
        for parent in {folder, *(target.parent for target in targets)}:
            parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda name, to: s3.download_file(bucket, prefix + name, str(to)), names, targets))


def upload_file(path: Path, url: str) -> None:
    """Copy a file to an address."""
    bucket, key = _split(url)
    with _errors(url) as s3:
        s3.upload_file(str(path), bucket, key)


def download_file(url: str, path: Path) -> None:
    """Copy an object into a file; FileNotFoundError without one."""
    bucket, key = _split(url)
    with _errors(url) as s3:
        s3.download_file(bucket, key, str(path))


def sha256(url: str) -> str:
    """The sha256 of an object's content; FileNotFoundError without one."""
    bucket, key = _split(url)
    with _errors(url) as s3:
        digest = hashlib.sha256()
        for part in s3.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(_CHUNK):
            digest.update(part)
        return digest.hexdigest()


def _split(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix(SCHEME).partition("/")
    if not bucket:
        raise UserError(f"{url} names no bucket; write s3://bucket/key")
    return bucket, key.strip("/")


@contextmanager
def _errors(url: str) -> Iterator[Any]:
    """An S3 client whose failures become FileNotFoundError or one sentence."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError

    try:
        yield _client(next(filter(None, map(os.environ.get, _ENDPOINTS)), None), os.getpid())
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ("NoSuchKey", "404"):
            raise FileNotFoundError(errno.ENOENT, "nothing is stored there", url) from error
        if code == "NoSuchBucket":
            raise UserError(f"{url}: there is no such bucket; create it or name another") from error
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500 or code in _BUSY:
            raise UnreachableError(f"{url}: the store is busy or broken: {error}; try again later") from error
        if code in _REFUSED:
            raise UserError(f"{url}: the store refuses ({code}): {_REFUSED[code]}") from error
        raise UserError(f"{url}: the store refused: {error}; check the credentials and the bucket's rules") from error
    except (BotoCoreError, Boto3Error) as error:
        kind = UnreachableError if isinstance(error, HTTPClientError | IncompleteReadError) else UserError
        raise kind(
            f"{url}: the store can't be used: {error}; check AWS_ENDPOINT_URL, the credentials and the network"
        ) from error


@cache
def _client(endpoint: str | None, process: int) -> Any:
    """One thread-safe client for each process (`process` is its id: a client must not be shared across a fork)."""
    import boto3

    return boto3.client("s3", endpoint_url=endpoint)
