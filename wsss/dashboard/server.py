"""Serving the dashboard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import uvicorn

from wsss.dashboard.app import make_app
from wsss.dashboard.page import Context
from wsss.dashboard.sessions import Sessions
from wsss.progress import say
from wsss.serving.connections import listen
from wsss.serving.keys import ApiKeys

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(context: Context, host: str, port: int, keys: Path | None = None, names: Sequence[str] = ()) -> None:
    """Serve until the process is told to stop; the address is printed once it is bound.

    Args:
        context: what the pages read.
        host: the address to listen on.
        port: 0 for a free one.
        keys: a file of the keys of which one is asked for; None for none.
        names: more names under which it may be asked for.

    Raises:
        UserError: the address can't be bound, the keys can't be read, or the tracking store can't be used.
    """
    sessions = Sessions(ApiKeys.read(keys)) if keys else None
    context.reading.listing()
    listener, url = listen(host, port)
    # On loopback alone, a page from elsewhere must not reach it under a name that it made point here.
    own = (*_LOOPBACK, host) if host in _LOOPBACK or names else ()
    hosts = frozenset((*own, *names))
    if host not in _LOOPBACK and sessions is None:
        say(f"whoever reaches {host} may look at all runs and images; --api-keys FILE asks for a key")
    config = uvicorn.Config(
        make_app(context, hosts, sessions=sessions), log_level="warning", ws="none", server_header=False
    )
    print(f"the dashboard is on {url}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])
