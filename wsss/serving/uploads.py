"""Bodies on their way to the server: what may be held, for how long, and in what order it is read."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from fastapi import HTTPException, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wsss.errors import UserError
from wsss.serving.multipart import is_form

MEBIBYTES = "WSSS_UPLOAD_MIB"
MAX_BYTES = 32 * 2**20
"""Of one body, by default; WSSS_UPLOAD_MIB allows others, up to `MAX_HELD`."""
MAX_REQUESTS = 64
"""Images that are received, wait or are labelled at the same time."""
MAX_HELD = 192 * 2**20
"""Bytes of their bodies together."""
UPLOAD_S = 60
"""Within which a body has to arrive."""
STALL_S = 10
"""Within which the next piece of a body has to arrive."""
DRAIN_S = 20
"""How long a body that nobody wants is still taken, as most clients listen only when they have sent it."""


def max_bytes() -> int:
    """The bytes that a body may have: WSSS_UPLOAD_MIB, else `MAX_BYTES`.

    Raises:
        UserError: it is no number of MiB that bodies may take together.
    """
    mebibytes = limit_of(MEBIBYTES, MAX_HELD // 2**20, "MiB")
    return MAX_BYTES if mebibytes is None else int(mebibytes * 2**20)


def limit_of(variable: str, most: float, unit: str) -> float | None:
    """What a variable allows; None where it is not set.

    Raises:
        UserError: it is no number above 0 and up to `most`.
    """
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= most:
        raise UserError(f"{variable} is {text!r}; it must be a number of {unit} above 0 and up to {most:g}")
    return value


def announced_bytes(request: Request) -> int:
    """How many bytes the body of a request may have, known before it is read: `max_bytes` where the client is silent.

    Raises:
        HTTPException: 413 for more than `max_bytes`, 415 for another content type than image/... or a form.
    """
    kind = request.headers.get("content-type", "")
    if not kind.strip().lower().startswith("image/") and not is_form(kind):
        raise HTTPException(
            415,
            f"the content type is {kind[:200] or 'missing'}; send the file's bytes as image/jpeg or image/png, or a "
            "form: curl -F image=@photo.jpg",
        )
    length = request.headers.get("content-length", "")
    most = max_bytes()
    size = int(length) if length.isdecimal() else most
    if size > most:
        raise _too_many_bytes()
    return size


class Turns:
    """Lets one piece of a body be taken in each round of the event loop, so that no round is long."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def pieces(self, receive: Receive) -> AsyncIterator[Message]:
        """The messages of a request up to the end of its body, or to its client's leaving.

        Raises:
            TimeoutError: none came for `STALL_S`.
        """
        more = True
        while more:
            async with asyncio.timeout(STALL_S):
                message = await receive()
            async with self._turn:
                await asyncio.sleep(0)
            more = message.get("more_body", False)
            yield message


async def read_body(request: Request, turns: Turns) -> bytearray:
    """The body of a request, never more than `max_bytes` of it in memory.

    Raises:
        HTTPException: 413 for a larger body, 408 for one that takes longer than `UPLOAD_S` or stops for `STALL_S`, 400
            for one cut short.
    """
    body, most = bytearray(), max_bytes()
    try:
        async with asyncio.timeout(UPLOAD_S):
            async for message in turns.pieces(request.receive):
                if message["type"] == "http.disconnect":
                    raise closed_early()
                body += message.get("body", b"")
                if len(body) > most:
                    raise _too_many_bytes()
    except TimeoutError:
        sentence = f"the image did not arrive within {UPLOAD_S} s, or none of it for {STALL_S} s; send a smaller file"
        raise HTTPException(408, sentence, {"Connection": "close"}) from None
    return body


def closed_early() -> HTTPException:
    """What nobody reads: the client has gone."""
    return HTTPException(400, "the connection was closed before the whole image had arrived")


def _too_many_bytes() -> HTTPException:
    return HTTPException(
        413,
        f"the file is larger than {max_bytes() // 2**20} MiB; scale or compress the image (the server's {MEBIBYTES} "
        "allows more)",
    )


class Admission:
    """What is held at the same time; used by the event loop alone."""

    def __init__(self) -> None:
        self.requests = self.bytes = 0
        self._left = -math.inf

    def quiet(self, seconds: float) -> bool:
        """Whether nothing has been held for so long; may be asked by any thread."""
        return self.requests == 0 and time.monotonic() - self._left >= seconds

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
            self._left = time.monotonic()
            self.requests -= 1
            self.bytes -= size


class TakeWholeBodies:
    """Takes the rest of a body that was answered unread, for `DRAIN_S` at most.

    A connection that is closed with bytes unread is reset, and the client never sees why.
    """

    def __init__(self, app: ASGIApp, turns: Turns) -> None:
        self.app, self.turns = app, turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request as the application does, its last message after the body has been taken."""
        headers = dict(scope.get("headers", ()))
        unread = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        unread = unread and b"expect" not in headers

        async def received() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and bool(message.get("more_body", False))
            return message

        async def sent(message: Message) -> None:
            nonlocal unread
            if message["type"] == "http.response.start" and message["status"] == 408:
                unread = False
            if not unread or message["type"] != "http.response.body" or message.get("more_body", False):
                await send(message)
                return
            await send({**message, "more_body": True})
            try:
                async with asyncio.timeout(DRAIN_S):
                    async for _ in self.turns.pieces(received):
                        pass
            except TimeoutError:
                pass
            await send({"type": "http.response.body", "body": b""})

        await self.app(scope, received, sent)
