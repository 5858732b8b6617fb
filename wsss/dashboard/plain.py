"""Small parts of pages: tables that a page has whole, lists of what can be chosen, figures that follow the theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component

from wsss.dashboard.page import aria

Cell = str | Component | Sequence[str | Component]


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str, numbers: Sequence[int] = ()
) -> Component:
    """A table in a box of its own that scrolls; cells are text or parts.

    Args:
        columns: their names.
        rows: the cells.
        caption: what it shows, for screen readers too.
        numbers: which columns hold numbers, from 0.
    """
    sides = ["number" if column in numbers else "" for column in range(len(columns))]
    head = html.Tr([html.Th(name, scope="col", className=side) for name, side in zip(columns, sides, strict=True)])
    body = [html.Tr([html.Td(cell, className=side) for cell, side in zip(row, sides, strict=True)]) for row in rows]
    made = html.Table([html.Caption(caption), html.Thead(head), html.Tbody(body)], className="plain")
    return html.Div(made, className="box", tabIndex=0, role="region", **aria(label=caption))


def choice(label: str, links: Mapping[str, str], chosen: str) -> Component:
    """A list of links of which one is where the page is.

    Args:
        label: what is chosen, for screen readers.
        links: name to address.
        chosen: name.
    """
    return html.Nav(
        [
            html.Span(name, className="chosen", **aria(current="page")) if name == chosen else dcc.Link(name, href=href)
            for name, href in links.items()
        ],
        className="choice",
        **aria(label=label),
    )


def named(label: str, part: Component, id: str) -> Component:
    """A part of a form with its name before it."""
    return html.Div([html.Label(label, htmlFor=id), part], className="named")


def plotly_text(text: str) -> str:
    """A foreign name as plotly shows it to the letter: it reads some HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def figure(title: str, *traces: object, height: int, **layout: object) -> go.Figure:
    """A figure without a ground of its own; the style sheet colours its text and lines as the page's."""
    made = go.Figure(list(traces))
    made.update_layout(
        title={"text": plotly_text(title), "font": {"size": 14}, "x": 0, "xanchor": "left"},
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12},
        margin={"l": 8, "r": 8, "t": 36, "b": 8},
        height=height,
        **layout,
    )
    made.update_xaxes(automargin=True, zeroline=False)
    made.update_yaxes(automargin=True, zeroline=False)
    return made


def graph(made: go.Figure, label: str) -> Component:
    """A figure on a page, in a box of its own."""
    shown = dcc.Graph(figure=made, responsive=True, config={"displaylogo": False, "displayModeBar": False})
    return html.Div(
        shown, className="figure", role="img", style={"height": f"{made.layout.height}px"}, **aria(label=label)
    )
