"""The HTTP server: the bytes of images in, label maps of their sizes out.

    POST /segment   body: an image (Content-Type: image/...) or a form with several; the answer, by Accept, is a palette
                    PNG, run lengths in JSON, or a JPEG with colours over the picture, and names X-Model-Version
    GET  /          a page to drop a picture on
    GET  /classes   the classes with their label-map index and colour
    GET  /health    {"status": "ok", "model": ...}
    GET  /ready     the same, 503 where no model can answer
    GET  /version   {"model": ..., "wsss": ...}
    GET  /metrics   figures for Prometheus
    GET  /shadow    how far the challenger disagrees, where there is one

Refusals are 4xx, or 503 with Retry-After, with {"detail": "one sentence"}. The network has a thread of its own;
everything else is answered at once, however many images wait. What waits is bounded in number and in bytes, and what
one image takes is known from its header and bounded before it is decoded.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import torch
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.routing import Match
from starlette.types import Scope

from wsss.git import VERSION
from wsss.serving import openapi
from wsss.serving.answers import JSON, chosen
from wsss.serving.connections import BoundedConnection, listen
from wsss.serving.live import Watch, has_alias, sendable
from wsss.serving.options import FUSED, Options
from wsss.serving.package import load_package
from wsss.serving.pages import PATHS, add_pages
from wsss.serving.segmenter import Segmenter
from wsss.serving.service import Answer, MaskService
from wsss.serving.uploads import TakeWholeBodies, announced_bytes, closed_early, read_body
from wsss.stream import use_own_cores

VERSION_HEADER, WARNING_HEADER = "X-Model-Version", "X-Scale-Warning"
_GRACE_S = 30


def _watches(service: MaskService, options: Options) -> list[Watch]:
    watches = []
    if options.every > 0 and has_alias(options.address):
        known = service.current.segmenter.version
        metrics = service.metrics
        metrics.registry_up.set(1)
        watches.append(
            Watch(
                options.address,
                known,
                service.take,
                options.every,
                options.device,
                settle=options.settle,
                seen=lambda up: metrics.registry_up.set(up),
                refused=metrics.refused.inc,
            )
        )
    if options.shadow and service.shadow and has_alias(options.shadow.address):
        take, every = service.shadow.take, options.every or 5.0
        watches.append(Watch(options.shadow.address, "", take, every, torch.device("cpu")))
    return watches


def _methods(app: FastAPI, scope: Scope) -> list[str]:
    """The methods that a path takes; none where there is no such path."""
    there = [route for route in app.routes if route.matches(scope)[0] is not Match.NONE]
    return sorted({method for route in there for method in getattr(route, "methods", None) or ()})


async def _no_such_request(request: Request, error: Exception) -> Response:
    """Refusals in a sentence, also those of the framework: unknown paths and methods name the known ones."""
    assert isinstance(error, AnyHTTPException)
    detail, headers = error.detail, dict(error.headers or {})
    if error.status_code == 404 and request.url.path not in PATHS:
        detail = f"there is no {request.url.path}; send an image to POST /segment, or GET {', '.join(PATHS)}"
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_methods(request.app, request.scope))
        detail = f"{request.url.path} does not take {request.method}; use {headers['Allow']}"
    return JSONResponse({"detail": detail}, error.status_code, headers)


async def _fault(request: Request, error: Exception) -> Response:
    """A fault of ours: the log has the traceback (uvicorn writes it), the client a sentence."""
    return JSONResponse({"detail": "the server failed on this request; its log says why"}, 500)


def make_app(segmenter: Segmenter, options: Options | None = None) -> FastAPI:
    """The application that serves a model, and those that take its place."""
    options = options or Options()
    if options.device.type != "cpu":
        segmenter.module.to(options.device)
    share = options.shadow.share if options.shadow else 0.0
    service = MaskService(segmenter, options.memory, options.device, share, options.runtime == FUSED)
    if options.shadow and service.shadow and not has_alias(options.shadow.address):
        service.shadow.take(load_package(options.shadow.address))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watches = _watches(service, options)
        for watch in watches:
            watch.start()
        try:
            yield
        finally:
            for watch in watches:
                watch.stop()
            service.close()

    async def check_key(request: Request) -> None:
        if options.keys:
            options.keys.check(request)

    app = FastAPI(
        title="wsss",
        version=VERSION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        dependencies=[Depends(check_key)],
    )
    app.state.service = service
    app.add_exception_handler(AnyHTTPException, _no_such_request)
    app.add_exception_handler(Exception, _fault)

    # Handlers are coroutines: a plain function would wait for a free thread of the framework's pool.
    @app.post(
        "/segment", response_class=Response, openapi_extra={"requestBody": openapi.BODY}, responses=openapi.RESPONSES
    )
    async def segment(request: Request) -> Response:
        started, status = time.perf_counter(), 500
        try:
            response = await _segment(request, service)
            status = response.status_code
            return response
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            service.metrics.requests.labels(str(status)).inc()
            service.metrics.seconds.observe(time.perf_counter() - started)

    add_pages(app, service)
    return app


async def _segment(request: Request, service: MaskService) -> Response:
    media_type = chosen(request.headers.get("accept", ""))
    with service.admission.admit(announced_bytes(request)):
        body = await read_body(request, service.turns)
        served = service.current
        waiting = asyncio.ensure_future(service.answer(body, request.headers["content-type"], media_type, served))
        # After the body, the only message is that the client has gone.
        gone = asyncio.ensure_future(request.receive())
        both: set[asyncio.Future[Any]] = {waiting, gone}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not waiting.done():
                waiting.cancel()
                await asyncio.wait([waiting])
        if waiting.cancelled():
            raise closed_early()
        answer = waiting.result()
    return _response(answer, media_type, {VERSION_HEADER: served.header}, service)


def _response(answer: Answer, media_type: str, headers: dict[str, str], service: MaskService) -> Response:
    content = answer.content
    if not isinstance(content, bytes):
        content, media_type = json.dumps(content, ensure_ascii=False).encode(), JSON
    if answer.warning:
        headers[WARNING_HEADER] = answer.warning
    shadow, background = service.shadow, None
    if shadow is not None and answer.offers:

        async def offer() -> None:
            for each in answer.offers:
                shadow.take_offer(each)

        background = BackgroundTask(offer)
    return Response(content, media_type=media_type, headers=headers, background=background)


def make_config(segmenter: Segmenter, options: Options | None = None) -> uvicorn.Config:
    """The application as it is served, its connections bounded."""
    app = make_app(segmenter, options)
    served = TakeWholeBodies(app, app.state.service.turns)
    return uvicorn.Config(
        served,
        log_level="warning",
        http=BoundedConnection,
        ws="none",
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )


def serve(segmenter: Segmenter, host: str, port: int, options: Options | None = None) -> None:
    """Serve until the process is told to stop; the address is printed once it is bound.

    Raises:
        UserError: the address can't be bound.
    """
    use_own_cores()
    listener, url = listen(host, port)
    config = make_config(segmenter, options)
    print(f"serving {sendable(segmenter.version)} on {url}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])
