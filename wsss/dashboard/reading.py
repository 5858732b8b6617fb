"""What the pages read of the tracking store: in memory, refreshed by what changed. Nothing is kept on disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import Literal

from wsss.data import Dataset, layout, open_dataset
from wsss.data.workspace import dataset_names
from wsss.errors import UserError, one_line
from wsss.failures import sentence
from wsss.scores.evaluation import Evaluation
from wsss.tables.compare import Row, table
from wsss.tracking import curves, listing, maps, query
from wsss.tracking.curves import Curve
from wsss.tracking.maps import Maps
from wsss.tracking.query import RunRecord

EVERY_S = 3.0
"""Seconds between two looks at the store."""
FIRST_S = 1.5
"""How long the first page waits for runs; what is not read by then comes later."""
_IDLE_S = 60
"""How long after the last question the store is looked at."""
_KEPT = 64
"""So many runs are kept whole."""
_CLOCKS_S = 120
"""By how much the clocks of machines may differ."""


class Listing:
    """The runs as they were last read.

    Args:
        records: id to run, None for one of an older schema.
        whole: whether these are all.
        version: another for each reading that found something new.
    """

    def __init__(self, records: dict[str, RunRecord | None], whole: bool, version: int) -> None:
        self.records, self.whole, self.version = records, whole, version

    @cached_property
    def runs(self) -> list[RunRecord]:
        """The runs, newest first."""
        runs = [record for record in self.records.values() if record is not None]
        return sorted(runs, key=attrgetter("start"), reverse=True)

    @cached_property
    def table(self) -> list[Row]:
        """The rows of the table of methods."""
        return table(self.runs)

    @cached_property
    def running(self) -> list[str]:
        """The ids of those that are going."""
        return [run.id for run in self.runs if run.status == "RUNNING"]


class Reading:
    """The one place where the pages ask for runs.

    A thread reads all runs once, page by page, and then looks for what changed, as long as somebody asks.

    Args:
        every: seconds between two looks.
    """

    def __init__(self, every: float = EVERY_S) -> None:
        self._every = every
        self._whole: dict[str, RunRecord] = {}
        self._listing = Listing({}, False, 0)
        self._trouble = ""
        self._looked = self._asked = 0.0
        self._thread: threading.Thread | None = None
        self._begun, self._answered, self._closed = threading.Lock(), threading.Event(), threading.Event()

    def runs(self) -> list[RunRecord]:
        """The methods' runs, newest first, as far as they are read: metrics of them are mIoU, times and memory.

        Raises:
            UserError: the tracking store can't be used, and never could.
        """
        return self.listing().runs

    def listing(self) -> Listing:
        """The runs with the number of their reading.

        Raises:
            UserError: the tracking store can't be used, and never could.
        """
        self._asked = time.monotonic()
        with self._begun:
            if self._thread is None:
                self._thread = threading.Thread(target=self._follow, name="reading", daemon=True)
                self._thread.start()
        if not self._listing.records:
            self._answered.wait(FIRST_S)
        if self._trouble and not self._listing.records:
            raise UserError(self._trouble)
        return self._listing

    def table(self) -> list[Row]:
        """The rows of the table of methods, of the runs as far as they are read.

        Raises:
            UserError: the tracking store can't be used, and never could.
        """
        return self.listing().table

    @property
    def said(self) -> str:
        """What is to be known of the reading, in a sentence: that the store is away, how far it is; often nothing."""
        self._asked = time.monotonic()
        if self._trouble:
            return f"{self._trouble}. What stands here was read before." if self._listing.records else self._trouble
        if not self._listing.whole and self._thread is not None:
            return f"reading runs: {len(self._listing.records):,} so far"
        return ""

    @property
    def version(self) -> int:
        """Another after each reading that found something new."""
        return self._listing.version

    def run(self, run_id: str) -> RunRecord:
        """A method's run, whole.

        Raises:
            UserError: there is no such run, or the tracking store can't be used.
        """
        return query.find_run(run_id)

    def evaluation(self, run: RunRecord, split: str, what: str) -> Evaluation | None:
        """The record of an evaluation of a run; None where the run has none.

        Raises:
            UserError: the record can't be read, or the tracking store can't be used.
        """
        return query.evaluation(run, split, what)

    def whole(self, run_ids: Sequence[str]) -> list[RunRecord | UserError]:
        """Methods' runs, each whole, or why it can't be had; finished ones stay in memory."""
        missing = [run_id for run_id in run_ids if run_id not in self._whole]

        def one(run_id: str) -> RunRecord | UserError:
            try:
                return self.run(run_id)
            except UserError as error:
                return error

        with ThreadPoolExecutor(len(missing) or 1) as pool:
            found = dict(zip(missing, pool.map(one, missing), strict=True))
        kept = {id: run for id, run in found.items() if isinstance(run, RunRecord) and run.status == "FINISHED"}
        # A page shows few of them: the oldest go first.
        self._whole = dict([*self._whole.items(), *kept.items()][-_KEPT:])
        return [found.get(run_id) or self._whole[run_id] for run_id in run_ids]

    def losses(self, runs: Sequence[RunRecord]) -> list[tuple[Curve, ...]]:
        """The losses of each run.

        Raises:
            UserError: the tracking store can't be used.
        """
        with ThreadPoolExecutor(len(runs) or 1) as pool:
            return list(pool.map(curves.losses, runs))

    def drawn(self, run: RunRecord) -> dict[str, list[str]]:
        """What a run shows, in the order in which it is made, to the images of which it does; empty without maps.

        Raises:
            UserError: its maps can't be read, or the tracking store can't be used.
        """
        return maps.drawn(run)

    def maps(self, run_id: str, what: str) -> Maps:
        """The maps of one thing that a run shows.

        Raises:
            UserError: the run has none, they can't be read, or the tracking store can't be used.
        """
        return maps.read(run_id, what)

    def dataset(self, name: str) -> Dataset:
        """A dataset of the workspace, opened again when its files changed.

        Raises:
            UserError: there is none of that name, or it is damaged.
        """
        names = dataset_names()
        if name not in names:
            raise UserError(f"there is no dataset {name} in this workspace; there are: {', '.join(names) or 'none'}")
        changed = max(path.stat().st_mtime_ns for path in layout.home(name).iterdir() if path.is_file())
        return _opened(name, changed)

    def close(self) -> None:
        """Look no more."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _follow(self) -> None:
        while True:
            begun = time.time()
            try:
                self._look()
                self._trouble, self._looked = "", begun
            except Exception as error:  # the pages go on with what was read
                known = sentence(error)
                self._trouble = known or f"the tracking store can't be read: {type(error).__name__}, {one_line(error)}"
            self._answered.set()
            while not self._closed.wait(self._every):
                if time.monotonic() < self._asked + _IDLE_S:
                    break
            else:
                return

    def _look(self) -> None:
        before = self._listing
        if not before.records and not listing.is_there():
            self._listing = Listing({}, True, before.version)
            return
        if not before.whole:
            self._read_all(shown=True)
            return
        found = listing.changed(self._looked - _CLOCKS_S, before.running)
        if news := [run_id for run_id, run in found.items() if _differs(before.records.get(run_id, False), run)]:
            now = before.records | {run_id: found[run_id] for run_id in news}
            self._listing = Listing(now, True, before.version + 1)
        # Runs that were deleted, or that came with times of long ago, change the number alone.
        if not listing.are(len(self._listing.records)):
            self._read_all(shown=False)

    def _read_all(self, shown: bool) -> None:
        """Read every run; what is there so far is shown meanwhile, or what was there before."""
        records: dict[str, RunRecord | None] = {}
        for page in listing.pages():
            if self._closed.is_set():
                return
            records |= page
            if shown:
                self._listing = Listing(dict(records), False, self._listing.version + 1)
        self._listing = Listing(records, True, self._listing.version + 1)


def _differs(before: RunRecord | Literal[False] | None, now: RunRecord | None) -> bool:
    """Whether a page would show a run otherwise than before, False for not at all; its heartbeat alone is no news."""
    if not before or now is None:
        return before is not now
    return (before.status, before.start, before.metrics) != (now.status, now.start, now.metrics)


@lru_cache(maxsize=8)
def _opened(name: str, _changed: int) -> Dataset:
    return open_dataset(name)
