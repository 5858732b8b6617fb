"""What a page of the dashboard is, and what pages are made of."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from dash import Dash, Input, html
from dash.development.base_component import Component
from fastapi import FastAPI

from wsss.commands import command

if TYPE_CHECKING:
    from wsss.dashboard.reading import Reading

ADDRESS, PAGE, PROBLEM, VERSION = "address", "page", "problem", "version"
"""Ids of the frame: the browser's address, what stands on the page, the sentence of what went wrong, and a `dcc.Store`
whose "data" is another number after each reading of the store that found something new. A callback that has one of
them as its input has no other: that would be missing on other pages, which Dash takes for an error. One that follows
the version also runs when its page appears: what was read meanwhile would be missed."""
State = Mapping[str, str]
"""What an address says after its question mark."""


@dataclass(frozen=True)
class Context:
    """What pages read, and what they may do.

    Attributes:
        reading: of the tracking store.
        promotes: whether promotion and rollback are offered.
        server: the address of a `wsss serve`, whose challenger is shown; empty for none.
    """

    reading: Reading
    promotes: bool = False
    server: str = ""


@dataclass(frozen=True)
class Page:
    """A page, with an address that shows the same to whom it is sent.

    Attributes:
        path: such as "/compare".
        title: in the navigation and of the window.
        layout: from the context and the address to what stands on it. A `UserError` becomes the page.
        callbacks: registers the page's callbacks once, when the application is made.
        routes: adds what is asked for beside the page, below /files/, once; a `UserError` there is a text, status 400.
    """

    path: str
    title: str
    layout: Callable[[Context, State], Component]
    callbacks: Callable[[Dash, Context], None] = lambda app, context: None
    routes: Callable[[FastAPI, Context], None] = lambda server, context: None


def address(path: str, **state: object) -> str:
    """The address of a page in a state; what is empty or None is left out, lists are joined by commas."""
    said = {
        key: ",".join(map(str, value)) if isinstance(value, list | tuple) else value for key, value in state.items()
    }
    query = urlencode({key: str(value) for key, value in said.items() if value not in (None, "")}, safe=",/:")
    return f"{path}?{query}" if query else path


def listed(state: State, key: str) -> list[str]:
    """A list in an address, which `address` joined."""
    return [part for part in state.get(key, "").split(",") if part]


def keep_address(app: Dash, path: str, **values: Input) -> None:
    """Keep a page's address true: whenever one of the values changes, it is written there, and nothing is loaded.

    Args:
        app: the application.
        path: of the page.
        values: key in the address to the property that has its value.
    """
    write = f"(...values) => dash_clientside.wsss.keep({json.dumps(path)}, {json.dumps(list(values))}, values)"
    app.clientside_callback(write, *values.values())


def threaded(read: Callable[..., Any]) -> Callable[..., Any]:
    """A callback that waits for the disk or the network, beside the server's loop."""

    @wraps(read)
    async def beside(*arguments: Any) -> Any:
        return await asyncio.to_thread(read, *arguments)

    return beside


def aria(**said: str) -> Any:
    """Attributes for screen readers: `**aria(label="Pages")` is aria-label="Pages"."""
    return {f"aria-{name}": text for name, text in said.items()}


def field(label: str, control_id: str, control: Component) -> Component:
    """A control with its label."""
    return html.Label([html.Span(label), control], className="field", htmlFor=control_id)


def empty(said: str, *words: str) -> Component:
    """A page without anything on it yet: what is missing, and the command that makes it."""
    return html.Div([html.P(said), html.Pre(command(*words), tabIndex=0)], className="empty")


def problem(said: str) -> Component:
    """What went wrong, in a sentence."""
    return html.P(said, className="problem", role="alert")
