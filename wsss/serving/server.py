"""The HTTP server: the bytes of an image in, its label map as a palette PNG of the same size out.

    POST /segment   body: a JPEG, PNG, WebP, BMP or TIFF, Content-Type: image/...; the answer names X-Model-Version
    GET  /classes   the classes with their label-map index and colour
    GET  /health    {"status": "ok", "model": ...}

Refusals are 4xx with {"detail": "one sentence"}. Images are labelled one at a time.
"""

from __future__ import annotations

import io
import socket
import threading

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from PIL import Image

from wsss.classes import palette
from wsss.data.images import UNREADABLE
from wsss.data.label_maps import encode_palette_png
from wsss.errors import UserError
from wsss.serving.package import Segmenter

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 16 * 2**20
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
VERSION_HEADER = "X-Model-Version"


def decode(data: bytes) -> np.ndarray:
    """An uploaded image as uint8 H x W x 3; pixels as stored, an EXIF orientation is not applied.

    Raises:
        HTTPException: 413 for more than `MAX_PIXELS` (known from the header, before anything is unpacked), 422 for
            bytes that are no image of a known format, a damaged image, or one that is not RGB.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise HTTPException(413, _too_large(f"{image.width} x {image.height} px"))
            if image.mode != "RGB":
                raise HTTPException(422, f"the image is of mode {image.mode}, not RGB; convert it first")
            return np.array(image)
    except Image.DecompressionBombError:
        raise HTTPException(413, _too_large("far too many pixels")) from None
    except UNREADABLE:
        raise HTTPException(422, f"the body is not a readable image; send a {', '.join(FORMATS)} file") from None


def _too_large(size: str) -> str:
    return f"the image has {size}, at most {MAX_PIXELS:,} pixels are taken; scale it down first"


async def read_body(request: Request) -> bytes:
    """The body of a request, never more than `MAX_BYTES` of it in memory.

    Raises:
        HTTPException: 413 for a larger body, 415 for another content type than image/....
    """
    kind = request.headers.get("content-type", "")
    if not kind.startswith("image/"):
        raise HTTPException(
            415, f"the content type is {kind or 'missing'}; send the file's bytes as image/jpeg or image/png"
        )
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise HTTPException(413, f"the file is larger than {MAX_BYTES // 2**20} MiB; scale or compress the image")
    return bytes(body)


def make_app(segmenter: Segmenter) -> FastAPI:
    """The application that serves one model."""
    app = FastAPI(title="wsss", docs_url=None, redoc_url=None)
    one_at_a_time = threading.Lock()

    def mask(data: bytes) -> bytes:
        image = decode(data)
        with one_at_a_time:
            return encode_palette_png(segmenter(image))

    @app.post("/segment", response_class=Response)
    async def segment(request: Request) -> Response:
        png = await run_in_threadpool(mask, await read_body(request))
        return Response(png, media_type="image/png", headers={VERSION_HEADER: segmenter.version})

    @app.get("/classes")
    def classes() -> list[dict[str, object]]:
        colours = palette().tolist()
        names = segmenter.classes.with_background
        return [{"index": index, "name": name, "colour": colours[index]} for index, name in enumerate(names)]

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok", "model": segmenter.version}

    return app


def serve(segmenter: Segmenter, host: str, port: int) -> None:
    """Serve until the process is told to stop; the address is printed once it is bound.

    Raises:
        UserError: the address can't be bound.
    """
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(
            f"can't listen on {host} port {port}: {error.strerror}; choose another --host or --port"
        ) from None
    shown = f"[{host}]" if ":" in host else host
    print(f"serving {segmenter.version} on http://{shown}:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(make_app(segmenter), log_level="warning")).run(sockets=[listener])
