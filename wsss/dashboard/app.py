"""The application: its frame, its pages by address, and what every answer of it says to a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import dash_ag_grid  # noqa: F401 - its scripts stand in the page from the beginning
import pandas  # noqa: F401 - plotly looks into it as soon as another thread has begun to import it
import PIL.Image  # noqa: F401 - the same
from dash import Dash, Input, Output, State, dcc, html, no_update, set_props
from dash.development.base_component import Component
from dash.exceptions import DependencyException
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from starlette.types import ASGIApp

from wsss.dashboard import lineage
from wsss.dashboard.compare import page as compare
from wsss.dashboard.data import page as data
from wsss.dashboard.guard import Guard
from wsss.dashboard.leaderboard import page as leaderboard
from wsss.dashboard.masks import page as masks
from wsss.dashboard.page import ADDRESS, PAGE, PROBLEM, VERSION, Context, Page, aria, problem, threaded
from wsss.dashboard.registry import page as registry
from wsss.dashboard.searches import ablations
from wsss.dashboard.searches import page as searches
from wsss.dashboard.sessions import Sessions
from wsss.dashboard.squeezed import Squeezed
from wsss.errors import UserError
from wsss.git import VERSION as RELEASE

PAGES: tuple[Page, ...] = (
    leaderboard.PAGE,
    compare.PAGE,
    masks.PAGE,
    searches.PAGE,
    ablations.PAGE,
    lineage.PAGE,
    registry.PAGE,
    data.PAGE,
)
"""In the order of the navigation."""
EVERY_S = 3
"""Seconds between two questions of an open page whether there is something new."""
_ASSETS = Path(__file__).with_name("assets")
_THEMES = {"system": "as the system", "light": "light", "dark": "dark"}
_PALETTES = {"voc": "VOC's", "distinct": "for all eyes"}


class _Dash(Dash):
    def interpolate_index(self, **parts: str) -> str:  # type: ignore[override]
        """The page's HTML, without the scripts of a table that no page uses."""
        parts["scripts"] = "\n".join(line for line in parts["scripts"].splitlines() if "/dash_table/" not in line)
        return super().interpolate_index(**parts).replace("<html>", '<html lang="en">', 1)


def make_app(
    context: Context,
    hosts: frozenset[str] = frozenset(),
    pages: tuple[Page, ...] = PAGES,
    sessions: Sessions | None = None,
) -> ASGIApp:
    """The dashboard as an ASGI application.

    Args:
        context: what the pages read.
        hosts: the names under which it may be asked for; empty for any.
        pages: that it has.
        sessions: of those who brought a key; None where nobody needs one.
    """
    server: Any = FastAPI(title="dashboard", version=RELEASE, docs_url=None, redoc_url=None, openapi_url=None)
    server.add_exception_handler(UserError, lambda request, error: PlainTextResponse(f"{error}\n", 400))
    server.add_exception_handler(DependencyException, lambda request, error: PlainTextResponse("no such script\n", 404))
    for page in pages:
        page.routes(server, context)
    # Dash answers whatever is left with its pages.
    server.add_api_route("/files/{rest:path}", lambda rest: PlainTextResponse(f"there is no file {rest}\n", 404))
    app = _Dash(
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

    def show(path: str, query: str | None) -> tuple[Component, Any]:
        page = by_path.get(path or "/")
        if page is None:
            return problem(f"There is no page {path}; there are {', '.join(by_path)}."), None
        try:
            return page.layout(context, dict(parse_qsl((query or "").removeprefix("?")))), None
        except UserError as error:
            return problem(str(error)), None

    shown = (Output(PAGE, "children"), Output(PROBLEM, "children"))
    app.callback(*shown, Input(ADDRESS, "pathname"), Input(ADDRESS, "search"))(threaded(show))

    def stand(asked: int, said: str | None, version: int | None) -> tuple[Any, Any]:
        now, sentence = context.reading.version, context.reading.said
        return no_update if sentence == said else sentence, no_update if now == version else now

    standing = (Output("standing", "children"), Output(VERSION, "data"))
    before = (State("standing", "children"), State(VERSION, "data"))
    app.callback(*standing, Input("tick", "n_intervals"), *before)(threaded(stand))
    titles = ", ".join(f"{page.path!r}: {page.title!r}" for page in pages)
    app.clientside_callback(
        f"path => dash_clientside.wsss.arrive(path, {{{titles}}})",
        Output("arrived", "data"),
        Input(ADDRESS, "pathname"),
    )
    app.clientside_callback(
        "(theme, palette) => dash_clientside.wsss.look(theme, palette)",
        Output("looked", "data"),
        Input("theme", "value"),
        Input("palette", "value"),
    )
    for page in pages:
        page.callbacks(app, context)
    # Dash looks for its assets when "/" is first asked for: whoever opened another page before would get none.
    app._setup_server()
    # The hashes are those of the inline scripts, which the callbacks of the pages are among.
    return Guard(Squeezed(server), frozenset(by_path), app.csp_hashes(), hosts, sessions)


def _frame(pages: tuple[Page, ...]) -> Component:
    links = [dcc.Link(page.title, href=page.path, className="page-link") for page in pages]
    return html.Div([
        dcc.Location(id=ADDRESS, refresh="callback-nav"),
        dcc.Interval(id="tick", interval=1000 * EVERY_S),
        dcc.Store(id=VERSION), dcc.Store(id="arrived"), dcc.Store(id="looked"),
        html.A("Skip to the page", href=f"#{PAGE}", className="skip"),
        html.Header([
            html.Span("wsss", className="brand"),
            html.Nav(links, **aria(label="Pages")),
            html.Details([html.Summary("Display"), html.Div([
                _radio("theme", "Theme", _THEMES), _radio("palette", "Colours of classes", _PALETTES),
            ])], className="look"),
        ]),
        html.P(id="standing", className="standing", role="status"),
        html.Div(id=PROBLEM, **aria(live="polite")),
        html.Main(id=PAGE, tabIndex="-1"),
    ])  # fmt: skip


def _radio(name: str, label: str, choices: dict[str, str]) -> Component:
    """A choice that the browser keeps."""
    options = [{"label": text, "value": value} for value, text in choices.items()]
    items = dcc.RadioItems(options, next(iter(choices)), id=name, persistence=True, persistence_type="local")
    return html.Fieldset([html.Legend(label), items])


def _told(error: Exception) -> Any:
    """What a callback could not do, said above the page; what stands there stays."""
    if not isinstance(error, UserError):
        raise error
    set_props(PROBLEM, {"children": problem(str(error))})
