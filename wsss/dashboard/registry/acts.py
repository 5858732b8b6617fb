"""Promotion and rollback from the dashboard: where it was allowed, with a reason, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from dash import Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.development.base_component import Component

from wsss.commands import command
from wsss.dashboard.jobs import Job, Jobs
from wsss.dashboard.page import Context, aria, keep_address, problem, threaded
from wsss.dashboard.plain import named
from wsss.dashboard.registry.record import gate_table
from wsss.data import open_dataset
from wsss.errors import UserError
from wsss.registry import gate
from wsss.registry.gate import Look
from wsss.registry.ledger import Ledger
from wsss.registry.models import ModelVersion, dataset_of_run, find_version
from wsss.registry.overview import Overview
from wsss.registry.rollback import roll_back
from wsss.registry.standing import read
from wsss.registry.table import looks_sentence
from wsss.tracking.query import RunRecord

BODY, NAME, DONE, CHAMPION_SEEN = "registry-body", "registry-name", "registry-done", "registry-champion"
CANDIDATE, FORCE, WHY, TRY, CONFIRM = (f"registry-{part}" for part in ("candidate", "force", "why", "try", "confirm"))
BACK_WHY, BACK, POLL, SAID, LOOK = (f"registry-{part}" for part in ("back-why", "back", "poll", "said", "look"))
THROUGH = "the dashboard"
_LONGEST = 500
_KEY = "act"


@dataclass(frozen=True)
class Asked:
    """What was asked for: "dry run", "promotion" or "rollback"."""

    kind: str
    name: str
    candidate: str = ""
    force: bool = False


def forms(context: Context, found: Overview, runs: Mapping[str, RunRecord], candidate: str) -> Component:
    """The forms, where promotion was allowed; else how it is done.

    Args:
        context: says whether it was.
        found: the registered model.
        runs: the methods' runs by id.
        candidate: the address of the version that is chosen; empty for none.
    """
    if not context.promotes:
        promote = command("wsss", "promote", "RUN", "--name", found.name)
        return html.Section(
            [html.H2("Promote"), html.P(["This dashboard only shows. ", html.Code(promote), " asks the gate."])]
        )
    versions = [each.version for each in (*found.candidates, *found.versions)]
    options = [{"label": _label(version, runs), "value": version.address} for version in versions]
    chosen = candidate if any(option["value"] == candidate for option in options) else None
    return html.Section(
        [
            html.H2("Promote"),
            html.Div(
                [
                    named(
                        "candidate", dcc.Dropdown(options, chosen, id=CANDIDATE, placeholder="choose one"), CANDIDATE
                    ),
                    named("reason", _reason(WHY, "why it should become champion"), WHY),
                    dcc.Checklist([{"label": "by force, whatever the gate says", "value": "force"}], [], id=FORCE),
                    html.Button("Dry run", id=TRY, type="button"),
                    html.Button("Promote", id=CONFIRM, type="button", disabled=True),
                ],
                className="form",
            ),
            html.H2("Roll back"),
            html.Div(
                [
                    named("reason", _reason(BACK_WHY, "why the champion before is better"), BACK_WHY),
                    html.Button("Roll back to the previous champion", id=BACK, type="button"),
                ],
                className="form",
            ),
            html.Div(id=SAID, **aria(live="polite")),
            html.Div(id=LOOK),
            dcc.Interval(id=POLL, interval=1000, disabled=True),
            dcc.Store(id=DONE),
        ]
    )


def callbacks(app: Dash, context: Context) -> None:
    """What the forms do."""
    jobs = Jobs()

    def act(
        tries: int | None,
        confirms: int | None,
        backs: int | None,
        polls: int | None,
        candidate: str | None,
        force: list[str] | None,
        name: str,
        why: str | None,
        back_why: str | None,
        champion: str | None,
    ) -> tuple[Any, ...]:
        if not context.promotes:
            allowed = command("wsss", "dashboard", "--allow-promote", "--api-keys", "FILE")
            raise UserError(f"this dashboard only shows, it does not promote; `{allowed}` does")
        asked = Asked("", name, candidate or "", bool(force))
        begun: dict[str, Callable[[], None]] = {
            TRY: partial(_try, jobs, asked, why or ""),
            CONFIRM: partial(_confirm, jobs, asked, why or ""),
            BACK: partial(_back, jobs, asked, back_why or "", champion or ""),
        }
        refused: Component | None = None
        try:
            begun.get(str(ctx.triggered_id), lambda: None)()
        except UserError as error:
            refused = problem(str(error))
        job = jobs.of(_KEY)
        busy = bool(job and job.working)
        # A reason is for one act: the next asks for its own.
        done = job is not None and ctx.triggered_id == POLL and not busy and _wrote(job)
        return (
            refused or _said(job),
            _look(job, name),
            not busy,
            busy,
            busy or not _tried(job, asked),
            busy,
            str(job.ended) if done and job else no_update,
            "" if done else no_update,
            "" if done else no_update,
        )

    app.callback(
        Output(SAID, "children"),
        Output(LOOK, "children"),
        Output(POLL, "disabled"),
        Output(TRY, "disabled"),
        Output(CONFIRM, "disabled"),
        Output(BACK, "disabled"),
        Output(DONE, "data"),
        Output(WHY, "value"),
        Output(BACK_WHY, "value"),
        Input(TRY, "n_clicks"),
        Input(CONFIRM, "n_clicks"),
        Input(BACK, "n_clicks"),
        Input(POLL, "n_intervals"),
        Input(CANDIDATE, "value"),
        Input(FORCE, "value"),
        State(NAME, "data"),
        State(WHY, "value"),
        State(BACK_WHY, "value"),
        State(CHAMPION_SEEN, "data"),
    )(threaded(act))
    keep_address(app, "/registry", candidate=Input(CANDIDATE, "value"))


def _label(version: ModelVersion, runs: Mapping[str, RunRecord]) -> str:
    run = runs.get(version.run)
    return f"{version.name} {version.number}" + (f": {run.method} ({run.preset}, rng {run.rng})" if run else "")


def _reason(id: str, placeholder: str) -> Component:
    return dcc.Input(id=id, type="text", value="", maxLength=_LONGEST, placeholder=placeholder)


def _checked_reason(text: str) -> str:
    """The reason on one line, as the ledger keeps it."""
    reason = " ".join(text.split())
    if not reason:
        raise UserError("give a reason: the ledger keeps it with the act")
    if len(reason) > _LONGEST:
        raise UserError(f"the reason has {len(reason)} characters; allowed: {_LONGEST}")
    return reason


def _try(jobs: Jobs, asked: Asked, why: str) -> None:
    if not asked.candidate:
        raise UserError("choose a candidate first")
    told = Asked("dry run", asked.name, asked.candidate, asked.force)
    reason = " ".join(why.split())
    jobs.begin(_KEY, f"a dry run of {_short(asked.candidate)} is measured", partial(_promote, told, reason), told)


def _confirm(jobs: Jobs, asked: Asked, why: str) -> None:
    reason = _checked_reason(why)
    if not _tried(jobs.of(_KEY), asked):
        raise UserError("look at a dry run of this candidate first: it shows what the gate says")
    told = Asked("promotion", asked.name, asked.candidate, asked.force)
    jobs.begin(_KEY, f"the promotion of {_short(asked.candidate)} is measured", partial(_promote, told, reason), told)


def _back(jobs: Jobs, asked: Asked, why: str, champion: str) -> None:
    reason = _checked_reason(why)

    def back() -> str:
        now = read(Ledger(asked.name)).champion
        if now != champion:
            raise UserError(
                f"meanwhile version {now or 'none'} became champion of {asked.name}; look at the page again"
            )
        record = roll_back(asked.name, reason, THROUGH)
        return f"{asked.name} version {record.to} is champion again; version {record.from_} was until now"

    jobs.begin(_KEY, f"{asked.name} is rolled back", back, Asked("rollback", asked.name))


def _promote(asked: Asked, reason: str) -> Look:
    run = find_version(asked.candidate, asked.name).run
    return gate.promote(
        asked.candidate,
        asked.name,
        open_dataset(dataset_of_run(run)),
        force=(reason or "no reason given yet") if asked.force else None,
        dry_run=asked.kind == "dry run",
        why=reason,
        through=THROUGH,
    )


def _tried(job: Job | None, asked: Asked) -> bool:
    """Whether a dry run of the very same has ended, and would promote."""
    same = Asked("dry run", asked.name, asked.candidate, asked.force)
    return bool(job and job.told == same and isinstance(job.result, Look) and job.result.record.promoted)


def _wrote(job: Job) -> bool:
    return not job.problem and job.told.kind != "dry run"


def _said(job: Job | None) -> Component | str:
    """How the last act stands, or what came of it."""
    if job is None:
        return ""
    if job.working:
        seconds = (datetime.now(UTC) - job.began).total_seconds()
        return html.P(
            f"Working: {job.what}, for {seconds:.0f} s. It goes on when this page is closed.", className="working"
        )
    when = f"{job.ended:%H:%M:%S} UTC: " if job.ended else ""
    if job.problem:
        return problem(f"{when}{job.problem}.")
    if isinstance(job.result, Look):
        said = f"{when}{gate.sentence(job.result.record, job.told.kind == 'dry run')}."
        return html.P(said) if job.result.record.promoted else problem(said)
    return html.P(f"{when}{job.result}.")


def _look(job: Job | None, name: str) -> Component | str:
    """The gate's table of the last dry run or promotion of a registered model."""
    if job is None or not isinstance(job.result, Look) or job.told.name != name:
        return ""
    look = job.result
    parts: list[Component] = [gate_table(look.record, look.checks)]
    if said := looks_sentence(look):
        parts.append(html.P(f"{said[0].upper()}{said[1:]}."))
    return html.Div(parts)


def _short(candidate: str) -> str:
    return candidate.removeprefix("models:/")
