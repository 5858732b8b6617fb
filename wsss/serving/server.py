"""The HTTP server: the bytes of an image in, its label map as a palette PNG of the same size out.

    POST /segment   body: a JPEG, PNG, WebP, BMP or TIFF, Content-Type: image/...; the answer names X-Model-Version
    GET  /classes   the classes with their label-map index and colour
    GET  /health    {"status": "ok", "model": ...}

Refusals are 4xx, or 503 with Retry-After, with {"detail": "one sentence"}. Images are decoded and labelled one at a
time in a thread of their own; everything else is answered at once, however many images wait. What waits is bounded in
number and in bytes.
"""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from PIL import Image
from starlette.requests import ClientDisconnect

from wsss.classes import palette
from wsss.data.images import UNREADABLE
from wsss.data.palette_png import encode_palette_png
from wsss.errors import UserError
from wsss.serving.segmenter import Segmenter
from wsss.stream import use_own_cores

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 16 * 2**20
MAX_SCORES = 2**30
"""Pixels times classes: what the time of an answer grows with."""
MAX_REQUESTS = 64
"""Images that are received, wait or are labelled at the same time."""
MAX_HELD = 256 * 2**20
"""Bytes of their bodies together."""
UPLOAD_S = 60
"""Within which a body has to arrive."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
VERSION_HEADER = "X-Model-Version"


def decode(data: bytes, most: int = MAX_PIXELS) -> np.ndarray:
    """An uploaded image as uint8 H x W x 3; pixels as stored, an EXIF orientation is not applied.

    Raises:
        HTTPException: 413 for more than `most` pixels (known from the header, before anything is unpacked), 422 for
            bytes that are no image of a known format, a damaged image, or one that is not RGB.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > most:
                raise HTTPException(413, _too_large(f"{image.width} x {image.height} px", most))
            if image.mode != "RGB":
                raise HTTPException(422, f"the image is of mode {image.mode}, not RGB; convert it first")
            return np.array(image)
    except Image.DecompressionBombError:
        raise HTTPException(413, _too_large("far too many pixels", most)) from None
    except UNREADABLE:
        raise HTTPException(422, f"the body is not a readable image; send a {', '.join(FORMATS)} file") from None


def _too_large(size: str, most: int) -> str:
    return f"the image has {size}, at most {most:,} pixels are taken; scale it down first"


def announced_bytes(request: Request) -> int:
    """How many bytes the body of a request may have, known before it is read: `MAX_BYTES` where the client is silent.

    Raises:
        HTTPException: 413 for more than `MAX_BYTES`, 415 for another content type than image/....
    """
    kind = request.headers.get("content-type", "")
    if not kind.startswith("image/"):
        raise HTTPException(
            415, f"the content type is {kind or 'missing'}; send the file's bytes as image/jpeg or image/png"
        )
    length = request.headers.get("content-length", "")
    size = int(length) if length.isdecimal() else MAX_BYTES
    if size > MAX_BYTES:
        raise _too_many_bytes()
    return size


async def read_body(request: Request) -> bytes:
    """The body of a request, never more than `MAX_BYTES` of it in memory.

    Raises:
        HTTPException: 413 for a larger body, 408 for one that takes longer than `UPLOAD_S`, 400 for one cut short.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(UPLOAD_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise _too_many_bytes()
    except TimeoutError:
        raise HTTPException(408, f"the image did not arrive within {UPLOAD_S} s; send a smaller file") from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection was closed before the whole image had arrived") from None
    return bytes(body)


def _too_many_bytes() -> HTTPException:
    return HTTPException(413, f"the file is larger than {MAX_BYTES // 2**20} MiB; scale or compress the image")


class Admission:
    """What is held at the same time; used by the event loop alone."""

    def __init__(self) -> None:
        self.requests = self.bytes = 0

    @contextmanager
    def admit(self, size: int) -> Iterator[None]:
        """Hold a request with a body of up to `size` bytes.

        Raises:
            HTTPException: 503, there are too many already.
        """
        if self.requests >= MAX_REQUESTS or self.bytes + size > MAX_HELD:
            raise HTTPException(
                503, f"{self.requests} images wait already; send this one again later", {"Retry-After": "2"}
            )
        self.requests += 1
        self.bytes += size
        try:
            yield
        finally:
            self.requests -= 1
            self.bytes -= size


def make_app(segmenter: Segmenter) -> FastAPI:
    """The application that serves one model."""
    app = FastAPI(title="wsss", docs_url=None, redoc_url=None)
    one_at_a_time = ThreadPoolExecutor(1, "segment")
    admission = Admission()

    def mask(data: bytes) -> bytes:
        most = min(MAX_PIXELS, MAX_SCORES // len(segmenter.classes.with_background))
        return encode_palette_png(segmenter(decode(data, most)))

    # Handlers are coroutines: a plain function would wait for a free thread of the framework's pool.
    @app.post("/segment", response_class=Response)
    async def segment(request: Request) -> Response:
        with admission.admit(announced_bytes(request)):
            body = await read_body(request)
            png = await asyncio.get_running_loop().run_in_executor(one_at_a_time, mask, body)
        return Response(png, media_type="image/png", headers={VERSION_HEADER: segmenter.version})

    @app.get("/classes")
    async def classes() -> list[dict[str, object]]:
        colours = palette().tolist()
        names = segmenter.classes.with_background
        return [{"index": index, "name": name, "colour": colours[index]} for index, name in enumerate(names)]

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": segmenter.version}

    return app


def serve(segmenter: Segmenter, host: str, port: int) -> None:
    """Serve until the process is told to stop; the address is printed once it is bound.

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
    print(f"serving {segmenter.version} on http://{shown}:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(make_app(segmenter), log_level="warning")).run(sockets=[listener])
