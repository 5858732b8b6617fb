"""Which method wins: the runs that differ in the rng alone as one row, with what others published beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dash import Dash, Input, Output, dcc, html
from dash import State as Held
from dash.development.base_component import Component
from dash_ag_grid import AgGrid
from fastapi import FastAPI, Request
from fastapi.responses import Response

from wsss.dashboard.leaderboard.ranking import EVERY, NUMBER_FILTERS, SPLITS, TEXT_FILTERS, Column, View, choices
from wsss.dashboard.page import (
    VERSION,
    Context,
    Page,
    State,
    aria,
    empty,
    field,
    keep_address,
    listed,
    threaded,
)
from wsss.dashboard.reading import Listing
from wsss.errors import unknown
from wsss.tables import compare
from wsss.tables.compare import Row

GRID = "leaderboard-grid"
_CONTROLS = ("dataset", "split", "method", "supervision")
_HELD = ("sort", "filter", "runs")
"""What the grid itself holds of the address."""
_EXPORTS = {
    "csv": (compare.render_csv, "text/csv"),
    "md": (compare.render_markdown, "text/markdown"),
    "tex": (compare.render_latex, "application/x-tex"),
}
_ROW_PX = 30
_THEME = {
    "spacing": 5,
    "rowHeight": _ROW_PX,
    "fontSize": 13,
    "fontFamily": "inherit",
    "backgroundColor": "var(--ground)",
    "foregroundColor": "var(--text)",
    "headerBackgroundColor": "var(--raised)",
    "menuBackgroundColor": "var(--ground)",
    "rowHoverColor": "var(--raised)",
    "borderColor": "var(--line)",
    "accentColor": "var(--accent)",
    "browserColorScheme": "inherit",
}
"""Of the grid, coloured by the page's variables."""
BLOCK = 100
"""Rows that the grid asks for at once."""


def layout(context: Context, state: State) -> Component:
    """The table of methods, as an address says."""
    listing = context.reading.listing()
    table = listing.table
    view = View.of({"dataset": _newest_dataset(listing), **state})
    offered = choices(table, view)
    held = {name: state.get(name) for name in _HELD} | {"runs": _picked(table, listed(state, "runs"))}
    controls: dict[str, dict[str, Any]] = {
        "dataset": {"options": offered["dataset"], "value": view.dataset, "clearable": False},
        "split": {"options": list(SPLITS), "value": view.split or None, "placeholder": "train and val"},
        "method": {"options": offered["method"], "value": list(view.methods), "multi": True, "placeholder": "all"},
        "supervision": {
            "options": offered["supervision"], "value": view.supervision or None, "placeholder": "any",
        },
    }  # fmt: skip
    return html.Div([
        html.H1("Leaderboard"),
        html.Div(id=_id("none"), children=_nothing(), hidden=bool(table)),
        html.Div(id=_id("some"), hidden=not table, children=[
            html.Div([field(name, _id(name), dcc.Dropdown(id=_id(name), **told)) for name, told in controls.items()],
                     className="bar"),
            html.Div([
                html.Span(id=_id("count"), className="quiet", **aria(live="polite")),
                html.Span("check rows to compare them", id=_id("hint"), className="quiet"),
                dcc.Link("Compare", href="/compare", id=_id("compare"), className="hidden"),
                dcc.Link("Masks", href="/masks", id=_id("masks"), className="hidden"),
                html.Span([
                    html.Span("export: ", className="quiet"),
                    *(html.A(kind, href="", id=_id(kind), download=f"leaderboard.{kind}") for kind in _EXPORTS),
                ], className="exports"),
            ], className="bar"),
            _grid(view, len(table)),
            html.Details([html.Summary("Columns, and who published what"), html.Dl(_glossary(view)),
                          html.Ul(_sources(table), id=_id("sources"))]),
        ]),
        *(dcc.Store(id=_id(name), data=data) for name, data in held.items()),
    ], className="leaderboard")  # fmt: skip


def _id(name: str) -> str:
    return f"leaderboard-{name}"


def _nothing() -> Component:
    return empty("No run yet. This makes one, from image-level tags to a model:", "wsss", "run")


def _grid(view: View, rows: int) -> Component:
    return AgGrid(
        id=GRID,
        className="grid",
        columnDefs=_definitions(view),
        rowModelType="infinite",
        getRowId="params.data.newest",
        filterModel=dict(view.filters or {}),
        defaultColDef={
            "sortingOrder": ["desc", "asc"], "resizable": True, "cellDataType": False,
            "wrapHeaderText": True, "autoHeaderHeight": True,
        },
        style={"height": f"max(19rem, min({_ROW_PX * (rows + 3)}px, calc(100vh - 13rem)))"},
        dashGridOptions={
            "theme": {"function": f"themeQuartz.withParams({json.dumps(_THEME)})"},
            "rowSelection": {"mode": "multiRow", "checkboxes": True, "headerCheckbox": False},
            "selectionColumnDef": {"pinned": "left", "width": 40},
            "cacheBlockSize": BLOCK,
            "infiniteInitialRowCount": 1,
            "maxBlocksInCache": 30,
            "blockLoadDebounceMillis": 50,
            "enableCellTextSelection": True,
            "ensureDomOrder": True,
            "tooltipShowDelay": 300,
        },
    )  # fmt: skip


def _definitions(view: View) -> list[dict[str, Any]]:
    """The columns in the grid's own words."""
    sort = {key: (number, "desc" if highest_first else "asc") for number, (key, highest_first) in enumerate(view.sort)}
    return [_definition(column, *sort.get(column.key, (None, None))) for column in view.columns()]


def _definition(column: Column, number: int | None, direction: str | None) -> dict[str, Any]:
    return {
        # A dot or a slash in a field would be a way into it.
        "colId": column.key,
        "field": _field(column.key),
        "headerName": column.head,
        "headerTooltip": column.meaning or None,
        "tooltipField": "sources" if column.key == "published" else None,
        "width": column.width,
        "pinned": "left" if column.key == "method" else None,
        "type": "rightAligned" if column.is_number else None,
        "sort": direction,
        "sortIndex": number,
        "filter": "agNumberColumnFilter" if column.is_number else "agTextColumnFilter",
        "filterParams": {
            "maxNumConditions": 1,
            "filterOptions": list(NUMBER_FILTERS if column.is_number else TEXT_FILTERS),
        },
    }


def _field(key: str) -> str:
    return key.replace("/", "_")


def _cells(row: Row, columns: Sequence[Column]) -> dict[str, str]:
    shown = {_field(column.key): column.shown(row) for column in columns}
    return shown | {"newest": row.newest, "sources": "; ".join(_source(row)) or "nothing published is known"}


def _source(row: Row) -> list[str]:
    return [f"{p.miou:.1f} {p.title}" + (f" ({p.source})" if p.source else "") for p in row.published]


def _sources(table: Sequence[Row]) -> list[Component]:
    """Who published what, of the methods there are."""
    by_method = {row.method: _source(row) for row in table if row.published}
    return [html.Li(f"{method}, mIoU on VOC 2012 val: {'; '.join(by_method[method])}") for method in sorted(by_method)]


def _glossary(view: View) -> list[Component]:
    explained = [column for column in view.columns() if column.meaning]
    return [part for column in explained for part in (html.Dt(column.head), html.Dd(column.meaning))]


def _table(context: Context) -> list[Row]:
    return context.reading.table()


def _newest_dataset(listing: Listing) -> str:
    """The dataset of the newest run; all of them while none is read."""
    return listing.runs[0].dataset if listing.runs else EVERY


def _picked(table: Sequence[Row], runs: Sequence[str]) -> list[str]:
    """The rows that hold some runs, by what the grid knows them by: an address may be older than a row's newest run."""
    return [row.newest for row in table if set(row.runs) & set(runs)] if runs else []


def _callbacks(app: Dash, context: Context) -> None:
    controls = {name: _id(name) for name in _CONTROLS}

    def rows(asked: dict[str, Any] | None, *chosen: Any) -> tuple[dict[str, Any], str]:
        said = asked or {"startRow": 0, "endRow": 0}
        view = View.of(_state(said, *chosen))
        shown = view.rows(_table(context))
        part = [_cells(row, view.columns()) for row in shown[said["startRow"] : said["endRow"]]]
        runs = sum(len(row.runs) for row in shown)
        told = f"{len(shown):,} rows of {runs:,} runs" if shown else "no row meets this choice"
        return {"rowData": part, "rowCount": len(shown)}, told

    app.callback(
        Output(GRID, "getRowsResponse"),
        Output(_id("count"), "children"),
        Input(GRID, "getRowsRequest"),
        *(Held(id, "value") for id in controls.values()),
    )(threaded(rows))

    def news(version: int, *chosen: Any) -> tuple[Any, ...]:
        table = _table(context)
        offered = choices(table, View.of(_state({}, *chosen)))
        return *offered.values(), _sources(table), bool(table), not table

    app.callback(
        *(Output(_id(name), "options") for name in ("dataset", "method", "supervision")),
        Output(_id("sources"), "children"),
        Output(_id("none"), "hidden"),
        Output(_id("some"), "hidden"),
        Input(VERSION, "data"),
        *(Held(id, "value") for id in controls.values()),
    )(threaded(news))

    def definitions(split: str | None, dataset: str | None, sort: str | None) -> list[dict[str, Any]]:
        state = {"split": split or "", "dataset": dataset or ""}
        shown = {column.key for column in View.of(state).columns()}
        kept = [part for part in (sort or "").split(",") if part.rpartition(":")[0] in shown]
        return _definitions(View.of(state | {"sort": ",".join(kept)}))

    app.callback(
        Output(GRID, "columnDefs"),
        Input(controls["split"], "value"),
        Input(controls["dataset"], "value"),
        Held(_id("sort"), "data"),
        prevent_initial_call=True,
    )(definitions)
    chosen = tuple(Input(controls[name], "value") for name in ("dataset", "method", "supervision"))
    for refresh, inputs in (("Purge", chosen), ("Refresh", (Input(_id("some"), "hidden"),))):
        asks = f"() => dash_clientside.wsss.leaderboard{refresh}()"
        app.clientside_callback(asks, *inputs, prevent_initial_call=True)
    app.clientside_callback(
        "(...held) => dash_clientside.wsss.leaderboardHeld(...held)",
        *(Output(_id(name), "data") for name in _HELD),
        Input(GRID, "getRowsRequest"),
        Input(GRID, "selectedRows"),
        Held(_id("runs"), "data"),
    )
    kept = {name: Input(id, "value") for name, id in controls.items()}
    kept |= {name: Input(_id(name), "data") for name in _HELD}
    app.clientside_callback(
        "(...values) => dash_clientside.wsss.leaderboardLinks(...values)",
        *(Output(_id(name), "href") for name in ("compare", "masks", *_EXPORTS)),
        *(Output(_id(name), "className") for name in ("compare", "masks", "hint")),
        *kept.values(),
    )
    keep_address(app, PAGE.path, **kept)


def _state(asked: dict[str, Any], dataset: str, split: str, methods: Sequence[str], supervision: str) -> State:
    """What the grid asks for and what was chosen above it, as an address says it."""
    return {
        "dataset": dataset or EVERY,
        "split": split or "",
        "method": ",".join(methods or ()),
        "supervision": supervision or "",
        "sort": ",".join(f"{part['colId']}:{part['sort']}" for part in asked.get("sortModel") or ()),
        "filter": json.dumps(asked.get("filterModel") or {}),
    }


def _routes(server: FastAPI, context: Context) -> None:
    def export(request: Request, kind: str) -> Response:
        if kind not in _EXPORTS:
            raise unknown("export", kind, _EXPORTS)
        state = {"dataset": _newest_dataset(context.reading.listing()), **request.query_params}
        render, media_type = _EXPORTS[kind]
        return Response(render(View.of(state).rows(_table(context))) + "\n", media_type=f"{media_type}; charset=utf-8")

    server.get("/files/leaderboard.{kind}")(export)


PAGE = Page("/", "Leaderboard", layout, _callbacks, _routes)
