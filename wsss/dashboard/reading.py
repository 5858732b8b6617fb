"""What the pages read of the tracking store: in memory, refreshed by what changed. Nothing is kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from wsss.errors import UserError
from wsss.scores.evaluation import Evaluation
from wsss.tracking import curves, query
from wsss.tracking.curves import Curve
from wsss.tracking.query import RunRecord

_KEPT = 64


class Reading:
    """The one place where the pages ask for runs."""

    def __init__(self) -> None:
        self._whole: dict[str, RunRecord] = {}

    def runs(self) -> list[RunRecord]:
        """The methods' runs, newest first.

        Raises:
            UserError: the tracking store can't be used.
        """
        return query.runs(finished=False)

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
