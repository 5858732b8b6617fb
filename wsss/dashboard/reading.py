"""What the pages read of the tracking store: in memory, refreshed by what changed. Nothing is kept on disk."""

from __future__ import annotations

from functools import lru_cache

from wsss.data import Dataset, layout, open_dataset
from wsss.data.dataset import dataset_names
from wsss.errors import UserError
from wsss.scores.evaluation import Evaluation
from wsss.tracking import maps, query
from wsss.tracking.maps import Maps
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
        if name not in dataset_names():
            raise UserError(
                f"there is no dataset {name} in this workspace; there are: {', '.join(dataset_names()) or 'none'}"
            )
        changed = max(path.stat().st_mtime_ns for path in layout.home(name).iterdir() if path.is_file())
        return _opened(name, changed)


@lru_cache(maxsize=8)
def _opened(name: str, _changed: int) -> Dataset:
    return open_dataset(name)
