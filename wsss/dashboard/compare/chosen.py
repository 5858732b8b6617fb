"""Which of several runs' scores are compared, where nobody chose or what was chosen is not there."""

from __future__ import annotations

from collections.abc import Sequence

from wsss.tables.comparison import places
from wsss.tracking.query import RunRecord

MOST = 8
"""Runs that have a colour of their own and stand beside each other on a screen."""


def place(runs: Sequence[RunRecord], split: str, what: str) -> tuple[str, str]:
    """Split and what is scored as wanted; what is empty is the most telling that a run has."""
    known = places(runs)
    usual = known[0] if known else ("val", "pred_crf")
    first = next((each for each in known if split in ("", each[0]) and what in ("", each[1])), usual)
    return split or first[0], what or first[1]


def one_of(runs: Sequence[RunRecord], run_id: str, split: str, what: str) -> str:
    """The id of a run as wanted; else of the first that was scored so, or of the first; empty without runs."""
    ids = [run.id for run in runs]
    scored_so = [run.id for run in runs if (split, what) in places([run])]
    return run_id if run_id in ids else next(iter(scored_so or ids), "")
