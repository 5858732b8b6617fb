"""Lineage: back from a mask, a run or a model to labels, checkpoint, settings, data and commit; forward from data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dash import dcc, html
from dash.development.base_component import Component

from wsss.commands import command
from wsss.dashboard.page import Context, Page, State, address, aria, empty
from wsss.errors import UserError
from wsss.registry import ancestry
from wsss.registry.ancestry.boxes import DATA, LABELS, MODEL, RUN, Ancestry, Box, Layer, run_box
from wsss.tracking import names

PATH = "/lineage"
_FEW = 12
"""So many runs are offered to begin with."""
_LINES = (RUN, MODEL, "step")
"""What is told in a line."""


def layout(context: Context, asked: State) -> Component:
    """The lineage of what the address names: `run` (with `what` of a mask), `model`, `labels` or `data`."""
    given = [kind for kind in (RUN, MODEL, LABELS, DATA) if asked.get(kind)]
    if len(given) > 1:
        raise UserError(f"a lineage is of one thing, not of {' and '.join(given)} at once")
    if not given:
        return _begin(context)
    (kind,) = given
    name, before = asked[kind], _before(asked)
    found: dict[str, Callable[[], Ancestry]] = {
        RUN: lambda: ancestry.of_run(name, asked.get("what", "")),
        MODEL: lambda: ancestry.of_model(name),
        LABELS: lambda: ancestry.of_labels(name, before),
        DATA: lambda: ancestry.of_data(name, before),
    }
    lineage = found[kind]()
    again = {kind: name}
    back, forward = ([_layer(layer, again) for layer in side] for side in (lineage.back, lineage.forward))
    return html.Div(
        [
            html.H2("Lineage"),
            html.Div(_box(lineage.subject, whole=True), className="lineage-subject"),
            html.Div(
                [
                    *([_side("Made from", back, "")] if back else []),
                    _side("What stands on it", forward, "Nothing yet."),
                ],
                className="lineage-sides",
            ),
        ]
    )


def _begin(context: Context) -> Component:
    """Where a lineage can begin: the newest runs and the versions of data that they are on."""
    runs = context.reading.runs()
    if not runs:
        return empty("No finished run yet. This makes one, from image-level tags to a model:", "wsss", "run")
    data = {version: run.dataset for run in reversed(runs) if (version := run.tags.get(names.DATA_MD5))}
    return html.Div(
        [
            html.H2("Lineage"),
            html.P("Of a run, a model, label maps or a version of data: where it comes from and what stands on it."),
            html.H3("Versions of data"),
            html.Ul([html.Li(_link(f"{name}, version {md5[:8]}", data=md5)) for md5, name in data.items()]),
            html.H3("Newest runs"),
            html.Ul([html.Li(_link(run_box(run).title, run=run.id)) for run in runs[:_FEW]]),
        ]
    )


def _side(title: str, layers: Sequence[Component], nothing: str) -> Component:
    body = html.Ol(layers, className="lineage-layers") if layers else html.P(nothing, className="quiet")
    return html.Section([html.H3(title), body], **aria(label=title))


def _layer(layer: Layer, again: dict[str, str]) -> Component:
    boxes = html.Div([_box(box) for box in layer.boxes], className="lineage-boxes")
    parts: list[Component] = [html.H4(layer.title), boxes]
    if layer.older is not None:
        older = address(PATH, **again, before=layer.older)
        parts.append(html.P(dcc.Link(f"Those before {layer.boxes[-1].facts.get('begun', 'these')}", href=older)))
    return html.Li(parts)


def _box(box: Box, whole: bool = False) -> Component:
    """A box; whole for the one whose lineage it is."""
    own = not whole and box.name and box.kind in (RUN, MODEL, LABELS, DATA)
    head: list[str | Component] = [html.Strong(_link(box.title, **{box.kind: box.name}) if own else box.title)]
    parts: list[Component] = [html.P(head)]
    if box.kind in _LINES and not whole:
        head += [part for name, text in box.facts.items() for part in (" · ", _line(name, text))]
    elif box.facts:
        parts.append(_facts(box.facts))
    for how, runs in box.runs.items():
        links: list[str | Component] = [f"{how} "]
        for number, run in enumerate(runs):
            title = f"{run.id[:8]} ({run.method}, {run.preset}, rng {run.rng})"
            links += [", " if number else "", _link(title, run=run.id)]
        parts.append(html.P(links))
    if box.folded:
        parts.append(html.Details([html.Summary(f"the other {len(box.folded)}"), _facts(box.folded)]))
    ways = _ways(box)
    if whole and ways:
        parts.append(html.P(ways[1:]))
    else:
        head += ways
    if whole and box.kind == RUN:
        parts.append(html.P(["Done again by: ", html.Code(command("wsss", "reproduce", box.name))]))
    return html.Div(parts, className="lineage-box")


def _line(name: str, text: str) -> str | Component:
    """A fact beside others in a line; of a fingerprint its beginning, and all of it to whom points at it."""
    return html.Code(text[:12], title=f"{name} {text}") if name == "fingerprint" else text


def _facts(facts: Mapping[str, str]) -> Component:
    return html.Dl([part for name, text in facts.items() for part in (html.Dt(name), html.Dd(text))])


def _ways(box: Box) -> list[str | Component]:
    """To the pages that show a thing otherwise, a dot before each."""
    ways = {
        RUN: {"Compare": address("/compare", runs=box.name), "Masks": address("/masks", runs=box.name)},
        MODEL: {"Registry": address("/registry", model=box.name.rpartition("/")[0])},
        "search": {"Searches": address("/searches", search=box.name)},
    }
    there = ways.get(box.kind, {}) if box.name else {}
    return [part for name, href in there.items() for part in (" · ", dcc.Link(name, href=href))]


def _link(text: str, **state: str) -> Component:
    return dcc.Link(text, href=address(PATH, **state))


def _before(asked: State) -> int | None:
    before = asked.get("before", "")
    if before and not before.isdecimal():
        raise UserError(f"before = {before} is no time: it is in milliseconds since 1970")
    return int(before) if before else None


PAGE = Page(PATH, "Lineage", layout)
