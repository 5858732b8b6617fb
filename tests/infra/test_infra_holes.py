"""infra/: ways around the roles that a real MLflow server with accounts leaves open, each closed."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from infra_server import AJAX, API, Server
from test_infra_roles import CANDIDATES, NAME, PROXY, Things, new_model, new_run, things

pytest_plugins = ("infra_files", "infra_server")
__all__ = ["things"]  # the fixture, of this module's own here


def outside(things: Things) -> list[str]:
    """Spellings of the path of a promoted version's file, and folders that hold it."""
    experiment, model = things.experiment, things.model
    file = things.file
    return [
        file,
        file.replace("/models/", "//models/"),
        file.replace("/models/", "/./models/"),
        quote(file, safe=""),
        quote(quote(file, safe=""), safe=""),
        file.replace("models", "%6dodels"),
        file.replace("models", "%256dodels"),
        f"{experiment}/{things.run}/../models/{model}/artifacts/model.safetensors",
        f"{experiment}/{things.run}/%2e%2e/models/{model}/artifacts/model.safetensors",
        f"{experiment}/models/{model}/artifacts/another.file",
        f"{experiment}/models/{model}/artifacts",
        f"{experiment}/models/{model}",
        f"{experiment}/models",
        experiment,
        ".",
        "%2e",
    ]


@pytest.mark.parametrize("who", ["researcher", "promoter"])
def test_nobody_writes_the_files_of_a_promoted_version(things: Things, who: str) -> None:
    for prefix in (PROXY, PROXY.replace("/api/", "/ajax-api/")):
        for path in outside(things):
            for method, family in (("PUT", "artifacts"), ("DELETE", "artifacts"), ("POST", "mpu/create")):
                body = {"content": b"evil"} if method == "PUT" else {}
                answer = things.server.ask(who, method, f"{prefix}/{family}/{path}", **body)
                assert answer.status_code in (400, 401, 403, 404, 405, 500), (method, path, answer.text)
                assert method == "PUT" or answer.status_code != 500, (method, path, answer.text)
    assert things.kept == "as promoted"
    folder = things.server.folder / "artifacts" / things.experiment / "models" / things.model / "artifacts"
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]


def test_a_registered_version_is_not_opened_again(things: Things) -> None:
    body = {"model_id": things.model, "status": "LOGGED_MODEL_PENDING"}
    for who in ("researcher", "promoter"):
        for prefix in (API, AJAX):
            answer = things.server.ask(who, "PATCH", f"{prefix}/logged-models/{things.model}", body)
            assert answer.status_code == 403 and "stay as they are" in answer.json()["message"]


def test_an_experiment_keeps_its_artifacts_where_the_server_does(things: Things) -> None:
    """Else the server would read and write, with its own keys, where its user pleases."""
    server = things.server
    for place in ("file:///run/secrets", f"mlflow-artifacts:/{things.experiment}/models/{things.model}", "s3://b/k"):
        for body in (
            {"name": uuid4().hex, "artifact_location": place},
            {"name": uuid4().hex, "artifactLocation": place},
            json.dumps({"name": uuid4().hex, "artifact_location": place}),
        ):
            answer = server.ask("researcher", "POST", "experiments/create", body)
            assert answer.status_code == 403 and "artifact_location" in answer.json()["message"], answer.text


def test_a_candidate_comes_from_this_server(things: Things) -> None:
    for source in ("s3://elsewhere/model", "file:///etc", "/etc", "https://example.org/m", "mlflow-artifacts://h/1/m"):
        body = {"name": CANDIDATES, "source": source, "run_id": things.run}
        answer = things.server.ask("researcher", "POST", "model-versions/create", body)
        assert answer.status_code == 403 and "models:/" in answer.json()["message"], answer.text


def test_a_researcher_can_not_move_the_champion_by_any_call_of_the_registry(things: Things) -> None:
    server = things.server
    version = {"name": NAME, "version": things.version}
    calls: list[tuple[str, str, Any]] = [
        ("POST", "registered-models/alias", {**version, "alias": "champion"}),
        ("DELETE", "registered-models/alias", {"name": NAME, "alias": "champion"}),
        ("POST", "registered-models/set-tag", {"name": NAME, "key": "wsss.ledger", "value": "x"}),
        ("DELETE", "registered-models/delete-tag", {"name": NAME, "key": "wsss.ledger"}),
        ("PATCH", "registered-models/update", {"name": NAME, "description": "x"}),
        ("POST", "registered-models/rename", {"name": NAME, "new_name": "mine"}),
        ("DELETE", "registered-models/delete", {"name": NAME}),
        ("POST", "model-versions/create", {"name": NAME, "source": f"models:/{CANDIDATES}/{things.candidate}"}),
        ("POST", "model-versions/create", {"name": NAME, "source": f"models:/{things.model}"}),
        ("POST", "model-versions/transition-stage", {**version, "stage": "Production"}),
        ("POST", "model-versions/set-tag", {**version, "key": "k", "value": "v"}),
        ("PATCH", "model-versions/update", {**version, "description": "x"}),
        ("DELETE", "model-versions/delete", version),
        ("DELETE", f"logged-models/{things.model}", None),
    ]
    for method, path, body in calls:
        for prefix in (API, AJAX):
            answer = server.ask("researcher", method, f"{prefix}/{path}", body)
            assert answer.status_code == 403, (method, path, answer.text)
    alias = server.ask("reader", "GET", f"registered-models/alias?name={NAME}&alias=champion").json()
    assert alias["model_version"]["version"] == things.version


def test_what_somebody_made_himself_gives_no_further_rights(things: Things) -> None:
    """MLflow makes who makes an experiment or a model its owner."""
    server = things.server
    mine = f"wsss-{uuid4().hex[:8]}-candidates"
    server.made("researcher", "registered-models/create", {"name": mine})
    for path, body in (
        ("registered-models/rename", {"name": mine, "new_name": f"wsss-{uuid4().hex[:8]}"}),
        ("/api/3.0/mlflow/users/permissions/grant",
         {"username": "reader", "resource_type": "registered_model", "resource_id": mine, "permission": "MANAGE"}),
    ):  # fmt: skip
        assert server.ask("researcher", "POST", path, body).status_code == 403
    experiment = server.made("researcher", "experiments/create", {"name": uuid4().hex})["experiment_id"]
    run = new_run(server, "researcher", experiment)
    model = new_model(server, "researcher", experiment, run)
    for method, path, body in (
        ("POST", "runs/delete", {"run_id": run}),
        ("DELETE", f"logged-models/{model}", None),
        ("POST", "experiments/delete", {"experiment_id": experiment}),
    ):
        assert server.ask("researcher", method, path, body).status_code == 403, path


def test_what_nothing_of_ours_needs_is_closed(things: Things) -> None:
    for method, path in (
        ("POST", f"{AJAX}/upload-artifact?run_uuid={things.run}&path=x"),
        ("POST", "/ajax-api/3.0/mlflow/demo/generate"),
        ("POST", "/ajax-api/3.0/mlflow/assistant/message"),
        ("POST", "/ajax-api/3.0/mlflow/gateway/secrets/create"),
        ("POST", "/ajax-api/3.0/mlflow/traces/search"),
        ("POST", "/v1/traces"),
        ("POST", "/gateway/x/mlflow/invocations"),
        ("POST", "/api/3.0/mlflow/datasets/create"),
        ("POST", "/api/3.0/mlflow/scorers/register"),
        ("GET", "/api/2.0/mlflow/webhooks"),
        ("GET", f"{API}/users/list"),
        ("GET", f"{API}/users/get?username=admin"),
        ("POST", "/api/2.0/preview/mlflow/experiments/create"),
        ("GET", "/signup"),
    ):
        answer = things.server.ask("promoter", method, path, {} if method == "POST" else None)
        assert answer.status_code in (403, 404), (path, answer.status_code, answer.text)


def test_nobody_without_an_account_gets_anything_but_health(server: Server) -> None:
    from mlflow.server import app
    from mlflow.server.auth import routes

    rules = {(method, rule.rule) for rule in app.url_map.iter_rules() for method in rule.methods or ()}
    rules |= {("GET", path) for path in vars(routes).values() if isinstance(path, str) and path.startswith("/")}
    rules |= {("POST", path) for _, path in rules if path.endswith(("create", "delete", "update", "search"))}
    native = ("/v1/traces", "/gateway/x", "/ajax-api/3.0/jobs/x", "/ajax-api/3.0/mlflow/assistant/config", "/metrics")
    rules |= {("GET", path) for path in (*native, "/docs", "/openapi.json", "/redoc", "/api/2.0/mlflow/nothing")}
    answered = set()
    for method, rule in rules:
        if method in ("OPTIONS", "HEAD"):
            continue
        answer = server.ask("anonymous", method, re.sub(r"<[^>]*>", "x", rule))
        assert answer.status_code >= 200
        if answer.status_code != 401:
            answered.add((rule, answer.status_code))
    assert len(rules) > 300
    # The program of MLflow's pages, and how the server is configured; neither tells of runs or people.
    known = {"/health", "/static-files/<path:path>", "/ajax-api/3.0/mlflow/server-info", "/api/3.0/mlflow/server-info"}
    assert {rule for rule, _ in answered} <= known | {"/static/<path:filename>"}, answered


def test_a_password_that_was_taken_back_and_an_account_that_is_gone(server: Server) -> None:
    name = f"gone-{uuid4().hex[:8]}"
    server.passwords[name] = uuid4().hex
    server.made("admin", "users/create", {"username": name, "password": server.passwords[name]})
    assert server.ask(name, "GET", "users/current").status_code == 200
    assert server.ask("admin", "DELETE", "users/delete", {"username": name}).status_code == 200
    assert server.ask(name, "GET", "users/current").status_code == 401
    server.passwords["reader-wrong"] = "no"
    assert server.ask("reader-wrong", "GET", "users/current").status_code == 401
