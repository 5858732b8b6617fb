"""S3 over HTTP: what each request asks for, who may ask for it, and its answer."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from infra.stack.objects import buckets, content
from infra.stack.objects.index import Index, Received
from infra.stack.objects.keys import Identity, Keys, RefusedError
from infra.stack.objects.shelf import Shelf
from infra.stack.objects.uploads import Uploads
from infra.stack.objects.xml import document

HEALTH = "/health"
LARGEST_DOCUMENT = 4 << 20
_EXPIRE_S = 3600


def application(index: Index, keys: Keys) -> Starlette:
    """The server of an index."""
    shelf = Shelf(index)
    uploads = Uploads(index, shelf)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        expiring = asyncio.create_task(_expire(shelf, uploads))
        yield
        expiring.cancel()

    async def answer(request: Request) -> Response:
        if request.url.path == HEALTH:
            return Response("ok")
        received: list[Path] = []
        try:
            return await _answer(shelf, uploads, keys, request, received)
        except RefusedError as refusal:
            return _refused(request, refusal)
        except (OSError, sqlite3.OperationalError) as error:
            full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "full" in str(error)
            code, said = ("InsufficientStorage", "the store's disk is full") if full else ("InternalError", str(error))
            return _refused(request, RefusedError(507 if full else 500, code, said))
        finally:
            for path in received:
                path.unlink(missing_ok=True)

    methods = ["GET", "HEAD", "PUT", "POST", "DELETE"]
    return Starlette(routes=[Route("/{path:path}", answer, methods=methods)], lifespan=lifespan)


async def _expire(shelf: Shelf, uploads: Uploads) -> None:
    while True:
        with suppress(sqlite3.OperationalError):  # a full disk; the next hour is soon enough
            await run_in_threadpool(shelf.expire)
            await run_in_threadpool(uploads.expire)
        await asyncio.sleep(_EXPIRE_S)


async def _answer(shelf: Shelf, uploads: Uploads, keys: Keys, request: Request, received: list[Path]) -> Response:
    raw = request.scope["raw_path"].decode("latin-1").partition("?")[0]
    query = request.scope["query_string"].decode("latin-1")
    headers = dict(request.headers)
    identity = keys.who(request.method, raw, query, headers)
    bucket, _, key = unquote(raw).lstrip("/").partition("/")
    words = dict(parse_qsl(query, keep_blank_values=True))
    asked = content.Asked(request.method, bucket, key, words, headers)
    _check(identity, asked)
    if request.method in ("PUT", "POST"):
        path = shelf.index.incoming / uuid.uuid4().hex
        received.append(path)
        asked.body = await _receive(request, path)
        if not key or (request.method == "POST" and "uploadId" in words):
            if asked.body.size > LARGEST_DOCUMENT:
                raise RefusedError(400, "EntityTooLarge", "a document of this size is not read")
            asked.document = path.read_bytes()
    if key:
        return await run_in_threadpool(content.answer, shelf, uploads, asked, identity)
    return await run_in_threadpool(buckets.answer, shelf, asked)


def _check(identity: Identity, asked: content.Asked) -> None:
    """Refuse what the key may not do."""
    reads = asked.method in ("GET", "HEAD")
    if not asked.bucket:
        action = "List"
    elif asked.key:
        action = "Read" if reads else "Write"
    elif reads:
        action = "List"
    else:
        action = "Write" if asked.method == "POST" and "delete" in asked.words else "Admin"
    if not asked.bucket:  # everybody sees the names of all
        return
    identity.check(action, asked.bucket)


async def _receive(request: Request, path: Path) -> Received:
    """Write a request's bytes to a file, and compare them with what the request says of them."""
    stated = request.headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
    if stated.startswith("STREAMING-"):
        raise RefusedError(
            501, "NotImplemented", "chunked signatures are not read: AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
        )
    md5, sha256, size = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    with open(path, "wb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            md5.update(chunk)
            sha256.update(chunk)
            if size > 1 << 20:
                await run_in_threadpool(file.write, chunk)
            else:
                file.write(chunk)
    if len(stated) == 64 and stated != sha256.hexdigest():
        raise RefusedError(400, "XAmzContentSHA256Mismatch", "the bytes are not those that were signed")
    wanted = request.headers.get("content-md5")
    if wanted and wanted != base64.b64encode(md5.digest()).decode():
        raise RefusedError(400, "BadDigest", "the bytes are not those of Content-MD5")
    return Received(path, size, f'"{md5.hexdigest()}"')


def _refused(request: Request, refusal: RefusedError) -> Response:
    body = document("Error", [("Code", refusal.code), ("Message", str(refusal))])
    headers = {"connection": "close"} if request.method in ("PUT", "POST") else {}
    empty = request.method == "HEAD" or refusal.status == 304
    return Response(b"" if empty else body, refusal.status, headers, "application/xml")
