"""A record of the ledger as a page shows it: what the gate asked, what was given, and all that it holds."""

from __future__ import annotations

from collections.abc import Sequence

from dash import html
from dash.development.base_component import Component

from wsss.dashboard.page import problem
from wsss.dashboard.plain import table
from wsss.errors import UserError
from wsss.registry.checks import checks_of, difference_of
from wsss.registry.gate import Look
from wsss.registry.ledger import Ledger
from wsss.registry.promotion import CANDIDATE_MIOU, CHALLENGE, CHAMPION_MIOU, PromotionRecord
from wsss.registry.table import looks_sentence
from wsss.registry.verdict import Check

_PASSED = {True: "yes", False: "NO", None: ""}


def miou(record: PromotionRecord, metric: str) -> str:
    """A mean IoU of a record in percent; a dash where it has none."""
    value = record.metrics.get(metric)
    return "–" if value is None else f"{100 * value:.1f}"


def mious(record: PromotionRecord) -> str:
    """The candidate's mean IoU and the champion's, in percent."""
    return f"{miou(record, CANDIDATE_MIOU)} / {miou(record, CHAMPION_MIOU)}"


def interval(record: PromotionRecord) -> str:
    """The difference of the two, in points, with what lies above and below it at the gate's confidence."""
    found = difference_of(record)
    if found is None:
        return ""
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def kind(record: PromotionRecord) -> str:
    """What a record is."""
    return f"challenge (version {record.challenger})" if record.kind == CHALLENGE else record.kind


def step(record: PromotionRecord) -> str:
    """What it did to the champion."""
    return f"{record.from_ or 'none'} → {record.to}" if record.promoted else f"{record.to or 'none'} stays"


def gate_table(record: PromotionRecord, checks: Sequence[Check]) -> Component:
    """The gate's questions, a row for each."""
    champion = f"champion (version {record.from_})" if record.from_ else "no champion"
    rows = [
        (
            check.what,
            check.candidate,
            check.champion,
            check.asked,
            html.B("NO") if check.passed is False else _PASSED[check.passed],
        )
        for check in checks
    ]
    return table(("", "candidate", champion, "asked", "given"), rows, f"What the gate asked of {record.asked}")


def details(record: PromotionRecord, ledger: Ledger) -> Component:
    """All that a record of the ledger holds."""
    parts: list[Component] = [html.H3(f"Record {record.number}: {kind(record)}, {record.time:%Y-%m-%d %H:%M} UTC")]
    try:
        checks = checks_of(record, ledger)
    except UserError as error:
        checks = []
        parts.append(problem(str(error)))
    if checks:
        parts.append(gate_table(record, checks))
    else:
        parts.append(html.P("Nobody looked at the masks for this record, so the gate asked nothing of figures."))
    if record.against:
        parts += [html.P("Held against it:"), html.Ul([html.Li(sentence) for sentence in record.against])]
    if said := looks_sentence(Look(record, checks)):
        parts.append(html.P(f"{said[0].upper()}{said[1:]}."))
    facts = {
        "who": record.who,
        "asked": record.asked,
        "champion": step(record),
        "why": record.why,
        "evaluation set": f"{record.dataset}/{record.split} {record.masks[:16]}" if record.dataset else "",
        "package": record.package[:16],
        "rule": ", ".join(f"{key} {value}" for key, value in record.rule.items() if value not in (None, {}, [])),
        "taken over from": record.source,
        "sha256": record.sha256[:16] if record.number else "",
        "sha256 before": record.previous[:16],
    }
    parts.append(html.Dl([part for name, text in facts.items() if text for part in (html.Dt(name), html.Dd(text))]))
    return html.Div(parts)
