"""The application: its frame, its pages by address, and what every answer of it says to a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from dash import Dash, Input, Output, dcc, html, set_props
from dash.development.base_component import Component
from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp

from wsss.dashboard import ablations, leaderboard, lineage, searches
from wsss.dashboard.guard import Guard
from wsss.dashboard.page import ADDRESS, PAGE, PROBLEM, Context, Page, aria, problem, threaded
from wsss.errors import UserError
from wsss.git import VERSION

PAGES: tuple[Page, ...] = (leaderboard.PAGE, searches.PAGE, ablations.PAGE, lineage.PAGE)
"""In the order of the navigation."""
_ASSETS = Path(__file__).with_name("assets")


def make_app(context: Context, hosts: frozenset[str] = frozenset(), pages: tuple[Page, ...] = PAGES) -> ASGIApp:
    """The dashboard as an ASGI application.

    Args:
        context: what the pages read.
        hosts: the names under which it may be asked for; empty for any.
        pages: that it has.
    """
    server: Any = FastAPI(title="wsss dashboard", version=VERSION, docs_url=None, redoc_url=None, openapi_url=None)
    app = Dash(
        "wsss.dashboard",
        server=server,
        title="wsss",
        update_title="",
        assets_folder=str(_ASSETS),
        suppress_callback_exceptions=True,
        on_error=_told,
    )
    # Else every page keeps asking for a connection that no callback uses.
    app.backend.websocket_capability = False
    app.layout = _frame(pages)
    by_path = {page.path: page for page in pages}

    def show(path: str, query: str | None) -> Component:
        page = by_path.get(path or "/")
        if page is None:
            return problem(f"There is no page {path}; there are {', '.join(by_path)}.")
        try:
            return page.layout(context, dict(parse_qsl((query or "").removeprefix("?"))))
        except UserError as error:
            return problem(str(error))

    app.callback(Output(PAGE, "children"), Input(ADDRESS, "pathname"), Input(ADDRESS, "search"))(threaded(show))
    for page in pages:
        page.callbacks(app, context)
    # Dash finds the assets when "/" is asked for, and another page may be the first one.
    app._setup_server()
    # The hashes are those of the inline scripts, which the callbacks of the pages are among.
    return Guard(GZipMiddleware(server, compresslevel=4), frozenset(by_path), app.csp_hashes(), hosts)


def _frame(pages: tuple[Page, ...]) -> Component:
    links = [dcc.Link(page.title, href=page.path, className="page-link") for page in pages]
    return html.Div(
        [
            dcc.Location(id=ADDRESS, refresh="callback-nav"),
            html.Header([html.Span("wsss", className="brand"), html.Nav(links, **aria(label="Pages"))]),
            html.Div(id=PROBLEM, **aria(live="polite")),
            html.Main(id=PAGE),
        ]
    )


def _told(error: Exception) -> Any:
    """What a callback could not do, said above the page; what stands there stays."""
    if not isinstance(error, UserError):
        raise error
    set_props(PROBLEM, {"children": problem(str(error))})
