"""The versions of a registered model as a page shows them: what each was registered from, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dash import dcc, html
from dash.development.base_component import Component

from wsss.dashboard.page import address
from wsss.dashboard.plain import table
from wsss.dashboard.registry.record import miou
from wsss.registry.models import CHALLENGER, CHAMPION, PREVIOUS, is_direct
from wsss.registry.overview import Overview, Registered
from wsss.registry.promotion import CANDIDATE_MIOU
from wsss.scores.metric_names import MIOU, metric
from wsss.tracking.query import RunRecord


def versions(found: Overview, listed: Sequence[Registered], runs: Mapping[str, RunRecord], promoted: bool) -> Component:
    """A row for each version of a registered model or of its candidates.

    Args:
        found: the model.
        listed: the rows'.
        runs: the methods' runs by id.
        promoted: the versions are those that were promoted, not candidates.
    """
    if not listed:
        kind_of = "version was promoted" if promoted else "candidate is registered"
        return html.P(f"No {kind_of} yet.")
    now = {found.decided.champion: CHAMPION, found.decided.previous: PREVIOUS, found.decided.challenger: CHALLENGER}
    champion = next((each.version.run for each in found.versions if each.version.number == found.decided.champion), "")
    rows = []
    for each in listed:
        version, run = each.version, runs.get(each.version.run)
        links: list[str | Component] = [
            dcc.Link("lineage", href=address("/lineage", model=f"{version.name}/{version.number}"))
        ]
        if run and champion and champion != run.id:
            links += [
                " · ",
                dcc.Link("against the champion", href=address("/compare", runs=[champion, run.id], split="val")),
            ]
        own = now.get(version.number, "") if promoted else each.copied_into and f"version {each.copied_into}"
        rows.append(
            (
                version.number,
                html.B(own) if promoted and own else own,
                f"{run.method} ({run.preset}, rng {run.rng})" if run else "",
                ", ".join(["tags", *sorted(run.supervision)]) if run else "",
                _figure(run, is_direct(version.name)),
                _at_gate(found, each),
                f"{each.made:%Y-%m-%d %H:%M}",
                version.source
                if promoted and version.source.startswith("models:/") and "/m-" not in version.source
                else "",
                dcc.Link(version.run[:8], href=address("/lineage", run=version.run), title=version.run)
                if version.run
                else "",
                links,
            )
        )
    role = "alias" if promoted else "promoted as"
    columns = (
        "version",
        role,
        "run",
        "supervision",
        "mIoU of the run",
        "at the gate",
        "registered",
        "from",
        "run id",
        "",
    )
    kept = [column for column in range(len(columns)) if any(row[column] for row in rows)]
    return table(
        [columns[column] for column in kept],
        [[row[column] for column in kept] for row in rows],
        f"Versions of {listed[0].version.name}",
        numbers=[place for place, column in enumerate(kept) if column in (0, 4, 5)],
    )


def _figure(run: RunRecord | None, direct: bool) -> str:
    """The mIoU on val that the run itself has of what the model predicts, in percent, and what that is."""
    whats = ("direct_crf", "direct") if direct else ("pred_crf", "pred")
    values = {what: run.metrics.get(metric("val", what, MIOU)) for what in whats} if run else {}
    return next((f"{100 * value:.1f} ({what})" for what, value in values.items() if value is not None), "")


def _at_gate(found: Overview, each: Registered) -> str:
    """The mIoU that the gate measured of a version last, in percent."""
    version = each.version
    names = (
        {f"{version.name}/{version.number}"}
        if version.name != found.name
        else {version.number, version.source.removeprefix("models:/")}
    )
    return next(
        (miou(r, CANDIDATE_MIOU) for r in found.records if r.candidate in names and CANDIDATE_MIOU in r.metrics), ""
    )
