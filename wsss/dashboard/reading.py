"""What the pages read of the tracking store: in memory, refreshed by what changed. Nothing is kept on disk."""

from __future__ import annotations

from wsss.scores.evaluation import Evaluation
from wsss.tracking import query
from wsss.tracking.query import RunRecord


class Reading:
    """The one place where the pages ask for runs."""

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
