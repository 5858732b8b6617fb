"""Answers that are compressed: scripts once and well, the rest each time and quickly."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass, field
from hashlib import sha256

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SCRIPTS = ("/_dash-component-suites/", "/assets/")
_VERSIONED = re.compile(r"\.v\d[\w]*m\d+\.|\?m=\d")
"""In an address that says its version: Dash's and ours do, but for the parts that Dash's own scripts ask for later."""
_FOREVER, _ASK = "public, max-age=31536000, immutable", "no-cache"
_MOST = 200
"""Scripts that are kept in memory; there are about thirty."""


@dataclass
class _Answer:
    """An answer that is caught on its way: the message with its head, and the bytes of its body."""

    head: Message = field(default_factory=dict)
    body: bytes = b""


class Squeezed:
    """An application whose answers are compressed for browsers that take it.

    Scripts and styles do not change while the process lives, so that what was compressed stays in memory. In browsers
    it stays where its address says its version, and else is asked for by its tag.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app, self._quickly = app, GZipMiddleware(app, compresslevel=4)
        self._kept: dict[str, _Answer] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        is_script = scope["type"] == "http" and scope["method"] == "GET" and scope["path"].startswith(_SCRIPTS)
        if not is_script or "gzip" not in Headers(scope=scope).get("accept-encoding", ""):
            await self._quickly(scope, receive, send)
            return
        key = f"{scope['path']}?{scope['query_string'].decode('latin-1')}"
        if key not in self._kept:
            answer = await self._compressed(scope, receive, key)
            if answer.head["status"] != 200:
                await send(answer.head)
                await send({"type": "http.response.body", "body": answer.body})
                return
            if len(self._kept) >= _MOST:
                self._kept.clear()
            self._kept[key] = answer
        kept = self._kept[key]
        headers = list(kept.head["headers"])
        if Headers(scope=scope).get("if-none-match") == Headers(raw=headers)["etag"]:
            bare = [(name, value) for name, value in headers if name not in (b"content-length", b"content-encoding")]
            await send({"type": "http.response.start", "status": 304, "headers": bare})
            await send({"type": "http.response.body", "body": b""})
            return
        await send({**kept.head, "headers": headers})
        await send({"type": "http.response.body", "body": kept.body})

    async def _compressed(self, scope: Scope, receive: Receive, key: str) -> _Answer:
        answer = _Answer()

        async def catch(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.head = message
            else:
                answer.body += message.get("body", b"")

        await self._app(scope, receive, catch)
        if answer.head["status"] == 200:
            answer.body = gzip.compress(answer.body, 9, mtime=0)
            headers = MutableHeaders(scope=answer.head)
            headers["Content-Encoding"] = "gzip"
            headers["Content-Length"] = str(len(answer.body))
            headers["Vary"] = "Accept-Encoding"
            headers["Cache-Control"] = _FOREVER if _VERSIONED.search(key) else _ASK
            headers["ETag"] = f'"{sha256(answer.body).hexdigest()[:32]}"'
        return answer
