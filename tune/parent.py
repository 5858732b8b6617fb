"""The search's own run in MLflow, below which every trial has its run."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tune.search import SearchPlan
from tune.study import Study
from tune.verdict import Verdict
from wsss.data import open_dataset
from wsss.errors import UserError
from wsss.tracking import names
from wsss.tracking.connection import mlflow_client
from wsss.tracking.info import user
from wsss.tracking.liveness import Heartbeat, beat, mark_dead_runs, process_gone, process_tags
from wsss.tracking.opening import new_run
from wsss.tracking.writes import batch, send

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN = "run"
_RUN_ID = "MLFLOW_RUN_ID"


@dataclass(frozen=True)
class SearchRun:
    """The open run of a search."""

    id: str
    experiment: str
    client: MlflowClient

    def end(self, study: Study, verdict: Verdict | None) -> None:
        """Write what came out."""
        best = study.best
        if best is None or best.value is None:
            return
        self.client.log_metric(self.id, study.search.metric, best.value)
        self.client.set_tag(self.id, names.BEST_TRIAL, str(best.number))
        if verdict is not None:
            self.client.log_dict(self.id, verdict.as_json(), names.VERDICT)
            self.client.set_tag(self.id, names.BEST_RUN, verdict.run)


@contextmanager
def search_run(search: SearchPlan, study: Study) -> Iterator[SearchRun]:
    """The search's own run: that of MLFLOW_RUN_ID, the one it had before it was interrupted, or a new one.

    It ends as the `with` block ends: FINISHED, FAILED, or KILLED by a keyboard interrupt. Before that, and at the end,
    runs whose process is gone are marked FAILED, such as those of trials that were stopped.

    Raises:
        UserError: another process is running the same search, MLFLOW_RUN_ID names a run that is not there, or the
            tracking store can't be used.
    """
    client = mlflow_client()
    mark_dead_runs(client)
    run = _open(client, search, study)
    heartbeat = Heartbeat(partial(beat, client, run.info.run_id))
    heartbeat.start()
    try:
        yield SearchRun(run.info.run_id, run.info.experiment_id, client)
    except BaseException as error:
        # A store that is away must not hide what went wrong; the next command then marks the run.
        with contextlib.suppress(Exception):
            _end(client, run, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    else:
        _end(client, run, "FINISHED")
    finally:
        heartbeat.stop()


def _open(client: MlflowClient, search: SearchPlan, study: Study) -> Run:
    given = os.environ.pop(_RUN_ID, None)
    before = study.kept(RUN)
    run = _run(client, before) if before else None
    if run and run.info.status == "RUNNING" and not process_gone(run.data.tags):
        who = f"process {run.data.tags[names.PID]} on {run.data.tags[names.HOST]}"
        raise UserError(f"search {search.name} is being run by {who}; wait until it ends, then run the same command")
    if given:
        run = _run(client, given)
        if run is None:
            raise UserError(f"{_RUN_ID} names run {given}, which the tracking store does not have; unset it")
    tags = {
        names.KIND: names.SEARCH_RUN,
        names.METHOD: ",".join(each.method for each in search.methods),
        names.PRESET: search.preset,
        names.DATASET: open_dataset(search.data).name,
        names.RNG: str(search.rng),
        names.SEARCH: search.name,
        names.OBJECTIVE: search.metric,
        **process_tags(),
    }
    if run is None:
        run = new_run(client, search.name, tags | {names.MLFLOW_USER: user()})
        spaces = {each.method: {k: how.text for k, how in each.space.items()} for each in search.methods}
        content = {"space": spaces, **json.loads(json.dumps(search.content))}
        client.log_dict(run.info.run_id, content, names.SEARCH_PLAN)
    else:
        send(client, batch(run.info.run_id, tags=tags), run.info.run_id, Path())
        client.update_run(run.info.run_id, "RUNNING")
    study.keep(RUN, run.info.run_id)
    return run


def _run(client: MlflowClient, run_id: str) -> Run | None:
    """The run of that id, if it is there and not deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException:
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _end(client: MlflowClient, run: Run, status: str) -> None:
    client.set_terminated(run.info.run_id, status)
    mark_dead_runs(client)
