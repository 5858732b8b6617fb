"""`wsss dashboard`: the pages for comparing."""

from __future__ import annotations

from typing import Annotated

import typer


def dashboard(
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8050,
) -> None:
    """Pages to compare runs: which method wins, where, and why."""
    from wsss.dashboard.page import Context
    from wsss.dashboard.reading import Reading
    from wsss.dashboard.server import serve

    serve(Context(Reading()), host, port)
