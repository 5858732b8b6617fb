"""What the viewer fetches: photographs, masks and the maps of runs, by addresses that lead nowhere else.

/files/data/DATASET/image/ID     JPEG of the photograph as training reads it
/files/data/DATASET/mask/ID      8-bit grey PNG of class indices
/files/runs/RUN/maps/WHAT/ID     8-bit grey PNG, see `wsss.tracking.maps`
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request, Response
from PIL import Image

from wsss.dashboard.page import Context
from wsss.errors import UserError
from wsss.scores import Masks
from wsss.tracking.maps import grey_png

QUALITY = 92
_RUN, _WHAT = re.compile("[0-9a-f]{32}"), re.compile(r"\w[\w.-]*")
_MINUTE, _DAY = 60, 86400


def add_routes(server: FastAPI, context: Context) -> None:
    """Have a server answer the addresses of files; what it does not have is a sentence with 404."""
    reading = context.reading

    @server.get("/files/data/{dataset}/image/{image_id:path}")
    def image(dataset: str, image_id: str, request: Request) -> Response:
        with _missing():
            opened = reading.dataset(dataset)
            path = opened.image_path(image_id)
            tag = f'W/"{opened.digest[:32]}"' if opened.address else _tag_of(path)
            if kept := _kept(request, tag, _MINUTE):
                return kept
            file = io.BytesIO()
            Image.fromarray(opened.image(image_id)).save(file, "JPEG", quality=QUALITY, subsampling=0)
            return _answer(file.getvalue(), "image/jpeg", tag, _MINUTE)

    @server.get("/files/data/{dataset}/mask/{image_id:path}")
    def mask(dataset: str, image_id: str, request: Request) -> Response:
        with _missing():
            opened = reading.dataset(dataset)
            opened.image_path(image_id)
            masks = Masks(opened)
            path = masks.path(image_id)
            if path is None:
                raise UserError(f"image {image_id} of dataset {dataset} has no mask")
            if kept := _kept(request, tag := _tag_of(path), _MINUTE):
                return kept
            return _answer(grey_png(masks.read(image_id)), "image/png", tag, _MINUTE)

    @server.get("/files/runs/{run}/maps/{what}/{image_id:path}")
    def maps(run: str, what: str, image_id: str, request: Request) -> Response:
        with _missing():
            if not _RUN.fullmatch(run) or not _WHAT.fullmatch(what):
                raise UserError(f"there are no maps {what} of a run {run}")
            png = reading.maps(run, what).png(image_id)
            tag = f'W/"{hashlib.sha256(png).hexdigest()[:32]}"'
            return _kept(request, tag, _DAY) or _answer(png, "image/png", tag, _DAY)


@contextmanager
def _missing() -> Iterator[None]:
    """What is not here is a sentence with 404."""
    try:
        yield
    except UserError as error:
        raise HTTPException(404, str(error)) from None


def _tag_of(path: Path) -> str:
    """What changes with a file.

    Raises:
        UserError: it is gone.
    """
    try:
        stat = path.stat()
    except OSError:
        raise UserError(f"{path} is gone") from None
    return f'W/"{stat.st_mtime_ns:x}-{stat.st_size:x}"'


def _headers(tag: str, seconds: int) -> dict[str, str]:
    return {"ETag": tag, "Cache-Control": f"private, max-age={seconds}"}


def _kept(request: Request, tag: str, seconds: int) -> Response | None:
    """The answer to a browser that has it already; None for one that has not."""
    if request.headers.get("if-none-match") != tag:
        return None
    return Response(status_code=304, headers=_headers(tag, seconds))


def _answer(content: bytes, kind: str, tag: str, seconds: int) -> Response:
    return Response(content, media_type=kind, headers=_headers(tag, seconds))
