"""What the server answers to GET: about itself, its model and its figures, and the page to drop a picture on.

The page is one file, with nothing from elsewhere, and a browser is told to allow nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import JSONResponse

from wsss.classes import palette
from wsss.git import VERSION
from wsss.serving import openapi
from wsss.serving.service import MaskService

PATHS = ("/classes", "/health", "/ready", "/version", "/metrics", "/shadow")
_METRICS = "text/plain; version=0.0.4; charset=utf-8"
_PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")


def _hash(tag: str) -> str:
    """What allows the one element of this kind that the page has."""
    content = re.findall(f"<{tag}>(.*?)</{tag}>", _PAGE, re.DOTALL)[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


_PAGE_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hash('script')}; style-src {_hash('style')}; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


Handler = Callable[[], Awaitable[object]]


def _get(app: FastAPI, path: str) -> Callable[[Handler], Handler]:
    """Registers what answers GET and HEAD."""

    def register(answer: Handler) -> Handler:
        app.head(path, include_in_schema=False)(answer)
        kind = Response if path == "/metrics" else JSONResponse
        return app.get(path, responses=openapi.REFUSED | openapi.MORE.get(path, {}), response_class=kind)(answer)

    return register


def add_pages(app: FastAPI, service: MaskService) -> None:
    """Have an application answer `PATHS` and /."""

    @_get(app, "/classes")
    async def classes() -> list[dict[str, object]]:
        colours = palette().tolist()
        known = service.current.segmenter.classes
        pairs = zip(known.indices, known.occurring, strict=True)
        return [{"index": index, "name": name, "colour": colours[index]} for index, name in pairs]

    @_get(app, "/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": service.current.name}

    @_get(app, "/ready")
    async def ready() -> dict[str, str]:
        if not service.batcher.alive:
            raise HTTPException(
                503, "the thread of the network has ended; start the server again", {"Retry-After": "10"}
            )
        return {"status": "ready", "model": service.current.name}

    @_get(app, "/version")
    async def versions() -> dict[str, str]:
        return {"model": service.current.name, "wsss": VERSION}

    @_get(app, "/metrics")
    async def metrics() -> Response:
        service.metrics.held.set(service.admission.requests)
        service.metrics.waiting.set(service.batcher.waiting)
        return Response(service.metrics.text(), media_type=_METRICS)

    @_get(app, "/shadow")
    async def shadow() -> dict[str, object]:
        if service.shadow is None:
            raise HTTPException(404, "no challenger answers here; start the server with --shadow challenger:0.1")
        return service.shadow.report()

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(_PAGE, media_type="text/html", headers=_PAGE_HEADERS)
