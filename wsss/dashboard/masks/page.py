"""One image under many runs and steps: where a class got lost, and at which threshold."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, ctx, dcc, html
from dash.development.base_component import Component

from wsss.dashboard.masks import files
from wsss.dashboard.masks.shown_maps import FIGURE, SPLITS, Shown, Wanted, shown
from wsss.dashboard.page import Context, Page, State, address, aria, empty, keep_address, threaded
from wsss.tracking.query import RunRecord

PATH = "/masks"
_MOST_OPTIONS = 200
_CHOOSERS = ("dataset", "split", "runs", "what", "sort", "confused")


def layout(context: Context, state: State) -> Component:
    """The choosers, the list of images and the viewer."""
    found = shown(context.reading, Wanted.of(state))
    if found is None:
        return empty("No run yet whose maps could be shown. This makes one:", "wsss", "run")
    values, options = _values(found.wanted), _options(found)
    choosers = {
        key: dcc.Dropdown(
            options[key],
            values[key],
            id=f"masks-{key}",
            multi=key in ("runs", "what"),
            clearable=key in ("confused", "runs", "what"),
            placeholder={"confused": "any", "runs": "newest of each method"}.get(key, ""),
        )
        for key in _CHOOSERS
    }
    titles = {"what": "show", "sort": "images by", "confused": "images by confusion"}
    figure = html.Button(
        "slides' figure 5",
        id="masks-figure",
        className="plain",
        title="Image, truth, cam, background, affinity, synthesized labels",
    )
    return html.Div(
        [
            html.Div(
                [
                    *(
                        html.Div(
                            [html.Label(titles.get(key, key), htmlFor=f"masks-{key}"), chooser],
                            className="wide" if key in ("runs", "what") else "",
                        )
                        for key, chooser in choosers.items()
                    ),
                    figure,
                ],
                className="masks-choices",
            ),
            html.Div(_notes(found), id="masks-note", className="masks-note", **aria(live="polite")),
            html.Div(
                [
                    html.Div(id="masks-list", tabIndex=0, role="region", **aria(label="Images")),
                    html.Div(id="masks-view", role="region", **aria(label="Maps of the image")),
                ],
                className="masks-body",
            ),
            dcc.Store(id="masks-choice", data=found.viewer),
            html.Div(id="masks-done", hidden=True),
        ],
        id="masks",
    )


def callbacks(app: Dash, context: Context) -> None:
    """What is chosen changes what is shown, and the address."""

    def choose(dataset: str, split: str, runs: Any, what: Any, sort: str, confused: str | None, _: int) -> list[Any]:
        wanted = Wanted(dataset, split, tuple(runs or ()), tuple(what or ()), sort or "", confused or "")
        if ctx.triggered_id == "masks-dataset":
            wanted = Wanted(dataset)
        if ctx.triggered_id == "masks-figure":
            split = "train" if split == "val" else split
            wanted = Wanted(dataset, split, wanted.runs, FIGURE, wanted.sort, wanted.confused)
        found = shown(context.reading, wanted)
        if found is None:
            return [None, "No run yet.", *[[]] * len(_CHOOSERS), *[None] * len(_CHOOSERS)]
        options, values = _options(found), _values(found.wanted)
        return [found.viewer, _notes(found), *(options[key] for key in _CHOOSERS), *(values[key] for key in _CHOOSERS)]

    app.callback(
        Output("masks-choice", "data"),
        Output("masks-note", "children"),
        *(Output(f"masks-{key}", "options") for key in _CHOOSERS),
        *(Output(f"masks-{key}", "value") for key in _CHOOSERS),
        *(Input(f"masks-{key}", "value") for key in _CHOOSERS),
        Input("masks-figure", "n_clicks"),
        prevent_initial_call=True,
    )(threaded(choose))
    app.clientside_callback(
        "choice => dash_clientside.masks.show(choice)",
        Output("masks-done", "children"),
        Input("masks-choice", "data"),
    )
    keep_address(app, PATH, **{key: Input(f"masks-{key}", "value") for key in _CHOOSERS})


def _values(wanted: Wanted) -> dict[str, Any]:
    return {
        "dataset": wanted.dataset,
        "split": wanted.split,
        "runs": list(wanted.runs),
        "what": list(wanted.what),
        "sort": wanted.sort,
        "confused": wanted.confused or None,
    }


def _options(found: Shown) -> dict[str, Any]:
    """What there is to choose from, in the order in which it is best read."""
    chosen = list(found.runs.values())
    others = [run for run in found.others if run.id not in found.wanted.runs]
    return {
        "dataset": list(found.datasets),
        "split": _labelled({split: found.splits[split] for split in SPLITS if split in found.splits} or found.splits),
        "runs": _labelled({run.id: _said(run) for run in [*chosen, *others[:_MOST_OPTIONS]]}),
        "what": list(dict.fromkeys([*found.whats, *found.wanted.what])),
        "sort": _labelled(found.sorts),
        "confused": _labelled(found.confusions),
    }


def _labelled(texts: Any) -> list[dict[str, str]]:
    return [{"value": value, "label": text} for value, text in texts.items()]


def _said(run: RunRecord) -> str:
    return f"{run.method} {run.preset} rng {run.rng}, {run.start:%d %b %H:%M}, {run.id[:8]}"


def _notes(found: Shown) -> list[Component]:
    """How many images of how many, which letter is which run, and what is not as it was asked for."""
    wanted, images = found.wanted, len(found.ordered.images)
    counted = found.splits.get(wanted.split, "")
    runs: list[Any] = []
    for letter, run in found.runs.items():
        link = dcc.Link(_said(run), href=address("/lineage", run=run.id))
        runs += [html.B(f"{letter} " if len(found.runs) > 1 else ""), link, "; "]
    shown_of = f"{images:,} images, of {counted} whose maps were logged. {found.ordered.meaning} " if counted else ""
    return [
        html.P([shown_of, *runs[:-1]]),
        *(html.P(note, className="alarm") for note in found.notes),
    ]


PAGE = Page(PATH, "Masks", layout, callbacks, files.add_routes)
