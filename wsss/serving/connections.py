"""Connections to the server: how many there are, and how long one may do nothing.

uvicorn bounds neither: a client that connects and says nothing, or does not take its answer, holds a connection for
ever, and where there are no more descriptors nobody is answered, health checks included.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import cast

from uvicorn.protocols.http.h11_impl import H11Protocol

from wsss.errors import UserError

MAX_CONNECTIONS = 512
CHECK_S = 20
"""A client on whom the server has waited at two checks in turn is let go; not less than `uploads.DRAIN_S`."""


class BoundedConnection(H11Protocol):
    """A connection that makes room where there are too many, and ends where its client does nothing."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let go of the connection that has waited longest for its client if there are too many, or else of this."""
        super().connection_made(transport)
        # asyncio sets it for sockets made with the number of TCP alone. Without it, an answer's body waits for its
        # client to have acknowledged the head, 40 ms where requests follow each other.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._since, self._waited_in = self.loop.time(), cast(object, self)
        if len(self.connections) > MAX_CONNECTIONS:
            others = [other for other in self.connections if isinstance(other, BoundedConnection) and other is not self]
            idle = [other for other in others if other._waits_for_client()]
            if not idle:
                transport.write(_refusal())
                transport.close()
                return
            min(idle, key=lambda other: other._since).transport.abort()
        self.loop.call_later(CHECK_S, self._check)

    def _waits_for_client(self) -> bool:
        """For a request or for an answer to be taken; bodies that are read have limits of their own."""
        return self.cycle is None or self.cycle.response_started

    def _check(self) -> None:
        if self.transport.is_closing():
            return
        if self._waits_for_client() and self._waited_in is self.cycle:
            self.transport.abort()
            return
        self._waited_in = self.cycle if self._waits_for_client() else self
        self.loop.call_later(CHECK_S, self._check)


def _refusal() -> bytes:
    detail = f"there are {MAX_CONNECTIONS} connections already; send this again later"
    body = json.dumps({"detail": detail}).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 2\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def listen(host: str, port: int) -> tuple[socket.socket, str]:
    """A socket that listens, and its URL.

    Args:
        host: the address to listen on.
        port: 0 for a free one.

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
    return listener, f"http://{shown}:{listener.getsockname()[1]}"
