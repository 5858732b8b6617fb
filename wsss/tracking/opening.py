"""Finding or making the MLflow run that a method's run writes to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from wsss.errors import UserError, one_line
from wsss.tracking import names
from wsss.tracking.beside import settle_addresses
from wsss.tracking.info import RunInfo, user
from wsss.tracking.liveness import find_interrupted, process_tags
from wsss.tracking.writes import Write, batch, send

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_RUN_ID = "MLFLOW_RUN_ID"


def open_run(client: MlflowClient, info: RunInfo, parent: str | None) -> Run:
    """The run, with its params, tags and inputs written.

    It is the run that MLFLOW_RUN_ID names (which `mlflow run` sets, its `-P` written as params: these stay as they
    are), else an interrupted run of the same fingerprint, else a new one.

    Raises:
        UserError: MLFLOW_RUN_ID names a run that is not there, or one of another fingerprint.
    """
    given = os.environ.pop(_RUN_ID, None)
    where = None if given else experiment_id(client)
    with _refusals():
        run = _given(client, given, info.fingerprint) if given else find_interrupted(client, info.fingerprint, where)
    if run is None:
        run = new_run(client, info.title, source_tags(info), where=where)
    else:
        client.update_run(run.info.run_id, "RUNNING")
        if names.ERROR in run.data.tags:
            client.delete_tag(run.info.run_id, names.ERROR)
    run_id = run.info.run_id
    params = {key: value for key, value in info.params.items() if key not in run.data.params}
    tags = info.all_tags | process_tags() | ({names.MLFLOW_PARENT: parent} if parent else {})
    for write in (batch(run_id, params=params, tags=tags), Write("inputs", run_id, {"datasets": info.dataset.inputs})):
        send(client, write, run_id, Path())
    return run


def _given(client: MlflowClient, run_id: str, fingerprint: str) -> Run:
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise UserError(f"{_RUN_ID} names run {run_id}, which the tracking store does not have; unset it") from error
    if run.data.tags.get(names.FINGERPRINT, fingerprint) != fingerprint:
        raise UserError(f"{_RUN_ID} names run {run_id}, which has other settings or other data; unset it")
    return run


def new_run(
    client: MlflowClient, title: str, tags: Mapping[str, str], start: int | None = None, where: str | None = None
) -> Run:
    """Begin a run.

    Args:
        client: MLflow's.
        title: the run's name in lists.
        tags: its first ones.
        start: milliseconds since 1970; now by default.
        where: the experiment's id; by default that of the surroundings, see `experiment_id`.

    Raises:
        UserError: there is no such experiment, or it was deleted.
    """
    with _refusals():
        return client.create_run(where or experiment_id(client), start, dict(tags), title)


def experiment_id(client: MlflowClient) -> str:
    """The id of MLFLOW_EXPERIMENT_NAME (made if new) or MLFLOW_EXPERIMENT_ID, else MLflow's default one.

    Raises:
        UserError: MLflow refuses the name.
    """
    if name := os.environ.get("MLFLOW_EXPERIMENT_NAME"):
        with _refusals():
            found = client.get_experiment_by_name(name)
            return str(found.experiment_id) if found else _new_experiment(client, name)
    return os.environ.get("MLFLOW_EXPERIMENT_ID", "0")


@contextmanager
def _refusals() -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise UserError(
            f"MLflow begins no run in this experiment ({one_line(error).rstrip('.')}); name one that exists, or a new "
            "one, in MLFLOW_EXPERIMENT_NAME, or bring back a deleted one: mlflow experiments restore -x ID"
        ) from error


def _new_experiment(client: MlflowClient, name: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        made = client.create_experiment(name)
    except MlflowException as error:
        # Of several processes that begin at once one makes it.
        there = client.get_experiment_by_name(name) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
        if there is None or there.lifecycle_stage != "active":
            raise
        return str(there.experiment_id)
    settle_addresses(client.tracking_uri)
    return str(made)


def source_tags(info: RunInfo) -> dict[str, str]:
    """What MLflow's own pages show of where a run comes from."""
    return {
        names.MLFLOW_USER: user(),
        names.MLFLOW_SOURCE_NAME: info.command,
        names.MLFLOW_SOURCE_TYPE: "LOCAL",
        **({names.MLFLOW_SOURCE_COMMIT: info.git.commit} if info.git.commit else {}),
    }
