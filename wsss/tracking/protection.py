"""What a tracking server with accounts asks beyond MLflow's permissions: whom it lets do what MLflow leaves open.

MLflow 3.17's roles can't say all that a team needs (docs/operations.md lists what they leave open): whoever may write
runs may also write the files of a version that was promoted, any account may make experiments and models, and parts of
MLflow that nothing here uses are open to every account. `infra/mlflow/basic_auth.ini` names `authenticate`, which the
server calls for each request; MLflow's own permissions are asked afterwards.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from wsss.tracking.names import CANDIDATES

if TYPE_CHECKING:
    from flask import Response
    from werkzeug.datastructures import Authorization

USED = re.compile(
    r"/|/version|/graphql|/get-artifact|/model-versions/get-artifact"
    r"|/(?:ajax-)?api/\d\.\d/(?:mlflow-artifacts/.+|mlflow/(?:"
    r"(?:experiments|runs|metrics|artifacts|logged-models|registered-models|model-versions)(?:/.+)?"
    r"|users/(?:current(?:/permissions)?|get|update-password)|ui-telemetry))"
)
"""The paths of the server that this project and MLflow's pages of runs and models use. All others are the
administrator's alone: gateway, assistant, jobs, webhooks, prompts' optimisation, scorers, traces, datasets, grants."""
_ARTIFACTS = re.compile(r"/(?:ajax-)?api/\d\.\d/mlflow-artifacts/(?:artifacts|mpu/(?:create|complete|abort))(?:/(.*))?")
_LOGGED_MODEL = re.compile(r"/(?:ajax-)?api/\d\.\d/mlflow/logged-models/([^/]+)")
_KEPT = "this belongs to a registered version, whose files stay as they are; log the model anew"


def authenticate() -> Authorization | Response:
    """Who asks, by MLflow's own accounts; or the refusal, 401 without an account and 403 with a sentence.

    MLflow asks several times in a request; the password, whose hash takes long, is compared once.
    """
    from flask import Response, g, make_response, request
    from mlflow.server import auth

    if (known := g.get("wsss_authorization")) is not None:
        return known
    authorization = auth.authenticate_request_basic_auth()
    if not isinstance(authorization, Response):
        username = str(authorization.username)
        if not auth.store.has_user(username):  # removed, while a password that was right is still remembered
            return auth.make_basic_auth_response()
        if not auth.store.get_user(username).is_admin and (why := _refusal(request, username)):
            body = {"error_code": "PERMISSION_DENIED", "message": why}
            return make_response(body, 403)
    g.wsss_authorization = authorization
    return authorization


def _refusal(request: Any, username: str) -> str:
    """Why a request of somebody who is no administrator is refused; empty where MLflow's permissions decide."""
    path, end = request.path, "/".join(request.path.split("/")[-2:])
    if not USED.fullmatch(path):
        return f"{path} is for administrators alone: nothing of wsss needs it"
    if match := _ARTIFACTS.fullmatch(path):
        return "" if request.method in ("GET", "HEAD") else _refusal_to_write(match[1] or "")
    if end in ("registered-models/create", "experiments/create", "model-versions/create"):
        return _refusal_to_make(end, username)
    if end == "registered-models/rename":
        return "models are renamed by administrators alone: their names are those of docs/registry.md"
    if request.method == "PATCH" and (match := _LOGGED_MODEL.fullmatch(path)) and _locations(f"/models/{match[1]}/"):
        return _KEPT
    return ""


def _refusal_to_make(what: str, username: str) -> str:
    """Why an experiment, a registered model or a version of one can't be made."""
    from mlflow.protos.model_registry_pb2 import CreateModelVersion, CreateRegisteredModel
    from mlflow.protos.service_pb2 import CreateExperiment
    from mlflow.server.handlers import _get_request_message

    # The message is read as MLflow reads it: it takes other spellings of a field, and JSON within JSON.
    if what == "model-versions/create":
        source = urlsplit(_get_request_message(CreateModelVersion()).source)
        here = source.scheme == "models" or (source.scheme == "mlflow-artifacts" and not source.netloc)
        return "" if here else "a version comes from this server (models:/...), since who loads it trusts its files"
    if not _may_write(username):
        return f"{username} only reads; an administrator gives the role researcher"
    if what == "registered-models/create":
        name = _get_request_message(CreateRegisteredModel()).name
        # MLflow's client asks for a model before each version of it; one that is there stays whose it is.
        if name.endswith(CANDIDATES) or _registered(name):
            return ""
        return (
            f"{name} is made by an administrator: add its dataset to infra/mlflow/roles.yaml and bring that here with "
            "infra/mlflow/accounts.py"
        )
    if _get_request_message(CreateExperiment()).artifact_location:
        return "an experiment's artifacts lie where the server keeps them: leave artifact_location out"
    return ""


def _may_write(username: str) -> bool:
    """Whether somebody's role writes runs."""
    from mlflow.server.auth import authorize
    from mlflow.server.auth.requirements import Requirement

    return bool(authorize(username, ("workspace", "*"), [Requirement("experiment", "*", "update")]))


def _refusal_to_write(path: str) -> str:
    """Why an artifact can't be written: it belongs to a version of a registered model, whose files stay as they are."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.uri import validate_path_is_safe

    try:
        place = posixpath.normpath(validate_path_is_safe(path))
    except MlflowException:
        return "this is no path of an artifact"
    if place == ".":
        return "all artifacts at once are an administrator's"
    kept = _locations("/".join(place.split("/")[:3]))
    if any(f"{place}/".startswith(f"{each}/") or each.startswith(f"{place}/") for each in kept):
        return _KEPT
    return ""


def _registered(name: str) -> bool:
    """Whether there is a registered model of this name."""
    from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel

    with _session() as session:
        return bool(session.query(SqlRegisteredModel).filter_by(name=name).count())


def _locations(part: str) -> list[str]:
    """Where the files of registered versions lie whose address has a part, as paths of artifacts."""
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion as Version

    with _session() as session:
        found = session.query(Version.storage_location).filter(Version.storage_location.contains(part, autoescape=True))
        return [urlsplit(location).path.strip("/") for (location,) in found]


def _session() -> Any:
    """A session of the registry's database."""
    from mlflow.server.handlers import _get_model_registry_store

    store: Any = _get_model_registry_store()
    return store.ManagedSessionMaker()
