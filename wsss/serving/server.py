"""The HTTP server: the bytes of an image in, its label map as a palette PNG of the same size out.

    POST /segment   body: a JPEG, PNG, WebP, BMP or TIFF, Content-Type: image/...; the answer names X-Model-Version
    GET  /classes   the classes with their label-map index and colour
    GET  /health    {"status": "ok", "model": ...}
    GET  /version   {"model": ..., "wsss": ...}

Refusals are 4xx, or 503 with Retry-After, with {"detail": "one sentence"}. Images are decoded and labelled one at a
time in a thread of their own; everything else is answered at once, however many images wait. What waits is bounded in
number and in bytes, and what one image takes is known from its header and bounded before it is decoded.
"""

from __future__ import annotations

import asyncio
import io
import socket
import string
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.routing import Match
from starlette.types import Scope

from wsss.classes import palette
from wsss.data.palette_png import encode_palette_png
from wsss.errors import UserError
from wsss.git import VERSION
from wsss.serving.connections import BoundedConnection
from wsss.serving.headers import Picture, read_header, unreadable
from wsss.serving.memory import LabellingMemory, return_memory
from wsss.serving.segmenter import Segmenter
from wsss.serving.uploads import Admission, TakeWholeBodies, Turns, announced_bytes, closed_early, read_body
from wsss.stream import use_own_cores

MAX_PIXELS = 16 * 2**20
MAX_SIDE = 2**15
MAX_SCORES = 2**30
"""Pixels times classes: what the time of an answer grows with."""
MEMORY = 2**30
"""Bytes above what the idle server holds that answers take at most, together; of these,"""
_RESERVED = 448 * 2**20
"""are for bodies that wait, for connections, and for what allocators keep; the rest is for the one image at work."""
VERSION_HEADER = "X-Model-Version"
_PLAIN = "".join(set(string.printable) - set(string.whitespace) - {"%"})
_PAGES = ("/classes", "/health", "/version")
_LARGE = 64 * 2**20
"""Bytes of memory after which the allocator is asked for what it keeps."""
_SMALL = 2**16
"""Pixels for which no network wants so much memory that it is worth a measurement."""


class Limits:
    """What an image may be, known before it is decoded.

    Args:
        segmenter: the model that labels it.
        memory: the bytes that answers may take together, above what the idle server holds.
    """

    def __init__(self, segmenter: Segmenter, memory: int = MEMORY) -> None:
        self._work = memory - _RESERVED
        self._classes = len(segmenter.classes.with_background)
        self._labelling = LabellingMemory(segmenter.module)

    def check(self, picture: Picture) -> int:
        """The bytes of memory that decoding and labelling an image take.

        Raises:
            HTTPException: 413 for more than `MAX_PIXELS` pixels (or `MAX_SCORES` of pixels times classes), `MAX_SIDE`
                px a side, or more memory than is left for one image.
        """
        pixels, sides = picture.width * picture.height, f"{picture.width} x {picture.height} px"
        if pixels > (most := min(MAX_PIXELS, MAX_SCORES // self._classes)):
            raise _too_large(f"has {sides}, at most {most:,} pixels are taken")
        if max(picture.width, picture.height) > MAX_SIDE:
            raise _too_large(f"has {sides}, at most {MAX_SIDE:,} px a side are taken")
        needed = picture.memory
        if needed <= self._work and pixels > _SMALL:
            needed = max(needed, 3 * pixels + self._labelling.bytes(picture.height, picture.width))
        if needed > self._work:
            raise _too_large(
                f"of {sides} would take {needed / 2**20:,.0f} MiB of memory, padding included, at most "
                f"{self._work / 2**20:,.0f} MiB are given to one (the server's --memory allows more)"
            )
        return needed


def decode(picture: Picture) -> np.ndarray:
    """An uploaded image as uint8 H x W x 3; pixels as stored, an EXIF orientation is not applied.

    Raises:
        HTTPException: 422 for a damaged image, or one that is not RGB.
    """
    try:
        with Image.open(io.BytesIO(picture.body), formats=(picture.format,)) as image:
            if image.size != (picture.width, picture.height):
                raise unreadable()
            if image.mode != "RGB":
                raise HTTPException(422, f"the image is of mode {image.mode}, not RGB; convert it first")
            return np.array(image)
    except HTTPException:
        raise
    except Exception:  # Of hostile bytes, decoders raise whatever they stumble over.
        raise unreadable() from None


def _too_large(what: str) -> HTTPException:
    return HTTPException(413, f"the image {what}; scale it down first")


def _sendable(version: str) -> str:
    """A model's version as text that UTF-8 can hold, which the name of a folder need not be."""
    return version.encode(errors="backslashreplace").decode()


Answer = Callable[[], Awaitable[object]]


def _get(app: FastAPI, path: str) -> Callable[[Answer], Answer]:
    """Registers what answers GET and HEAD."""

    def register(answer: Answer) -> Answer:
        app.head(path, include_in_schema=False)(answer)
        return app.get(path)(answer)

    return register


def _methods(app: FastAPI, scope: Scope) -> list[str]:
    """The methods that a path takes; none where there is no such path."""
    there = [route for route in app.routes if route.matches(scope)[0] is not Match.NONE]
    return sorted({method for route in there for method in getattr(route, "methods", None) or ()})


async def _no_such_request(request: Request, error: Exception) -> Response:
    """Refusals in a sentence, also those of the framework: unknown paths and methods name the known ones."""
    assert isinstance(error, AnyHTTPException)
    detail, headers = error.detail, dict(error.headers or {})
    if error.status_code == 404:
        detail = f"there is no {request.url.path}; send an image to POST /segment, or GET {', '.join(_PAGES)}"
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_methods(request.app, request.scope))
        detail = f"{request.url.path} does not take {request.method}; use {headers['Allow']}"
    return JSONResponse({"detail": detail}, error.status_code, headers)


def make_app(segmenter: Segmenter, memory: int = MEMORY) -> FastAPI:
    """The application that serves one model; `memory` as in `Limits`."""
    app = FastAPI(title="wsss", docs_url=None, redoc_url=None)
    one_at_a_time = ThreadPoolExecutor(1, "segment")
    admission, turns = Admission(), Turns()
    app.state.turns = turns
    app.add_exception_handler(AnyHTTPException, _no_such_request)
    limits = Limits(segmenter, memory)
    name = _sendable(segmenter.version)
    model_header = {VERSION_HEADER: quote(name, safe=_PLAIN)}

    def mask(body: bytearray) -> bytes:
        picture = read_header(bytes(body))
        body.clear()
        needed = limits.check(picture)
        try:
            return encode_palette_png(segmenter(decode(picture)))
        finally:
            if needed > _LARGE:
                return_memory()

    # Handlers are coroutines: a plain function would wait for a free thread of the framework's pool.
    @app.post("/segment", response_class=Response)
    async def segment(request: Request) -> Response:
        with admission.admit(announced_bytes(request)):
            body = await read_body(request, turns)
            waiting = asyncio.get_running_loop().run_in_executor(one_at_a_time, mask, body)
            # After the body, the only message is that the client has gone.
            gone = asyncio.ensure_future(request.receive())
            both: set[asyncio.Future[Any]] = {waiting, gone}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            if not waiting.done() and waiting.cancel():
                raise closed_early()
            png = await waiting
        return Response(png, media_type="image/png", headers=model_header)

    @_get(app, "/classes")
    async def classes() -> list[dict[str, object]]:
        colours = palette().tolist()
        names = segmenter.classes.with_background
        return [{"index": index, "name": name, "colour": colours[index]} for index, name in enumerate(names)]

    @_get(app, "/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": name}

    @_get(app, "/version")
    async def versions() -> dict[str, str]:
        return {"model": name, "wsss": VERSION}

    return app


def make_config(segmenter: Segmenter, memory: int = MEMORY) -> uvicorn.Config:
    """The application as it is served, its connections bounded; `memory` as in `Limits`."""
    app = make_app(segmenter, memory)
    served = TakeWholeBodies(app, app.state.turns)
    return uvicorn.Config(served, log_level="warning", http=BoundedConnection, ws="none")


def serve(segmenter: Segmenter, host: str, port: int, memory: int = MEMORY) -> None:
    """Serve until the process is told to stop; the address is printed once it is bound. `memory` as in `Limits`.

    Raises:
        UserError: the address can't be bound.
    """
    use_own_cores()
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(
            f"can't listen on {host} port {port}: {error.strerror}; choose another --host or --port"
        ) from None
    shown = f"[{host}]" if ":" in host else host
    print(f"serving {_sendable(segmenter.version)} on http://{shown}:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(make_config(segmenter, memory)).run(sockets=[listener])
