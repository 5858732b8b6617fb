"""Registered models: who is champion, what was registered, what the gate asked, and the ledger that says so."""

from __future__ import annotations

from collections.abc import Mapping

from dash import Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component

from wsss.commands import command
from wsss.dashboard.page import Context, Page, address, aria, empty, problem, threaded
from wsss.dashboard.page import State as Address
from wsss.dashboard.plain import choice, table
from wsss.dashboard.registry import acts
from wsss.dashboard.registry.acts import BODY, CHAMPION_SEEN, DONE, NAME
from wsss.dashboard.registry.record import details, interval, kind, mious, step
from wsss.dashboard.registry.shadow import shadow
from wsss.dashboard.registry.versions import versions
from wsss.errors import UserError, unknown
from wsss.registry.ledger import Ledger
from wsss.registry.models import CHALLENGER, CHAMPION, PREVIOUS
from wsss.registry.overview import Overview, overview, registered_names
from wsss.registry.promotion import PromotionRecord
from wsss.tracking.query import RunRecord

PATH = "/registry"
SHADOW, ASK, SHOWN = "registry-shadow", "registry-ask", "registry-shown"
_PER_PAGE = 50


def layout(context: Context, state: Address) -> Component:
    """The registered models, and all of the chosen one."""
    names = registered_names()
    if not names:
        return empty("No registered model yet. A run that trains its segment stage registers one:", "wsss", "run")
    name = state.get("model") or names[0]
    if name not in names:
        raise unknown("registered model", name, names)
    shown = {key: state[key] for key in ("record", "page") if key in state}
    found, runs = overview(name), {run.id: run for run in context.reading.runs()}
    return html.Div(
        [
            choice("Registered models", {each: address(PATH, model=each) for each in names}, name),
            dcc.Store(id=NAME, data=name),
            dcc.Store(id=SHOWN, data=shown),
            html.Div(_body(found, runs, shown), id=BODY),
            acts.forms(context, found, runs, state.get("candidate", "")),
            html.Section(
                [
                    html.H2("Challenger in service"),
                    html.Div(id=SHADOW, **aria(live="polite")),
                    html.Button("Ask again", id=ASK, type="button") if context.server else html.Div(id=ASK),
                ]
            ),
        ],
        className="registry",
    )


def callbacks(app: Dash, context: Context) -> None:
    """What the page does."""
    acts.callbacks(app, context)

    def body_again(done: str | None, name: str, shown: Mapping[str, str]) -> Component:
        return _body(overview(name), {run.id: run for run in context.reading.runs()}, shown)

    def ask(clicks: int | None) -> Component:
        return shadow(context.server)

    app.callback(
        Output(BODY, "children"),
        Input(DONE, "data"),
        State(NAME, "data"),
        State(SHOWN, "data"),
        prevent_initial_call=True,
    )(threaded(body_again))
    app.callback(Output(SHADOW, "children"), Input(ASK, "n_clicks"))(threaded(ask))


def _body(found: Overview, runs: Mapping[str, RunRecord], shown: Mapping[str, str]) -> Component:
    record = _record(found, shown.get("record", ""))
    parts = [
        dcc.Store(id=CHAMPION_SEEN, data=found.decided.champion),
        _standing(found),
        html.H2("Versions"),
        versions(found, found.versions, runs, promoted=True),
        html.H2("Candidates"),
        versions(found, found.candidates, runs, promoted=False),
        html.H2("Ledger"),
        *_ledger(found, shown, record),
    ]
    if record:
        parts += [html.H2("What the gate asked"), details(record, Ledger(found.name))]
    return html.Div(parts)


def _standing(found: Overview) -> Component:
    champion, previous, challenger = found.decided
    now = {CHAMPION: champion, PREVIOUS: previous, CHALLENGER: challenger}
    parts: list[Component] = [
        html.Dl(
            [
                part
                for alias, number in now.items()
                for part in (html.Dt(alias), html.Dd(f"version {number}" if number else "none"))
            ],
            className="aliases",
        )
    ]
    # An alias that no record explains belongs to a model whose ledger is not begun.
    wrong = {alias: found.aliases.get(alias, "") for alias in now if found.aliases.get(alias, "") != now[alias]}
    if found.broken:
        parts.append(problem(found.broken))
        if found.records:
            parts.append(html.P(f"The {len(found.records)} records before the break:"))
    elif found.records:
        whole = f"The chain of {len(found.records)} records is whole; the last is {found.records[0].sha256[:16]}."
        parts.append(html.P(whole))
        if wrong:
            held = ", ".join(
                f"{alias} is {f'version {number}' if number else 'not set'}" for alias, number in wrong.items()
            )
            mend = command("wsss", "history", found.name)
            parts.append(problem(f"In the registry {held}, which is not what the ledger says; `{mend}` puts it right."))
    if found.looks and found.looked:
        looked = found.looked
        times = "once" if found.looks == 1 else f"{found.looks} times"
        where = f"{looked.dataset}/{looked.split} {looked.masks[:12]}"
        parts.append(html.P(f"The gate has looked {times} at the evaluation set {where}."))
    return html.Div(parts)


def _ledger(found: Overview, shown: Mapping[str, str], record: PromotionRecord | None) -> list[Component]:
    if not found.records:
        run = next((each.version.address for each in (*found.candidates, *found.versions)), "RUN")
        return [
            empty(
                "Nobody has asked for a promotion yet. This asks, and writes nothing:",
                "wsss",
                "promote",
                run,
                "--name",
                found.name,
                "--dry-run",
            )
        ]
    pages = -(-len(found.records) // _PER_PAGE)
    page = min(max(int(shown["page"]) if shown.get("page", "").isdecimal() else 1, 1), pages)
    rows = []
    for each in found.records[(page - 1) * _PER_PAGE : page * _PER_PAGE]:
        number = str(each.number or "before")
        here = html.Span(number, className="chosen", **aria(current="true"))
        href = address(PATH, model=found.name, record=each.number, page=page if page > 1 else None)
        rows.append(
            (
                here if each is record or not each.number else dcc.Link(number, href=href, title="what the gate asked"),
                f"{each.time:%Y-%m-%d %H:%M}",
                each.who,
                kind(each),
                each.candidate.removeprefix(f"{found.name}-"),
                step(each),
                mious(each),
                interval(each),
                each.why,
            )
        )
    columns = ("record", "when (UTC)", "who", "what", "asked", "champion", "mIoU / champion's", "difference", "why")
    parts = [table(columns, rows, f"The ledger of {found.name}, newest first", numbers=(0, 6, 7))]
    if pages > 1:
        links = {str(n): address(PATH, model=found.name, page=n if n > 1 else None) for n in range(1, pages + 1)}
        parts.append(choice("Pages of the ledger", links, str(page)))
    return parts


def _record(found: Overview, number: str) -> PromotionRecord | None:
    """The record of a number; the newest for none."""
    if not number:
        return found.records[0] if found.records else None
    for record in found.records:
        if str(record.number) == number:
            return record
    raise UserError(f"the ledger of {found.name} has no record {number}; it has {len(found.records)}")


PAGE = Page(PATH, "Registry", layout, callbacks)
