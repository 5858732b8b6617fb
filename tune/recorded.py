"""What has been recorded of a search's winner and of its trials, so that they can be done again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tune.search import data_digest
from wsss.errors import UserError
from wsss.run.plan import make_plan
from wsss.run.recorded import Recorded, recorded
from wsss.settings import as_text
from wsss.tracking import names
from wsss.tracking.artifacts import read_artifact
from wsss.tracking.connection import mlflow_client
from wsss.tracking.query import run_of, search

if TYPE_CHECKING:
    from mlflow.entities import Run


def find_recorded(run_id: str) -> Recorded:
    """What was recorded of a run: a method's, a search's (of what it found best), or a trial's.

    Raises:
        UserError: there is no such run, or it has no numbers that could come out again.
    """
    run = run_of(mlflow_client(), run_id)
    kind = run.data.tags.get(names.KIND) if run else None
    if run is None or kind not in (names.SEARCH_RUN, names.TRIAL_RUN):
        return recorded(run_id)
    if kind == names.TRIAL_RUN:
        return _of_trial(run)
    if best := run.data.tags.get(names.BEST_RUN):
        return recorded(best)
    number = run.data.tags.get(names.BEST_TRIAL)
    below = f"tags.`{names.MLFLOW_PARENT}` = '{run.info.run_id}' and tags.`{names.TRIAL}` = '{number}'"
    trial = next(search(mlflow_client(), below), None) if number else None
    if trial is None:
        raise UserError(f"search {run_id} has no best trial yet; reproduce it when it has ended")
    return _of_trial(trial)


def _of_trial(run: Run) -> Recorded:
    """A trial is done again as a run up to the stage that its objective is known after.

    Raises:
        UserError: it did not end with a value, or the record of its search is not there.
    """
    tags = run.data.tags
    title = f"trial {int(tags[names.TRIAL]) + 1}, run {run.info.run_id}"
    state = tags.get(names.TRIAL_STATE, names.RUNNING)
    if state != names.COMPLETE:
        raise UserError(f"{title}, is {state}; only a complete trial has a number to come out again")
    parent = tags[names.MLFLOW_PARENT]
    try:
        plan: Mapping[str, Any] = json.loads(read_artifact(parent, names.SEARCH_PLAN))
    except FileNotFoundError as error:
        raise UserError(f"{title}: {error}, which says what was searched") from None
    method, preset = tags[names.METHOD], tags[names.PRESET]
    objective = next(each["objective"] for each in plan["methods"] if each["method"] == method)
    fixed = dict(plan["fixed"])
    if len(plan["methods"]) > 1:
        known = make_plan(method, preset).settings.keys() | {"weights"}
        fixed = {key: value for key, value in fixed.items() if key in known}
    return Recorded(
        id=run.info.run_id,
        title=title,
        method=method,
        preset=preset,
        rng=int(tags[names.RNG]),
        settings=fixed | {key: as_text(json.loads(value)) for key, value in run.data.params.items()},
        until=objective["until"],
        data=plan["data"],
        metrics={objective["metric"]: run.data.metrics[objective["metric"]]},
        commit=tags.get(names.GIT_COMMIT, ""),
        dirty=tags.get(names.GIT_DIRTY) == "true",
        version=tags.get(names.VERSION, ""),
        digest=plan["digest"],
        digest_of=lambda dataset: data_digest(str(dataset.root)),
    )
