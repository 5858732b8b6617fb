"""What a search says at its end, and the preset file of what it found."""

from __future__ import annotations

import json

from tune.budget import Budget
from tune.leaderboard import leaderboard
from tune.runner import SearchResult
from tune.search import Candidate, SearchPlan, run_command
from tune.studies import resume_command
from tune.study import COMPLETE, FAILED, PRUNED
from tune.verdict import Measure, Verdict
from wsss.commands import command
from wsss.run.method import WORK
from wsss.storage import write_bytes
from wsss.tables.render import as_text


def say_result(result: SearchResult, budget: Budget) -> None:
    """Print what came out, and write the preset file of what is taken."""
    search = result.search
    counts = {state: sum(r.state == state for r in result.records) for state in (COMPLETE, PRUNED, FAILED)}
    others = ", ".join(
        f"{counts[state]} {word}" for state, word in ((PRUNED, "given up"), (FAILED, "failed")) if counts[state]
    )
    print(f"\n{counts[COMPLETE]} trials complete{f', {others}' if others else ''}; run {result.run}")
    if result.verdict is None:
        best = max if search.mode == "max" else min
        record = best((r for r in result.records if r.state == COMPLETE), key=lambda r: r.value or 0.0)
        print(f"best so far: {search.metric} {record.value:.4f}, trial {record.number + 1}")
        again = resume_command(search.name, "--trials", str(budget.trials))
        print(f"{result.left} of {budget.trials} trials are left; this goes on with them:\n  {again}")
        return
    for record in sorted(result.front, key=lambda record: record.facts["seconds"]):
        settings = " ".join(f"{key}={value}" for key, value in record.candidate.settings.items())
        print(f"  {record.value:.4f} in {record.facts['seconds']:.0f} s: trial {record.number + 1} {settings}")
    verdict = result.verdict
    print(_said(search, verdict))
    if verdict.methods:
        print(as_text([leaderboard(verdict, search.metric)], wide=True))
    for who, measure in (("best", verdict.best), ("preset", verdict.default)):
        print(f"  {who:7} {_line(search, measure)}")
    taken = verdict.taken.candidate
    first = search.of(taken.method).first
    for key, value in taken.settings.items():
        print(f"  {key} = {value}" + ("" if value == first[key] else f" ({first[key]} in the preset)"))
    file = WORK / "search" / f"{search.name}.json"
    write_bytes(file, preset_file(search, taken).encode())
    print(f"\nAs a preset file: {file}\nA whole run with it (what the search computed is reused):")
    print(f"  {run_command(search, taken)}")
    line = ("run", "--method", taken.method, "--preset", str(file), "--data", search.data)
    print(f"The same by the file:\n  {command('wsss', *line)}")


def preset_file(search: SearchPlan, candidate: Candidate) -> str:
    """What `--preset FILE` reads: the method, the preset that it stands on, and the settings that differ."""
    content = {"method": candidate.method, "preset": search.preset, "settings": search.settings_of(candidate)}
    return json.dumps(content, indent=1) + "\n"


def _said(search: SearchPlan, verdict: Verdict) -> str:
    points = 100 * verdict.difference
    interval = verdict.interval and f" [{100 * verdict.interval[0]:+.1f}, {100 * verdict.interval[1]:+.1f}]"
    what = f"{points:+.1f} points{interval or ''} on dev" if interval else f"{verdict.difference:+.4g}"
    if verdict.best.candidate == verdict.default.candidate:
        return f"the preset's own settings are the best of {search.name}"
    if verdict.better:
        return f"trial {verdict.best.trial + 1} beats the preset by {what}"
    return f"the preset stays: trial {verdict.best.trial + 1} differs from it by {what}, which is within chance"


def _line(search: SearchPlan, measure: Measure) -> str:
    text = f"{search.metric} {measure.mean:.4f}"
    if len(measure.values) > 1:
        text += f" ± {measure.deviation:.4f} over {len(measure.values)} rngs"
    by_split = {key.partition("/")[0]: 100 * value for key, value in measure.final.items()}
    if {"dev", "val"} <= set(by_split):
        dev, val = by_split["dev"], by_split["val"]
        text += (
            f"; its whole run {measure.run}: dev {dev:.1f}, val {val:.1f} (pred_crf), {val - dev:+.1f} from dev to val"
        )
    return text
