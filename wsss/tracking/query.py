"""Reading runs back: what tables and pages are made from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from wsss.commands import command
from wsss.errors import UserError
from wsss.progress import say
from wsss.scores import metric_names
from wsss.scores.evaluation import Evaluation, decode
from wsss.tracking import names
from wsss.tracking.artifacts import read_artifact
from wsss.tracking.connection import mlflow_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.store.entities import PagedList

PAGE = 500
_NEEDED = (names.METHOD, names.PRESET, names.DATASET, names.RNG, names.GROUP, names.SUPERVISION)
"""Tags without which a run can't be placed in a table: those of an older schema lack some."""
Entity = TypeVar("Entity")


@dataclass(frozen=True)
class RunRecord:
    """A method's run.

    Attributes:
        id: MLflow's.
        status: "RUNNING", "FINISHED", "FAILED" or "KILLED".
        method: its name.
        preset: its name.
        dataset: its name.
        rng: the seed.
        group: equal for runs that differ in nothing but the rng.
        supervision: what was seen beyond tags.
        start: when it began.
        tags, params, metrics: all of them by name; of a metric the last value.
    """

    id: str
    status: str
    method: str
    preset: str
    dataset: str
    rng: int
    group: str
    supervision: frozenset[str]
    start: datetime
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]

    @classmethod
    def of(cls, run: Run) -> RunRecord:
        """The record of MLflow's run, which `is_whole`."""
        info, data = run.info, run.data
        return cls.made(info.run_id, info.status, info.start_time, data.tags, data.params, data.metrics)

    @classmethod
    def made(
        cls,
        run_id: str,
        status: str,
        start_ms: int,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        metrics: Mapping[str, float],
    ) -> RunRecord:
        """The record of what MLflow keeps of a run; `start_ms` are milliseconds since 1970."""
        return cls(
            id=run_id,
            status=status,
            method=tags[names.METHOD],
            preset=tags[names.PRESET],
            dataset=tags[names.DATASET],
            rng=int(tags[names.RNG]),
            group=tags[names.GROUP],
            supervision=frozenset(filter(None, tags[names.SUPERVISION].split(", "))),
            start=datetime.fromtimestamp(start_ms / 1000, UTC),
            tags=tags,
            params=params,
            metrics=metrics,
        )


def runs(dataset: str | None = None, method: str | None = None, finished: bool = True) -> list[RunRecord]:
    """The methods' runs, newest first, of all experiments; those of an older schema are left out.

    Args:
        dataset, method: only those with this name.
        finished: leave out the ones that are running, failed or killed.

    Raises:
        UserError: the tracking store can't be used.
    """
    wanted = {names.KIND: names.METHOD_RUN, names.DATASET: dataset, names.METHOD: method}
    conditions = [f"tags.`{tag}` = {_quoted(value)}" for tag, value in wanted.items() if value]
    if finished:
        conditions.append("attributes.status = 'FINISHED'")
    return [RunRecord.of(run) for run in search(mlflow_client(), " and ".join(conditions)) if is_whole(run.data.tags)]


def is_whole(tags: Mapping[str, str]) -> bool:
    """Whether a run has the tags that place it in a table; one of an older schema may not."""
    return all(tag in tags for tag in _NEEDED) and re.fullmatch(r"-?\d+", tags[names.RNG]) is not None


def find_run(run_id: str) -> RunRecord:
    """The method's run of an id, MLflow's or that of a record that was brought in.

    Raises:
        UserError: there is no such run, or it is something else's; or the tracking store can't be used.
    """
    listing = command("wsss", "compare", "--wide")
    run = run_of(mlflow_client(), run_id)
    if run is None:
        raise UserError(f"there is no run {run_id}; `{listing}` lists the runs and their ids")
    if run.data.tags.get(names.KIND) != names.METHOD_RUN:
        raise UserError(f"run {run_id} is not the run of a method; `{listing}` lists those and their ids")
    if not is_whole(run.data.tags):
        raise UserError(f"run {run_id} lacks tags that runs have ({', '.join(_NEEDED)}): an older version made it")
    return RunRecord.of(run)


def run_of(client: MlflowClient, run_id: str) -> Run | None:
    """MLflow's run of an id, its own or that of a record that was brought in; None without any."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    return run_of_record(client, run_id)


def run_of_record(client: MlflowClient, record_id: str) -> Run | None:
    """The run that a record was brought in as; None where it was not."""
    if not re.fullmatch("[0-9a-f]{32}", record_id):
        return None
    return next(search(client, f"tags.`{names.RUN_ID}` = '{record_id}'"), None)


def evaluation(run: RunRecord, split: str, what: str) -> Evaluation | None:
    """The record of an evaluation of a run; None where the run has none. What was read stays in memory.

    Args:
        run: a method's run.
        split: such as "val".
        what: a name out of `wsss.scores.scored.SCORED`.

    Raises:
        UserError: the record can't be read, or the tracking store can't be used.
    """
    if not any(key.startswith(metric_names.metric(split, what, "")) for key in run.metrics):
        return None
    try:
        return _evaluation(run.id, split, what)
    except FileNotFoundError as error:
        say(f"{error}; what is computed from {names.confusion_file(split, what)} is left out")
        return None


@lru_cache(maxsize=256)
def _evaluation(run_id: str, split: str, what: str) -> Evaluation:
    path = names.confusion_file(split, what)
    return decode(read_artifact(run_id, path), f"artifact {path} of run {run_id}")


def experiments(client: MlflowClient) -> list[str]:
    """The ids of all experiments but the deleted ones."""
    pages = every(lambda page: client.search_experiments(max_results=PAGE, page_token=page))
    return [experiment.experiment_id for experiment in pages]


def search(client: MlflowClient, condition: str, deleted: bool = False, within: str | None = None) -> Iterator[Run]:
    """The runs that meet a condition in MLflow's search language, newest first.

    Args:
        client: MLflow's.
        condition: in its search language.
        deleted: the runs that were deleted, instead of the others.
        within: the id of the experiment to look in; all by default.
    """
    from mlflow.entities import ViewType

    ids, order = [within] if within else experiments(client), ["attributes.start_time DESC"]
    view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    yield from every(
        lambda page: client.search_runs(ids, condition, view, max_results=PAGE, order_by=order, page_token=page)
    )


def stage_runs(client: MlflowClient, experiment: str, run: str) -> dict[str, Run]:
    """Stage to run, of a method's run in an experiment (both by id)."""
    condition = f"tags.`{names.MLFLOW_PARENT}` = '{run}' and tags.`{names.KIND}` = '{names.STAGE_RUN}'"
    stages = every(lambda page: client.search_runs([experiment], condition, max_results=PAGE, page_token=page))
    return {stage.data.tags[names.STAGE]: stage for stage in stages}


def every(search: Callable[[str | None], PagedList[Entity]]) -> Iterator[Entity]:
    """All that a search of MLflow's finds, page by page.

    Args:
        search: from the token of a page, None for the first, to the page.
    """
    token = None
    while True:
        page = search(token)
        yield from page
        token = page.token
        if not token:
            return


def _quoted(value: str) -> str:
    return f'"{value}"' if "'" in value else f"'{value}'"
