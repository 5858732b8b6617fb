"""What the page of a search says in words and tables: the list of searches, the outcome, a trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from wsss.commands import command
from wsss.dashboard.page import address
from wsss.dashboard.plain import Cell, table
from wsss.dashboard.searches.trials import WORDS, Watch, is_complete, settings_text
from wsss.tables.ablation import is_miou, shown
from wsss.tracking import names, searches
from wsss.tracking.searches import SearchRecord, Trial

PATH = "/searches"
STATES = {
    "RUNNING": "running",
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "interrupted",
    "GONE": "stopped, its process is gone",
}


def listed_searches(records: Sequence[SearchRecord], chosen: str) -> Component:
    """The table of searches, newest first."""
    rows: list[list[Cell]] = []
    for record in records:
        here = record.id == chosen
        name = html.Strong(record.name) if here else dcc.Link(record.name, href=address(PATH, search=record.id))
        best = "" if record.best is None else figure_text(record.best, record.objective)
        of = [", ".join(record.methods), record.preset, record.dataset, record.objective]
        rows.append([name, STATES.get(record.status, record.status), *of, best, f"{record.start:%Y-%m-%d %H:%M}"])
    heads = ["search", "state", "methods", "preset", "dataset", "objective", "best", "begun (UTC)"]
    return table(heads, rows, "Searches, newest first", numbers=[6])


def state(watch: Watch) -> list[Component]:
    """How far the search is, in words, and how it goes on where it stopped."""
    record, trials = watch.record, watch.trials.values()
    counts = Counter(trial.state for trial in trials)
    said = ", ".join(f"{counts[each]} {word}" for each, word in WORDS.items() if counts[each])
    text = f"{STATES.get(record.status, record.status).capitalize()}. Trials: {said or 'none'}."
    if seconds := sum(trial.seconds or 0.0 for trial in trials):
        saved = sum(trial.saved or 0.0 for trial in trials)
        text += f" Their steps are worth {seconds:,.0f} s, of which {saved:,.0f} s were not computed anew."
    parts: list[Component] = [html.P(text)]
    if record.status in ("FAILED", "KILLED", "GONE"):
        again = command("python", "-m", "tune", "--resume", record.name)
        parts.append(html.P(["It goes on with: ", html.Code(again)]))
    return parts


def outcome(watch: Watch) -> list[Component]:
    """What came out: the best beside the preset, and whether it is taken; while trials are left, the best so far."""
    record = watch.record
    if record.status == "FINISHED" and (verdict := searches.verdict(record.id)):
        return [*_verdict(verdict, record)]
    best = watch.best()
    if best is None:
        return [html.P("No trial is complete yet.")]
    plan = searches.searched_plan(record.id)
    first = plan.presets.get(best.method, {}) if plan else {}
    default = next((t for t in watch.of_method(best.method) if t.settings == first and is_complete(t)), None)
    rows: list[list[Cell]] = [
        [who, _to_trial(record.id, trial.number + 1), figure_text(trial.value or 0.0, record.objective),
         settings_text(trial.settings)]
        for who, trial in (("best so far", best), ("preset", default))
        if trial is not None
    ]  # fmt: skip
    return [table(["", "trial", head(record.objective), f"settings of {best.method}"], rows, "The best so far", [2])]


def trial_part(watch: Watch, trial: Trial) -> list[Component]:
    """A trial, whole: its settings beside the preset's, its steps and where their outputs came from, its error."""
    record, plan = watch.record, searches.searched_plan(watch.record.id)
    first = plan.presets.get(trial.method, {}) if plan else {}
    value = trial.value if is_complete(trial) else trial.so_far
    said = f"{trial.method}, {WORDS.get(trial.state, trial.state)}"
    if value is not None:
        said += (
            f", {record.objective} {figure_text(value, record.objective)}{' %' if is_miou(record.objective) else ''}"
        )
        said += "" if is_complete(trial) else " so far"
    parts: list[Component] = [html.H3(f"Trial {trial.number + 1}"), html.P(said)]
    if trial.error:
        parts.append(html.P(trial.error, className="problem"))
    rows: list[list[Cell]] = [
        [key, html.Strong(shown(own)) if own != first.get(key) else shown(own), shown(first.get(key))]
        for key, own in trial.settings.items()
    ]
    parts.append(table(["setting", "value", "preset"], rows, "Settings; bold differs from the preset"))
    if steps := searches.steps_of(trial.run) if trial.steps is None and trial.ended else trial.steps:
        lines: list[list[Cell]] = [
            [step.key, {"waited": "waited for"}.get(step.how, step.how), _origins(watch, trial, step.origins)]
            for step in steps
        ]
        parts.append(table(["step", "", "computed by"], lines, "Steps"))
    if trial.state == names.COMPLETE:
        parts.append(html.P(["Done again by: ", html.Code(command("wsss", "reproduce", trial.run))]))
    return parts


def figure_text(value: float, metric: str) -> str:
    """A metric's value for people: mIoU in percent."""
    return f"{100 * value:.2f}" if is_miou(metric) else f"{value:.4g}"


def _verdict(verdict: Mapping[str, Any], record: SearchRecord) -> Iterator[Component]:
    taken = "the best trial is taken" if verdict.get("better") else "the preset's own settings stay"
    yield html.P(f"Best less preset on dev: {_difference(verdict, record.objective)}; {taken}.")
    every = verdict.get("methods") or [verdict]
    finals = sorted({name for each in every for name in _taken(each).get("final", {})})
    rows: list[list[Cell]] = []
    for each in every:
        best, run, of_run = each["best"], _taken(each).get("run", ""), _taken(each).get("final", {})
        rows.append(
            [
                best["candidate"]["method"],
                _mean(each["default"], record.objective),
                [_mean(best, record.objective), ", ", _to_trial(record.id, best["trial"] + 1)],
                _difference(each, record.objective),
                "best" if each.get("better") else "preset",
                *(figure_text(of_run[name], name) if name in of_run else "–" for name in finals),
                dcc.Link(run[:8], href=address("/compare", runs=run)) if run else "–",
                settings_text(_changed(best, each["default"])) or "nothing",
            ]
        )
    of_whole = [head(name) for name in finals]
    heads = ["method", "preset", "best", "difference (95 %)", "taken", *of_whole, "whole run", "what the best changes"]
    caption = f"{head(record.objective)}; of what is taken, its whole run"
    yield table(heads, rows, caption, [1, 2, *range(5, 5 + len(finals))])


def _taken(verdict: Mapping[str, Any]) -> Mapping[str, Any]:
    taken: Mapping[str, Any] = verdict["best"] if verdict.get("better") else verdict["default"]
    return taken


def _difference(verdict: Mapping[str, Any], objective: str) -> str:
    if verdict["best"]["candidate"] == verdict["default"]["candidate"]:
        return "0"
    scale, interval = (100 if is_miou(objective) else 1), verdict.get("interval")
    span = f" ({scale * interval[0]:+.2f} to {scale * interval[1]:+.2f})" if interval else ""
    return f"{scale * verdict['difference']:+.2f}{span}"


def _changed(best: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the best that are not the preset's; all of them where the preset is another method's."""
    same = best["candidate"]["method"] == default["candidate"]["method"]
    before = default["candidate"]["settings"] if same else {}
    return {key: value for key, value in best["candidate"]["settings"].items() if value != before.get(key)}


def _mean(measure: Mapping[str, Any], objective: str) -> str:
    values = measure.get("values") or [measure["value"]]
    deviation = f" ± {figure_text(stdev(values), objective)}" if len(values) > 1 else ""
    return figure_text(mean(values), objective) + deviation


def head(metric: str) -> str:
    """What stands above a metric's values."""
    return f"{metric}, %" if is_miou(metric) else metric


def _origins(watch: Watch, trial: Trial, origins: Sequence[str]) -> list[str | Component]:
    """Who computed a step's output; a trial is a way to it."""
    parts: list[str | Component] = []
    for run in origins:
        name = "this trial" if run == trial.run else watch.origin(run)
        number = name.removeprefix("trial ")
        parts += [", " if parts else "", _to_trial(watch.record.id, int(number)) if number.isdecimal() else name]
    return parts


def _to_trial(search: str, number: int) -> Component:
    return dcc.Link(f"trial {number}", href=address(PATH, search=search, trial=number))
