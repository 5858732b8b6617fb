"""The leaderboard of a search: each method's preset and what was found, side by side, on dev and on val."""

from __future__ import annotations

from tune.verdict import Measure, Verdict
from tune.whole import FINAL_METRICS
from wsss.tables.render import Column, Table

_DEV, _VAL = FINAL_METRICS


def leaderboard(verdict: Verdict, metric: str) -> Table:
    """A row for each method, the one with the best trial first.

    Args:
        verdict: of a search.
        metric: the objective's.

    Returns:
        The objective as it is, mIoU of whole runs in percent; "-" where nothing was measured.
    """
    columns = (
        Column("method"),
        Column(f"preset: {metric}", right=True),
        Column("best trial", right=True),
        Column("difference on dev", right=True),
        Column("taken"),
        Column("preset: dev, val", rank=2, right=True),
        Column("best: dev, val", rank=2, right=True),
    )
    rows = [
        [
            each.best.candidate.method,
            _value(each.default),
            _value(each.best),
            _difference(each),
            "the trial" if each.better else "the preset",
            _final(each.default),
            _final(each.best) if each.better else "-",
        ]
        for each in verdict.methods or (verdict,)
    ]
    return Table("Whole runs: mIoU in percent of pred_crf on dev and val.", columns, rows)


def _value(measure: Measure) -> str:
    return f"{measure.mean:.4f}" + (f" ± {measure.deviation:.4f}" if len(measure.values) > 1 else "")


def _difference(verdict: Verdict) -> str:
    if verdict.best.candidate == verdict.default.candidate:
        return "0"
    interval = verdict.interval and f" [{verdict.interval[0]:+.4f}, {verdict.interval[1]:+.4f}]"
    return f"{verdict.difference:+.4f}{interval or ''}"


def _final(measure: Measure) -> str:
    both = [f"{100 * measure.final[name]:.1f}" if name in measure.final else "-" for name in (_DEV, _VAL)]
    return ", ".join(both) if measure.final else "-"
