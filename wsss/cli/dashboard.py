"""`wsss dashboard`: the pages for comparing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def dashboard(
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8050,
    api_keys: Annotated[Path | None, typer.Option(metavar="FILE", help="Keys that pages ask for, one a line.")] = None,
    allow_promote: Annotated[
        bool, typer.Option("--allow-promote", help="Offer to promote and to roll back; with --api-keys alone.")
    ] = False,
    server: Annotated[str, typer.Option(metavar="URL", help="A `wsss serve` whose challenger is shown.")] = "",
    host_name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name by which it may be asked for; repeatable.")
    ] = None,
) -> None:
    """Pages to compare runs: which method wins, where, and why."""
    from wsss.dashboard.page import Context
    from wsss.dashboard.reading import Reading
    from wsss.dashboard.server import serve
    from wsss.errors import UserError

    if allow_promote and api_keys is None:
        raise UserError("--allow-promote needs --api-keys FILE: who promotes has to be known by a key")
    serve(Context(Reading(), allow_promote, server), host, port, api_keys, host_name or ())
