"""Runs that differ in nothing but the rng: what a row of a table is made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from wsss.tracking import names
from wsss.tracking.query import RunRecord


def same_but_for_rng(records: Iterable[RunRecord]) -> list[list[RunRecord]]:
    """The runs of each group of each dataset, by rng; of several with one rng the newest of those that went farthest.

    Runs that are a part of another, such as the trials of a search, are left out.

    Returns:
        The groups, in the order in which they were begun.
    """
    groups: dict[tuple[str, str], dict[int, RunRecord]] = defaultdict(dict)
    for record in sorted(records, key=lambda record: (len(record.metrics), record.start)):
        if names.MLFLOW_PARENT not in record.tags:
            groups[record.dataset, record.group][record.rng] = record
    rows = [[by_rng[rng] for rng in sorted(by_rng)] for by_rng in groups.values()]
    return sorted(rows, key=lambda row: min(record.start for record in row))
