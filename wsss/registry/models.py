"""Registered models: a name for each dataset and supervision, and beside it one for the candidates that runs register.

NAME-candidates    a version for each registered run; whoever trains writes it
NAME               versions that were promoted, copies of candidates; only who promotes writes it

Names that end in -direct are for localizers that predict without a segmenter.
"""

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
from wsss.progress import say
from wsss.registry.lineage import keep_lineage
from wsss.run.method import Outcome
from wsss.run.plan import Plan
from wsss.serving.card import model_card
from wsss.serving.learned import direct_inference, direct_step, measure_cost, prediction_evaluations, run_inference
from wsss.serving.networks import NETWORKS, SEGMENTER
from wsss.serving.package import DIRECT, NAME, log_model
from wsss.serving.segmenter import Inference
from wsss.tracking import names
from wsss.tracking.connection import mlflow_client
from wsss.tracking.query import every, run_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run, model_registry

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
CANDIDATES = names.CANDIDATES
DIRECT_NAMES = "-direct"


@dataclass(frozen=True)
class ModelVersion:
    """A version of a registered model.

    Attributes:
        name: the registered model's.
        number: the version's; empty for a model that is not registered.
        run: the id of the run it comes from; empty if it comes from none.
        source: the address that it was registered from.
    """

    name: str
    number: str
    run: str
    source: str = ""

    @property
    def address(self) -> str:
        return f"models:/{self.name}/{self.number}" if self.number else self.source

    def __str__(self) -> str:
        return f"{self.name} version {self.number}" if self.number else f"the model of run {self.run}"


def default_name(dataset: str, supervision: Iterable[str] = (), *, direct: bool = False) -> str:
    """What a dataset's models are registered as: a name for each supervision, so that a champion's like compete.

    Args:
        dataset: its name.
        supervision: what was seen beyond tags, such as {"masks"} (`wsss-DATASET-masks`).
        direct: of a localizer that predicts without a segmenter (`wsss-DATASET-direct`).
    """
    words = [re.sub("[^a-z0-9]+", "-", word.lower()).strip("-") for word in sorted(supervision)]
    return "-".join(["wsss", dataset, *words]) + DIRECT_NAMES * direct


def is_direct(name: str) -> bool:
    """Whether a registered model holds localizers that predict without a segmenter."""
    return name.removesuffix(CANDIDATES).endswith(DIRECT_NAMES)


def register(model_uri: str, name: str) -> ModelVersion:
    """Make a logged model (`models:/m-...`) a version of a registered model; one that is a version stays that version.

    Raises:
        UserError: there is no such logged model, or MLflow refuses the name.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow_client()
    try:
        if known := _registered_as(client, name, model_uri):
            return known
        return _version(mlflow.register_model(model_uri, name))
    except MlflowException as error:
        raise UserError(f"{model_uri} can't be registered as {name}: {' '.join(str(error).split())}") from None


def candidates(name: str) -> str:
    """The registered model that holds the candidates of a name."""
    return name if name.endswith(CANDIDATES) else name + CANDIDATES


def publish(plan: Plan, dataset: Dataset, trained: StepResult, outcome: Outcome) -> str:
    """Package a run's trained network, log it with the run and register it as a candidate; the version's address.

    So is a localizer that predicts without a segmenter, under a name of its own, where a package may hold its network.
    """
    keep_lineage(outcome.run_id, dataset, plan)
    name = default_name(dataset.name, plan.supervision)
    step = direct_step(plan)
    if step and step.implementation in NETWORKS and (localizer := outcome.steps.get(f"{step.stage}.train")):
        how, kind = direct_inference(step, dataset), step.implementation
        address = _publish(plan, dataset, localizer, outcome, how, name + DIRECT_NAMES, kind)
        say(f"the localizer, which predicts as `direct`, is {address}")
    return _publish(plan, dataset, trained, outcome, run_inference(plan, dataset), name)


def _publish(
    plan: Plan,
    dataset: Dataset,
    trained: StepResult,
    outcome: Outcome,
    inference: Inference,
    name: str,
    kind: str = SEGMENTER,
) -> str:
    what = "pred" if kind == SEGMENTER else "direct"
    card = model_card(
        plan,
        dataset,
        outcome.run_id,
        outcome.metrics,
        inference,
        cost=measure_cost(trained, dataset, inference, kind),
        evaluations=prediction_evaluations(outcome.steps, what),
        lineage=_tags_of_run(outcome.run_id),
        kind=kind,
    )
    address = log_model(outcome.run_id, trained.folder, dataset.classes, card, inference, kind)
    return register(address, candidates(name)).address


def find_version(candidate: str, name: str, enter: bool = True) -> ModelVersion:
    """What asks to become champion of a registered model.

    Args:
        candidate: a run's id; a version of the candidates, or, where these have none of that number, of the model
            itself (as the version before registered them); or the address of one, `models:/NAME/VERSION`.
        name: the registered model.
        enter: register a run's model as a candidate if it is no version of either yet.

    Raises:
        UserError: no such version or run, a run without a model, or the version of another name.
    """
    client = mlflow_client()
    if candidate.startswith("models:/"):
        of, _, number = candidate.removeprefix("models:/").rpartition("/")
        if of not in (name, candidates(name)) or not number.isdecimal():
            raise UserError(
                f"{candidate} is no candidate of {name}; give a run's id, models:/{candidates(name)}/VERSION or "
                f"models:/{name}/VERSION"
            )
        return _numbered(client, number, of)
    if candidate.isdecimal():
        try:
            return _numbered(client, candidate, candidates(name))
        except UserError:
            return _numbered(client, candidate, name)
    source = _model_of(client, candidate, DIRECT if is_direct(name) else NAME)
    for of in (candidates(name), name):
        if known := _registered_as(client, of, source):
            return known
    return register(source, candidates(name)) if enter else ModelVersion("", "", candidate, source)


def promoted_copy(version: ModelVersion, name: str, enter: bool = True) -> ModelVersion | None:
    """The version of a registered model that a candidate is, or becomes by a copy; no files are moved.

    Args:
        version: the candidate.
        name: the registered model.
        enter: copy it if it is no version yet.

    Raises:
        UserError: MLflow refuses.
    """
    from mlflow.exceptions import MlflowException

    client = mlflow_client()
    if version.name == name:
        return version
    try:
        known = _registered_as(client, name, version.address, version.source)
        return known or (_version(client.copy_model_version(version.address, name)) if enter else None)
    except MlflowException as error:
        raise UserError(
            f"{version} can't be copied into {name}: {' '.join(str(error).split())}; only who may write {name} promotes"
        ) from None


def _registered_as(client: MlflowClient, name: str, *sources: str) -> ModelVersion | None:
    """The version of a registered model that was made from one of some addresses."""
    quoted = f'"{name}"' if "'" in name else f"'{name}'"
    for known in every(lambda page: client.search_model_versions(f"name = {quoted}", page_token=page)):
        if known.source in sources:
            return _version(known)
    return None


def _numbered(client: MlflowClient, number: str, name: str) -> ModelVersion:
    with _known(f"version {number} of the registered model {name}"):
        return _version(client.get_model_version(name, number))


def model_of_run(run_id: str) -> str:
    """The address (`models:/m-...`) of the segmenter that a run logged.

    Raises:
        UserError: there is no such run, or it logged none.
    """
    return _model_of(mlflow_client(), run_id, NAME)


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
    return ModelVersion(found.name, str(found.version), found.run_id or "", found.source or "")


def _model_of(client: MlflowClient, run_id: str, name: str) -> str:
    address = logged_model(_run(client, run_id), name)
    if not address and name == DIRECT:
        raise UserError(f"run {run_id} has logged no localizer that predicts by itself; its segmenter has another name")
    if not address:
        raise UserError(f"run {run_id} has logged no model; only a run that trained its segment stage has one")
    return address


def logged_model(run: Run, name: str = NAME) -> str:
    """The address (`models:/m-...`) of the first model of a name that a run logged; empty if it logged none.

    Args:
        run: MLflow's.
        name: the segmenter's, or a localizer's (`wsss.serving.package.DIRECT`).
    """
    client, outputs = mlflow_client(), run.outputs.model_outputs if run.outputs else []
    models = [client.get_logged_model(output.model_id) for output in outputs]
    named = sorted((model.creation_timestamp, model.model_id) for model in models if model.name == name)
    return f"models:/{named[0][1]}" if named else ""


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
