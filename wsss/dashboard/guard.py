"""What every answer says to a browser, and which requests are not answered: an ASGI application around another."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wsss.dashboard.sessions import ENTER, Sessions

_OURS = ("/_dash-", "/assets/", "/files/", "/_favicon.ico", "/_reload-hash")
_OPEN = ("/assets/", "/_favicon.ico")
"""What the page that asks for a key looks like."""
HEALTH = "/health"
"""Answered whoever asks, under whatever name: what watches a container has no key and knows its address alone."""


class Guard:
    """Answers known addresses alone, to its own pages alone, and lets a browser load nothing from elsewhere.

    Args:
        app: what answers.
        paths: of the pages.
        scripts: hashes of the inline scripts that its own framework writes.
        hosts: the names under which it may be asked for; empty for any.
        sessions: of those who brought a key; None where nobody needs one.
    """

    def __init__(
        self,
        app: ASGIApp,
        paths: frozenset[str],
        scripts: Sequence[str],
        hosts: frozenset[str] = frozenset(),
        sessions: Sessions | None = None,
    ) -> None:
        self._app, self._paths, self._hosts, self._sessions = app, paths, hosts, sessions
        self._policy = (
            f"default-src 'none'; script-src 'self' {' '.join(scripts)}; style-src 'self' 'unsafe-inline'; "
            "img-src 'self' data: blob:; connect-src 'self'; font-src 'self' data:; base-uri 'none'; "
            "form-action 'self'; frame-ancestors 'none'"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = self._policy
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
            await send(message)

        if scope["path"] == HEALTH and scope["method"] in ("GET", "HEAD"):
            await PlainTextResponse("ok")(scope, receive, send_guarded)
            return
        if refusal := self._refusal(scope):
            status, sentence = refusal
            await JSONResponse({"detail": sentence}, status)(scope, receive, send_guarded)
            return
        if self._sessions is not None and not scope["path"].startswith(_OPEN):
            request = Request(scope, receive)
            if scope["path"] == ENTER and scope["method"] == "POST":
                await (await self._sessions.enter(request))(scope, receive, send_guarded)
                return
            if not self._sessions.has(request):
                await self._sessions.ask(request)(scope, receive, send_guarded)
                return
        # All pages are one document: what it shows is settled in the browser, by the address.
        at_home = {**scope, "path": "/", "raw_path": b"/"} if scope["path"] in self._paths else scope
        await self._app(at_home, receive, send_guarded)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if self._hosts and host.rpartition(":")[0].strip("[]") not in self._hosts and host not in self._hosts:
            return 421, f"this dashboard does not answer for {host}; start it with --host-name {host.partition(':')[0]}"
        origin = headers.get("origin")
        if scope["method"] not in ("GET", "HEAD") and origin is not None and origin.partition("://")[2] != host:
            return 403, "only the dashboard's own pages may ask for this"
        known = path in self._paths or path.startswith(_OURS) or (self._sessions is not None and path == ENTER)
        if not known:
            return 404, f"there is no {path}; there are {', '.join(sorted(self._paths))}"
        return None
