"""Requests about one object: reading, writing, copying, deleting, uploads in parts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from email.utils import formatdate
from urllib.parse import unquote

from starlette.responses import Response, StreamingResponse

from infra.stack.objects.index import Received
from infra.stack.objects.keys import Identity, RefusedError
from infra.stack.objects.shelf import Shelf, Stored
from infra.stack.objects.uploads import Uploads
from infra.stack.objects.xml import document, parsed, texts

_KEPT = ("content-type", "content-encoding", "content-disposition", "content-language", "cache-control")
LONGEST_KEY = 1024
LARGEST_NUMBER = 10_000


@dataclass
class Asked:
    """A request: `key` is empty for one about a bucket, `words` are those of the address."""

    method: str
    bucket: str
    key: str
    words: dict[str, str]
    headers: dict[str, str]
    body: Received | None = None
    document: bytes = b""

    @property
    def content(self) -> Received:
        """The bytes that came with it."""
        assert self.body is not None
        return self.body


def answer(shelf: Shelf, uploads: Uploads, asked: Asked, identity: Identity) -> Response:
    """The answer to a request about an object."""
    if len(asked.key.encode()) > LONGEST_KEY:
        raise RefusedError(400, "KeyTooLongError", f"a key has at most {LONGEST_KEY} bytes")
    if asked.words.keys() & {"acl", "tagging", "retention", "legal-hold", "torrent", "attributes", "restore", "select"}:
        raise RefusedError(501, "NotImplemented", "this server has no such thing")
    match asked.method:
        case "GET" | "HEAD":
            return _get(shelf, asked)
        case "PUT":
            return _put(shelf, uploads, asked, identity)
        case "POST":
            return _post(uploads, asked)
    if upload := asked.words.get("uploadId"):
        uploads.abort(upload)
        return Response(status_code=204)
    mark = shelf.delete(asked.bucket, asked.key, asked.words.get("versionId", ""))
    marked = {"x-amz-delete-marker": "true", "x-amz-version-id": mark.version} if mark else {}
    return Response(status_code=204, headers=marked)


def _get(shelf: Shelf, asked: Asked) -> Response:
    if "uploadId" in asked.words:
        raise RefusedError(501, "NotImplemented", "this server does not list parts")
    stored = shelf.find(asked.bucket, asked.key, asked.words.get("versionId", ""))
    if (etag := asked.headers.get("if-match")) and etag.strip('"') not in (stored.etag.strip('"'), "*"):
        raise RefusedError(412, "PreconditionFailed", "the object is another")
    if (etag := asked.headers.get("if-none-match")) and etag.strip('"') in (stored.etag.strip('"'), "*"):
        raise RefusedError(304, "NotModified", "the object is the same")
    first, last, ranged = _range(asked.headers.get("range", ""), stored.size)
    headers = stored.headers | {
        "etag": stored.etag,
        "last-modified": formatdate(stored.modified, usegmt=True),
        "content-length": str(last - first + 1),
        "accept-ranges": "bytes",
    }
    headers |= {
        name.removeprefix("response-"): value for name, value in asked.words.items() if name.startswith("response-")
    }
    if stored.version != "null":
        headers["x-amz-version-id"] = stored.version
    if ranged:
        headers["content-range"] = f"bytes {first}-{last}/{stored.size}"
    status = 206 if ranged else 200
    if asked.method == "HEAD":
        return Response(None, status, headers)
    return StreamingResponse(shelf.read(stored, first, last - first + 1), status, headers)


def _range(text: str, size: int) -> tuple[int, int, bool]:
    """The first and the last byte that are asked for, and whether it is a part; all where the range can't be read."""
    first, dash, last = text.removeprefix("bytes=").partition("-")
    if not text.startswith("bytes=") or not dash or not (first + last).isdecimal():
        return 0, size - 1, False
    if not first:
        start, end = max(0, size - int(last)), size - 1
    else:
        start, end = int(first), min(int(last), size - 1) if last else size - 1
    if start > end:
        raise RefusedError(416, "InvalidRange", f"the object has {size} bytes")
    return start, end, True


def _put(shelf: Shelf, uploads: Uploads, asked: Asked, identity: Identity) -> Response:
    source = asked.headers.get("x-amz-copy-source")
    if upload := asked.words.get("uploadId"):
        number = asked.words.get("partNumber", "")
        if source:
            raise RefusedError(501, "NotImplemented", "this server does not copy into parts")
        if not number.isdecimal() or not 1 <= int(number) <= LARGEST_NUMBER:
            raise RefusedError(400, "InvalidArgument", f"a part has a number from 1 to {LARGEST_NUMBER}")
        return Response(headers={"etag": uploads.part(upload, int(number), asked.content)})
    headers = _described(asked)
    received = asked.content
    if source:
        before = _source(shelf, source, identity)
        received = _copied(shelf, before, received)
        if asked.headers.get("x-amz-metadata-directive", "COPY") != "REPLACE":
            headers = before.headers
    absent, match = _conditions(asked)
    stored = shelf.put(asked.bucket, asked.key, received, headers, absent=absent, match=match)
    versioned = {} if stored.version == "null" else {"x-amz-version-id": stored.version}
    if not source:
        return Response(headers=versioned | {"etag": stored.etag})
    result = document("CopyObjectResult", [("ETag", stored.etag)])
    return Response(result, headers=versioned, media_type="application/xml")


def _post(uploads: Uploads, asked: Asked) -> Response:
    if "uploads" in asked.words:
        upload = uploads.begin(asked.bucket, asked.key, _described(asked))
        begun = [("Bucket", asked.bucket), ("Key", asked.key), ("UploadId", upload)]
        return Response(document("InitiateMultipartUploadResult", begun), media_type="application/xml")
    tree = parsed(asked.document)
    numbers = texts(tree, "PartNumber")
    if not all(number.isdecimal() for number in texts(tree, "PartNumber")):
        raise RefusedError(400, "MalformedXML", "a part's number is none")
    chosen = list(zip(map(int, numbers), texts(tree, "ETag"), strict=False))
    absent, match = _conditions(asked)
    stored = uploads.complete(asked.words.get("uploadId", ""), chosen, absent=absent, match=match)
    result = [("Bucket", stored.bucket), ("Key", stored.key), ("ETag", stored.etag)]
    versioned = {} if stored.version == "null" else {"x-amz-version-id": stored.version}
    return Response(document("CompleteMultipartUploadResult", result), headers=versioned, media_type="application/xml")


def _conditions(asked: Asked) -> tuple[bool, str]:
    absent = asked.headers.get("if-none-match", "")
    if absent not in ("", "*"):
        raise RefusedError(501, "NotImplemented", "on a write, If-None-Match is * alone")
    return bool(absent), asked.headers.get("if-match", "")


def _described(asked: Asked) -> dict[str, str]:
    """The headers that come back with an object."""
    own = {n: v for n, v in asked.headers.items() if n in _KEPT or n.startswith("x-amz-meta-")}
    return {"content-type": "binary/octet-stream"} | own


def _source(shelf: Shelf, source: str, identity: Identity) -> Stored:
    path, _, version = source.partition("?versionId=")
    bucket, _, key = unquote(path).lstrip("/").partition("/")
    identity.check("Read", bucket)
    return shelf.find(bucket, key, version)


def _copied(shelf: Shelf, stored: Stored, received: Received) -> Received:
    """The bytes of an object, in the place of those that came with the request."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(received.path, "wb") as file:
        for chunk in shelf.read(stored, 0, stored.size):
            digest.update(chunk)
            file.write(chunk)
    return Received(received.path, stored.size, f'"{digest.hexdigest()}"')
