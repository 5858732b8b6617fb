"""Who may look, where keys are asked for: a page that takes one, and the cookie that stands for it afterwards."""

from __future__ import annotations

import hmac
import secrets
import time
from hashlib import sha256
from html import escape
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from wsss.serving.keys import ApiKeys

ENTER = "/enter"
"""The path that takes a key."""
COOKIE = "wsss"
LASTS_S = 30 * 24 * 3600
_LONGEST = 4096
"""Bytes of what is sent to `ENTER`."""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>wsss: a key, please</title><link rel="stylesheet" href="/assets/wsss.css"></head>
<body><main class="enter"><h1>This dashboard asks for a key</h1>{said}
<form method="post" action="/enter"><input type="hidden" name="to" value="{to}">
<label class="field">key <input type="password" name="key" autocomplete="current-password" autofocus required></label>
<button>enter</button></form></main></body></html>
"""
_AGAIN = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0"><title>wsss</title>'


class Sessions:
    """Sessions of those who brought a key. They end with the process, whose secret signs them.

    Args:
        keys: that are taken.
    """

    def __init__(self, keys: ApiKeys) -> None:
        self._keys, self._secret = keys, secrets.token_bytes(32)

    def has(self, request: Request) -> bool:
        """Whether a request comes with a session, or with a key in its headers as programs bring it."""
        until, _, signature = request.cookies.get(COOKIE, "").partition(".")
        if until.isascii() and until.isdigit() and hmac.compare_digest(self._sign(until), signature.encode()):
            return int(until) > time.time()
        return self._keys.holds(ApiKeys.brought(request))

    def ask(self, request: Request) -> Response:
        """The answer to who has no session: the page that takes a key, or a sentence for programs."""
        if "text/html" not in request.headers.get("accept", ""):
            sentence = "this dashboard asks for a key: open it in a browser, or send Authorization: Bearer KEY"
            return JSONResponse({"detail": sentence}, 401, {"WWW-Authenticate": "Bearer"})
        # A browser that follows a link from elsewhere leaves the cookie out; it brings it when the page itself asks.
        if request.headers.get("sec-fetch-site") == "cross-site" and request.method == "GET":
            return HTMLResponse(_AGAIN)
        query = f"?{request.url.query}" if request.url.query else ""
        return _page(f"{request.url.path}{query}")

    async def enter(self, request: Request) -> Response:
        """Take a key: a session and the way back, or the page once more."""
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _LONGEST:
                return JSONResponse({"detail": "that is no key"}, 413)
        sent = parse_qs(body.decode("utf-8", "replace"))
        key, to = sent.get("key", [""])[0].strip(), sent.get("to", ["/"])[0]
        if not self._keys.holds(key):
            return _page(to, '<p class="problem" role="alert">That is none of its keys.</p>')
        until = str(int(time.time()) + LASTS_S)
        # Not "//elsewhere", which is another host's address.
        answer = RedirectResponse(to if to.startswith("/") and not to.startswith(("//", "/\\")) else "/", 303)
        answer.set_cookie(
            COOKIE,
            f"{until}.{self._sign(until).decode()}",
            max_age=LASTS_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    def _sign(self, until: str) -> bytes:
        return hmac.new(self._secret, until.encode(), sha256).hexdigest().encode()


def _page(to: str, said: str = "") -> HTMLResponse:
    return HTMLResponse(_PAGE.format(to=escape(to), said=said), 401, {"Cache-Control": "no-store"})
