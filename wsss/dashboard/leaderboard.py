"""Which method wins: the runs that differ in the rng alone as one row, with what others published beside it."""

from __future__ import annotations

from dash import dcc, html
from dash.development.base_component import Component

from wsss.dashboard.page import Context, Page, State, address, empty
from wsss.tables.compare import table


def layout(context: Context, state: State) -> Component:
    """The table of methods."""
    rows = table(context.reading.runs())
    if not rows:
        return empty("No finished run yet. This makes one, from image-level tags to a model:", "wsss", "run")
    return html.Ul([html.Li(dcc.Link(row.method, href=address("/compare", runs=row.newest))) for row in rows])


PAGE = Page("/", "Leaderboard", layout)
