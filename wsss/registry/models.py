"""Registered models: a name for each dataset and supervision, a version for each registered run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsss.commands import command
from wsss.data import Dataset
from wsss.errors import UserError
from wsss.interface import StepResult
from wsss.run.method import Outcome
from wsss.run.plan import Plan
from wsss.serving.card import model_card
from wsss.serving.learned import measure_cost, prediction_evaluations, run_inference
from wsss.serving.package import log_model
from wsss.tracking import names
from wsss.tracking.connection import mlflow_client
from wsss.tracking.query import every, run_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run, model_registry

CHAMPION, PREVIOUS = "champion", "previous"


@dataclass(frozen=True)
class ModelVersion:
    """A version of a registered model.

    Attributes:
        name: the registered model's.
        number: the version's.
        run: the id of the run it comes from; empty if it comes from none.
    """

    name: str
    number: str
    run: str

    @property
    def address(self) -> str:
        return f"models:/{self.name}/{self.number}"

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"


def default_name(dataset: str, supervision: Iterable[str] = ()) -> str:
    """What a dataset's models are registered as: a name for each supervision, so that a champion's like compete.

    Args:
        dataset: its name.
        supervision: what was seen beyond tags, such as {"masks"} (`wsss-DATASET-masks`).
    """
    words = [re.sub("[^a-z0-9]+", "-", word.lower()).strip("-") for word in sorted(supervision)]
    return "-".join(["wsss", dataset, *words])


def register(model_uri: str, name: str) -> ModelVersion:
    """Make a logged model (`models:/m-...`) a version of a registered model; one that is a version stays that version.

    Raises:
        UserError: there is no such logged model, or MLflow refuses the name.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow_client()
    try:
        for known in every(lambda page: client.search_model_versions(f"name = '{name}'", page_token=page)):
            if known.source == model_uri:
                return _version(known)
        return _version(mlflow.register_model(model_uri, name))
    except MlflowException as error:
        raise UserError(f"{model_uri} can't be registered as {name}: {' '.join(str(error).split())}") from None


def publish(plan: Plan, dataset: Dataset, trained: StepResult, outcome: Outcome) -> str:
    """Package a run's trained network, log it with the run and register it; the address of the version."""
    inference = run_inference(plan, dataset)
    card = model_card(
        plan,
        dataset,
        outcome.run_id,
        outcome.metrics,
        inference,
        cost=measure_cost(trained, dataset, inference),
        evaluations=prediction_evaluations(outcome.steps),
        lineage=_tags_of_run(outcome.run_id),
    )
    address = log_model(outcome.run_id, trained.folder, dataset.classes, card, inference)
    return register(address, default_name(dataset.name, plan.supervision)).address


def find_version(candidate: str, name: str) -> ModelVersion:
    """A candidate as a version of a registered model; a run's model is registered if it was not.

    Args:
        candidate: a version's number or a run's id.
        name: the registered model.

    Raises:
        UserError: no such version or run, or a run without a model.
    """
    client = mlflow_client()
    if not candidate.isdecimal():
        return register(_model_of(client, candidate), name)
    with _known(f"version {candidate} of the registered model {name}"):
        return _version(client.get_model_version(name, candidate))


def model_of_run(run_id: str) -> str:
    """The address (`models:/m-...`) of the model that a run logged.

    Raises:
        UserError: there is no such run, or it logged none.
    """
    return _model_of(mlflow_client(), run_id)


def dataset_of_run(run_id: str) -> str:
    """The name of the dataset a run was on.

    Raises:
        UserError: there is no such run, or it names no dataset.
    """
    tags = _tags_of_run(run_id)
    if names.DATASET not in tags:
        raise UserError(f"run {run_id} names no dataset; say which one with --data")
    return str(tags[names.DATASET])


def supervision_of_run(run_id: str) -> frozenset[str] | None:
    """What a run saw beyond tags; None if it does not say.

    Raises:
        UserError: there is no such run.
    """
    tags = _tags_of_run(run_id)
    return frozenset(filter(None, tags[names.SUPERVISION].split(", "))) if names.SUPERVISION in tags else None


def _tags_of_run(run_id: str) -> dict[str, str]:
    return dict(_run(mlflow_client(), run_id).data.tags)


def _version(found: model_registry.ModelVersion) -> ModelVersion:
    return ModelVersion(found.name, str(found.version), found.run_id or "")


def _model_of(client: MlflowClient, run_id: str) -> str:
    address = logged_model(_run(client, run_id))
    if not address:
        raise UserError(f"run {run_id} has logged no model; only a run that trained its segment stage has one")
    return address


def logged_model(run: Run) -> str:
    """The address (`models:/m-...`) of the model that a run logged; empty if it logged none."""
    models = run.outputs.model_outputs if run.outputs else []
    return f"models:/{models[-1].model_id}" if models else ""


def _run(client: MlflowClient, run_id: str) -> Run:
    run = run_of(client, run_id)
    if run is None:
        raise _unknown(f"run {run_id}")
    return run


@contextmanager
def _known(what: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise _unknown(what) from None


def _unknown(what: str) -> UserError:
    return UserError(f"there is no {what}; `{command('wsss', 'compare', '--wide')}` lists the runs with their ids")
