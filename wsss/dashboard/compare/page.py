"""Where a method wins and why: two to eight runs beside each other, class by class and step by step."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from wsss.dashboard import page
from wsss.dashboard.compare import scored, ways
from wsss.dashboard.compare.chosen import MOST, one_of, place
from wsss.dashboard.compare.elements import Names
from wsss.dashboard.compare.nodes import Node, el
from wsss.dashboard.page import Context, Page, address, empty, keep_address, listed, threaded
from wsss.errors import UserError
from wsss.scores.metric_names import IOU
from wsss.scores.scored import SCORED
from wsss.tables.comparison import (
    MEASURES,
    Comparison,
    compare,
    places,
)
from wsss.tracking.query import RunRecord

_OFFERED = 50
_SCALES = {"linear": "linear", "log": "logarithmic"}
_DRAWN = ("heat", "means", "ladder", "confusion", "settings", "losses")
_reading = threading.Lock()


def layout(context: Context, state: page.State) -> Component:
    """What is chosen, and a place for each section, which its callback fills."""
    known = context.reading.runs()
    if not known:
        return empty("No run yet. This makes one, from image-level tags to a model:", "wsss", "run")
    ids = list(dict.fromkeys(listed(state, "runs")))
    runs = [run for run in _runs(context, ids)[0] if run]
    split, what = place(runs, state.get("split", ""), state.get("what", ""))
    options = _choices(runs, split, what)
    base, confused = (one_of(runs, state.get(key, ""), split, what) for key in ("base", "confusion"))
    # A value without an option would be dropped, and what is wrong with it not said.
    gone = [{"value": id, "label": id, "search": id} for id in ids if id not in {run.id for run in runs}]
    run_options = [*_run_options(known, "", runs), *gone]
    controls = [
        _control(
            "Runs", _dropdown("runs", run_options, ids, multi=True, placeholder="method, preset, dataset or id"), "wide"
        ),
        _control("Split", _dropdown("split", options["split"], split)),
        _control("What is scored", _dropdown("what", options["what"], what)),
        _control(
            "Figure of a class",
            _radio("measure", {key: text.partition(",")[0] for key, text in MEASURES.items()}, state),
        ),
        _control("Classes", _radio("order", scored.ORDERS, state)),
        _control("Base of differences", _dropdown("base", options["base"], base)),
        _control("Confusion of", _dropdown("confusion", options["confusion"], confused)),
        _control("Losses", _radio("scale", _SCALES, state)),
    ]
    drawn = [html.Div(id=f"compare-{part}-drawn", className="drawn") for part in _DRAWN]
    stores = [dcc.Store(id=f"compare-{part}-tree") for part in _DRAWN]
    return html.Div(
        [html.H1("Compare"), html.Div(controls, className="compare-controls"), *drawn, *stores], id="compare"
    )


def callbacks(app: Dash, context: Context) -> None:
    """What is chosen decides what is read; the browser draws what was read."""
    chosen = {key: Input(f"compare-{key}", "value") for key in
              ("runs", "split", "what", "measure", "order", "base", "confusion", "scale")}  # fmt: skip
    keep_address(app, PAGE.path, **chosen)
    for part in _DRAWN:
        app.clientside_callback(
            ClientsideFunction("compare", "draw"),
            Input(f"compare-{part}-tree", "data"),
            State(f"compare-{part}-drawn", "id"),
        )

    def scores(ids: Any, split: Any, what: Any, measure: Any, order: Any, base: Any) -> list[Any]:
        runs, problems = _runs(context, ids)
        found = _comparison(context, _there(runs), split, what)
        names = Names.of(found.runs)
        if not found.runs:
            return [_json([*problems, el("p", "Choose runs above: by method, preset, dataset or id.")]), []]
        measure = measure if measure in MEASURES else IOU
        heat = scored.heat(found, names, measure, order, _link)
        return [
            _json([*problems, *scored.said(found, names), heat]),
            _json([scored.means(found, names, base), scored.differences(found, names, base, order)]),
        ]

    def way(ids: Any) -> list[Any]:
        runs = _there(_runs(context, ids)[0])
        names = Names.of(runs)
        return [_json([ways.rungs(runs, names)]), _json(ways.differing(runs, names))] if runs else [[], []]

    def confusion(ids: Any, split: Any, what: Any, run_id: Any) -> Any:
        found = _comparison(context, _there(_runs(context, ids)[0]), split, what)
        if not found.runs:
            return []
        return _json([scored.confusion(found, Names.of(found.runs), run_id, _link)])

    def losses(ids: Any, scale: Any) -> Any:
        runs = _there(_runs(context, ids)[0])
        if not runs:
            return []
        return _json([ways.losses(context.reading.losses(runs), Names.of(runs), scale == "log")])

    def choices(ids: Any, *values: Any) -> list[Any]:
        """What can be chosen of other runs; what was chosen stays where it can."""
        runs = _there(_runs(context, ids)[0])
        split, what = place(runs, values[0] or "", values[1] or "")
        wanted = split, what, *(one_of(runs, value or "", split, what) for value in values[2:])
        changed = [no_update if new == old else new for new, old in zip(wanted, values, strict=True)]
        return [*_choices(runs, split, what).values(), *changed]

    def search(text: Any, ids: Any) -> Any:
        return _run_options(context.reading.runs(), text or "", _there(_runs(context, ids)[0]))

    def tree(part: str) -> Output:
        return Output(f"compare-{part}-tree", "data")

    of_scores = [chosen[key] for key in ("runs", "split", "what", "measure", "order", "base")]
    app.callback([tree("heat"), tree("means")], of_scores)(threaded(scores))
    app.callback([tree("ladder"), tree("settings")], [chosen["runs"]])(threaded(way))
    app.callback(tree("confusion"), [chosen[key] for key in ("runs", "split", "what", "confusion")])(
        threaded(confusion)
    )
    app.callback(tree("losses"), [chosen["runs"], chosen["scale"]])(threaded(losses))
    options = ("split", "what", "base", "confusion")
    app.callback(
        [
            *(Output(f"compare-{key}", "options") for key in options),
            *(Output(f"compare-{key}", "value") for key in options),
        ],
        chosen["runs"],
        [State(f"compare-{key}", "value") for key in options],
        prevent_initial_call=True,
    )(threaded(choices))
    app.callback(
        Output("compare-runs", "options"),
        Input("compare-runs", "search_value"),
        State("compare-runs", "value"),
        prevent_initial_call=True,
    )(threaded(search))


def _runs(context: Context, ids: Any) -> tuple[list[RunRecord | None], list[Node]]:
    """The runs of ids in an address or a control, None for what is none, and what is to be said of those."""
    wanted = [str(each) for each in dict.fromkeys(ids or ())]
    said = []
    if len(wanted) > MOST:
        said.append(el("p", f"The first {MOST} of {len(wanted)} runs are shown.", class_="note"))
    with _reading:
        found = context.reading.whole(wanted[:MOST])
    said += [el("p", f"{each}", class_="note") for each in found if isinstance(each, UserError)]
    return [None if isinstance(each, UserError) else each for each in found], said


def _there(runs: Sequence[RunRecord | None]) -> list[RunRecord]:
    return [run for run in runs if run]


def _comparison(context: Context, runs: Sequence[RunRecord], split: Any, what: Any) -> Comparison:
    # Several callbacks ask for the same at once: the first reads, the others find it in memory.
    with _reading:
        return compare(runs, str(split or ""), str(what or ""), context.reading.evaluation)


def _choices(runs: Sequence[RunRecord], split: str, what: str) -> dict[str, list[dict[str, str]]]:
    """What can be chosen of runs, and what is."""
    known = places(runs)
    splits = dict.fromkeys([*(each for each, _ in known), split])
    things = [each for each in SCORED if each == what or any(each == other for _, other in known)]
    of_runs = [{"value": run.id, "label": text} for run, text in zip(runs, Names.of(runs).texts, strict=True)]
    return {
        "split": [{"value": each, "label": each} for each in splits],
        "what": [{"value": each, "label": each, "title": SCORED[each].meaning} for each in things],
        "base": of_runs,
        "confusion": of_runs,
    }


def _run_options(known: Sequence[RunRecord], text: str, chosen: Sequence[RunRecord]) -> list[dict[str, str]]:
    """The newest runs that have all words of a text in them, and those that are chosen."""
    words = text.lower().split()
    said = {run.id: _said(run) for run in [*chosen, *known]}
    fits = [run.id for run in known if all(word in f"{said[run.id]} {run.id}".lower() for word in words)]
    wanted = dict.fromkeys([*(run.id for run in chosen), *fits[:_OFFERED]])
    return [{"value": id, "label": said[id], "search": f"{said[id]} {id}"} for id in wanted]


def _said(run: RunRecord) -> str:
    going = "" if run.status == "FINISHED" else f", {run.status.lower()}"
    return f"{run.method} {run.preset} {run.dataset} rng {run.rng} {run.id[:8]}, {run.start:%d %b %H:%M}{going}"


def _link(runs: Sequence[RunRecord], **where: str) -> str:
    """The images of runs, as far as they are of the first one's dataset."""
    dataset = runs[0].dataset if runs else ""
    ids = [run.id for run in runs if run.dataset == dataset]
    return address("/masks", dataset=dataset, runs=ids, **where)


def _json(nodes: Sequence[Node | None]) -> list[Any]:
    return [node.json for node in nodes if node]


def _control(label: str, control: Component, kind: str = "") -> Component:
    return html.Div(
        [html.Label(label, htmlFor=getattr(control, "id", None)), control], className=f"compare-control {kind}".strip()
    )


def _dropdown(key: str, options: Any, value: Any, **more: Any) -> Component:
    return dcc.Dropdown(options, value, id=f"compare-{key}", clearable=False, **more)


def _radio(key: str, options: dict[str, str], state: page.State) -> Component:
    first = next(iter(options))
    value = state.get(key, first)
    return dcc.RadioItems(options, value if value in options else first, id=f"compare-{key}", inline=True)


PAGE = Page("/compare", "Compare", layout, callbacks)
