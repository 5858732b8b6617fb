"""Searches: what was tried, what each trial cost and reused, which settings mattered; live while one runs."""

from __future__ import annotations

from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component
from dash_ag_grid import AgGrid

from wsss.dashboard import page
from wsss.dashboard.page import Context, Page, aria, empty, keep_address, threaded
from wsss.dashboard.plain import named
from wsss.dashboard.searches import figures
from wsss.dashboard.searches.parts import PATH, head, listed_searches, outcome, state, trial_part
from wsss.dashboard.searches.trials import Watch, setting_field, watch
from wsss.errors import UserError, unknown
from wsss.tables.ablation import is_miou
from wsss.tracking import searches

EVERY_MS = 2000
"""How often a page asks for what is new of a search that runs."""
FIGURES = {
    "history": "History: the value of each trial",
    "front": "Quality against seconds",
    "importance": "Importance of the settings (PED-ANOVA)",
    "parallel": "Settings and values, a line for each trial",
}
_CLICKED = ("history", "front", "parallel")
_HEIGHT = {"parallel": "380px"}


def layout(context: Context, asked: page.State) -> Component:
    """The list of searches, and all of one: by default the newest."""
    records = searches.searches()
    if not records:
        said = "No search yet. This tries settings of a method, and computes once what trials share:"
        return empty(said, "python", "-m", "tune", "--method", "affinity", "--preset", "demo")
    seen = watch(asked.get("search") or records[0].id)
    seen.look()
    record, method, picked = seen.record, _method(seen, asked.get("method")), _picked(seen, asked.get("trial"))
    figures, hidden = _figures(seen, method, picked), {"display": "none"}
    choice = dcc.Dropdown([*record.methods], method, id="searches-method", clearable=False)
    of = f"{record.objective} of {', '.join(record.methods)} on dataset {record.dataset}, preset {record.preset}"
    hint = "Click on a point, a line or a row, or press space on a row, to see a trial whole."
    return html.Div(
        [
            html.Div(listed_searches(records, record.id), className="searches-list"),
            html.H2(f"Search {record.name}"),
            html.P(f"{of}, rng {record.rng}."),
            html.Div(state(seen), id="searches-state", **aria(live="polite")),
            html.Div(outcome(seen), id="searches-outcome"),
            html.Div(
                named("Method", choice, "searches-method"),
                className="form",
                style=hidden if len(record.methods) < 2 else {},
            ),
            html.Div(
                [_graph(name, figures[name], hidden=not figures[name]) for name in ("history", "front", "importance")],
                className="searches-pair",
            ),
            _graph("parallel", figures["parallel"]),
            html.H2("Trials"),
            html.P(hint, className="quiet"),
            html.Div(
                [_grid(seen, picked), html.Aside(_trial(seen, picked), id="searches-trial", **aria(live="polite"))],
                className="searches-trials",
            ),
            dcc.Store(id="searches-seen", data=_seen(seen)),
            dcc.Store(id="searches-search", data=record.id),
            dcc.Store(id="searches-picked", data=picked),
            dcc.Interval(id="searches-clock", interval=EVERY_MS, disabled=not seen.live),
        ]
    )


def callbacks(app: Dash, context: Context) -> None:
    """What is clicked, and what is new while a search runs."""
    chosen = {"method": Input("searches-method", "value"), "trial": Input("searches-picked", "data")}
    keep_address(app, PATH, search=Input("searches-search", "data"), **chosen)
    app.clientside_callback(
        ClientsideFunction("searches", "pick"),
        Output("searches-trials", "selectedRows"),
        Output("searches-trials", "scrollTo"),
        *(Input(f"searches-{name}", "clickData") for name in _CLICKED),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("searches", "picked"),
        Output("searches-picked", "data"),
        Input("searches-trials", "selectedRows"),
        State("searches-picked", "data"),
        prevent_initial_call=True,
    )
    figures = [Output(f"searches-{name}", "figure", allow_duplicate=True) for name in FIGURES]

    def show(method: str, picked: int | None, search: str) -> list[Any]:
        seen = watch(search)
        return [*_figures(seen, method, picked).values(), _trial(seen, picked)]

    app.callback(
        *figures,
        Output("searches-trial", "children"),
        *chosen.values(),
        State("searches-search", "data"),
        prevent_initial_call=True,
    )(threaded(show))

    def live(_: int, before: dict[str, Any], method: str, picked: int | None, search: str) -> list[Any]:
        seen = watch(search)
        seen.look()
        now = _seen(seen)
        if now == before:
            return [*[no_update] * (len(FIGURES) + 4), not seen.live]
        rows, there = seen.rows(before["version"] if before["key"] == seen.key else 0), set(before["trials"])
        changes = {
            "update": [row for row in rows if row["trial"] in there],
            "add": [row for row in rows if row["trial"] not in there],
        }
        drawn = _figures(seen, method, picked).values()
        return [*drawn, changes, state(seen), outcome(seen), now, not seen.live]

    app.callback(
        *figures,
        Output("searches-trials", "rowTransaction"),
        Output("searches-state", "children"),
        Output("searches-outcome", "children"),
        Output("searches-seen", "data"),
        Output("searches-clock", "disabled"),
        Input("searches-clock", "n_intervals"),
        State("searches-seen", "data"),
        State("searches-method", "value"),
        State("searches-picked", "data"),
        State("searches-search", "data"),
        prevent_initial_call=True,
    )(threaded(live))


def _seen(seen: Watch) -> dict[str, Any]:
    """What a browser that shows all of this has seen."""
    return {"key": seen.key, "version": seen.version, "trials": [number + 1 for number in sorted(seen.trials)]}


def _method(seen: Watch, asked: str | None) -> str:
    methods = seen.record.methods
    if asked and asked not in methods:
        raise unknown(f"method of search {seen.record.name}", asked, methods)
    best = seen.best()
    return asked or (best.method if best else methods[0])


def _picked(seen: Watch, asked: str | None) -> int | None:
    """The trial that an address names, as people count."""
    if not asked:
        return None
    if not asked.isdecimal() or int(asked) - 1 not in seen.trials:
        known = f"its trials are 1 to {max(seen.trials) + 1}" if seen.trials else "it has none yet"
        raise UserError(f"search {seen.record.name} has no trial {asked}; {known}")
    return int(asked)


def _figures(seen: Watch, method: str, picked: int | None) -> dict[str, Any]:
    """In the order of `FIGURES`."""
    plan = searches.searched_plan(seen.record.id)
    space = plan.spaces.get(method, {}) if plan else {}
    return {
        "history": figures.history(seen, picked),
        "front": figures.front(seen, picked) if plan and plan.seconds else {},
        "importance": figures.importance(seen, method, space),
        "parallel": figures.parallel(seen, method, space, picked),
    }


def _trial(seen: Watch, picked: int | None) -> list[Component]:
    trial = None if picked is None else seen.trials.get(picked - 1)
    return [] if trial is None else trial_part(seen, trial)


def _graph(name: str, figure: Any, hidden: bool = False) -> Component:
    drawn = dcc.Graph(
        id=f"searches-{name}",
        figure=figure,
        config={"displaylogo": False, "displayModeBar": False},
        responsive=True,
        className="figure",
        style={"height": _HEIGHT.get(name, "300px")},
    )
    style = {"display": "none"} if hidden else {}
    return html.Section([html.H3(FIGURES[name]), drawn], style=style, **aria(label=FIGURES[name]))


def _grid(seen: Watch, picked: int | None) -> Component:
    return AgGrid(
        id="searches-trials",
        className="grid",
        columnDefs=_columns(seen),
        rowData=seen.rows(),
        getRowId="params.data.id",
        selectedRows={"ids": [str(picked)]} if picked else [],
        defaultColDef={"resizable": True, "cellDataType": False},
        dashGridOptions={
            "theme": {"function": "themeQuartz.withParams({spacing: 5, fontSize: 13})"},
            "rowSelection": {"mode": "singleRow", "checkboxes": False, "enableClickSelection": True},
            "animateRows": False,
            "tooltipShowDelay": 300,
        },
        style={"height": "460px"},
    )


def _columns(seen: Watch) -> list[dict[str, Any]]:
    """Of a search of one method with a column for each setting, else with one for all."""
    objective, plan = seen.record.objective, searches.searched_plan(seen.record.id)
    several = len(seen.record.methods) > 1
    number = {"type": "numericColumn", "filter": "agNumberColumnFilter"}
    digits = ".2f" if is_miou(objective) else ".4~g"
    plain = {"function": f"params.value == null ? '' : d3.format('{digits}')(params.value)"}
    keys = [] if several or plan is None else [key for space in plan.spaces.values() for key in space]
    settings = [{"field": setting_field(key), "headerName": key, "filter": True} for key in keys]
    return [
        {"field": "trial", "headerName": "trial", "width": 85, "pinned": "left", "type": "numericColumn"},
        {"field": "state", "headerName": "state", "width": 105, "filter": True},
        {"field": "value", "headerName": head(objective), "width": 170, "valueFormatter": plain, **number},
        *([{"field": "method", "headerName": "method", "width": 130, "filter": True}] if several else []),
        *(settings or [{"field": "settings", "headerName": "settings", "width": 300, "tooltipField": "settings"}]),
        {"field": "computed", "headerName": "computed", "width": 200, "tooltipField": "computed"},
        {"field": "waited", "headerName": "waited for", "width": 140, "tooltipField": "waited"},
        {"field": "reused", "headerName": "reused (computed by)", "width": 300, "tooltipField": "reused"},
        {"field": "seconds", "headerName": "seconds", "width": 105, **number},
        {"field": "saved", "headerName": "seconds saved", "width": 130, **number},
        {"field": "error", "headerName": "error", "width": 260, "tooltipField": "error"},
    ]


PAGE = Page(PATH, "Searches", layout, callbacks)
