"""Serving the dashboard."""

from __future__ import annotations

import uvicorn

from wsss.dashboard.app import make_app
from wsss.dashboard.page import Context
from wsss.serving.connections import listen

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(context: Context, host: str, port: int) -> None:
    """Serve until the process is told to stop; the address is printed once it is bound.

    Raises:
        UserError: the address can't be bound, or the tracking store can't be used.
    """
    context.reading.runs()
    listener, url = listen(host, port)
    # On loopback alone, a page from elsewhere must not reach it under a name that it made point here.
    hosts = frozenset(_LOOPBACK) if host in _LOOPBACK else frozenset()
    config = uvicorn.Config(make_app(context, hosts), log_level="warning", ws="none", server_header=False)
    print(f"the dashboard is on {url}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])
