"""infra/: each role against each action, on a real MLflow server with accounts; the table is docs/operations.md's."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from infra_files import PAGE
from infra_server import AJAX, API, ROLES, Server

pytest_plugins = ("infra_files", "infra_server")
NAME, CANDIDATES = "wsss-shapes", "wsss-shapes-candidates"
PROXY = "/api/2.0/mlflow-artifacts"


@dataclass
class Things:
    """What there is on the server before anybody acts."""

    server: Server
    experiment: str
    run: str
    model: str
    candidate: str
    version: str

    @property
    def file(self) -> str:
        """The path of a file of the promoted version, as the artifact proxy has it."""
        return f"{self.experiment}/models/{self.model}/artifacts/model.safetensors"

    @property
    def kept(self) -> str:
        return (self.server.folder / "artifacts" / self.file).read_text()


def new_run(server: Server, who: str, experiment: str) -> str:
    return str(server.made(who, "runs/create", {"experiment_id": experiment})["run"]["info"]["run_id"])


def new_model(server: Server, who: str, experiment: str, run: str) -> str:
    """A logged model with a file, finished."""
    body = {"experiment_id": experiment, "name": "model", "source_run_id": run}
    model = str(server.made(who, "logged-models", body)["model"]["info"]["model_id"])
    path = f"{PROXY}/artifacts/{experiment}/models/{model}/artifacts/model.safetensors"
    assert server.ask(who, "PUT", path, content=b"as promoted").status_code == 200
    done = {"model_id": model, "status": "LOGGED_MODEL_READY"}
    assert server.ask(who, "PATCH", f"logged-models/{model}", done).status_code == 200
    return model


def new_candidate(server: Server, who: str, model: str, run: str) -> Any:
    body = {"name": CANDIDATES, "source": f"models:/{model}", "model_id": model, "run_id": run}
    return server.ask(who, "POST", "model-versions/create", body)


@pytest.fixture(scope="module")
def things(server: Server) -> Things:
    experiment = str(server.made("researcher", "experiments/create", {"name": f"team {uuid4().hex}"})["experiment_id"])
    run = new_run(server, "researcher", experiment)
    path = f"{PROXY}/artifacts/{experiment}/{run}/artifacts/notes.txt"
    assert server.ask("researcher", "PUT", path, content=b"notes").status_code == 200
    model = new_model(server, "researcher", experiment, run)
    candidate = new_candidate(server, "researcher", model, run).json()["model_version"]["version"]
    body = {"name": NAME, "source": f"models:/{CANDIDATES}/{candidate}"}
    version = server.made("promoter", "model-versions/create", body)["model_version"]["version"]
    server.made("promoter", "registered-models/alias", {"name": NAME, "alias": "champion", "version": version})
    return Things(server, experiment, run, model, candidate, version)


def own_experiment(things: Things, who: str) -> str:
    """An experiment that an account made itself; of who can't make any, another's."""
    answer = things.server.ask(who, "POST", "experiments/create", {"name": uuid4().hex})
    return str(answer.json()["experiment_id"]) if answer.status_code == 200 else things.experiment


def own_run(things: Things, who: str) -> tuple[str, str]:
    """A run that an account made itself, or another's, and its experiment."""
    experiment = own_experiment(things, who)
    return new_run(things.server, who if experiment != things.experiment else "admin", experiment), experiment


def account(things: Things) -> str:
    """A new account."""
    name = f"new-{uuid4().hex[:8]}"
    body = {"username": name, "password": secrets.token_hex(16)}
    things.server.made("admin", f"{API}/users/create", body)
    return name


def delete_run(things: Things, who: str, run: str) -> Any:
    return things.server.ask(who, "POST", "runs/delete", {"run_id": run})


def own_password(things: Things, who: str) -> Any:
    """Change it; from then on the account has the new one."""
    server, new = things.server, secrets.token_hex(16)
    body = {"username": who, "password": new, "current_password": server.passwords.get(who, "none")}
    answer = server.ask(who, "PATCH", "users/update-password", body)
    if answer.status_code == 200:
        server.passwords[who] = new
        server.clients.pop(who).close()
    return answer


ACTIONS: dict[str, Callable[[Things, str], Any]] = {
    "see that the server is up": lambda t, w: t.server.ask(w, "GET", "/health"),
    "read a run": lambda t, w: t.server.ask(w, "GET", f"runs/get?run_id={t.run}"),
    "read a run through GraphQL": lambda t, w: graphql(t, w),
    "read a run's artifact through the proxy": lambda t, w: t.server.ask(
        w, "GET", f"{PROXY}/artifacts/{t.experiment}/{t.run}/artifacts/notes.txt"
    ),
    "read a promoted version and its files": lambda t, w: t.server.ask(
        w, "GET", f"/model-versions/get-artifact?name={NAME}&version={t.version}&path=model.safetensors"
    ),
    "change one's own password": own_password,
    "make an experiment": lambda t, w: t.server.ask(w, "POST", "experiments/create", {"name": uuid4().hex}),
    "log a run": lambda t, w: t.server.ask(w, "POST", "runs/create", {"experiment_id": t.experiment}),
    "change another's run": lambda t, w: t.server.ask(
        w, "POST", "runs/set-tag", {"run_id": t.run, "key": "note", "value": "x"}
    ),
    "write a run's artifact through the proxy": lambda t, w: t.server.ask(
        w, "PUT", f"{PROXY}/artifacts/{t.experiment}/{t.run}/artifacts/more.txt", content=b"more"
    ),
    "register a candidate": lambda t, w: new_candidate(t.server, w, t.model, t.run),
    "make the candidates of a new dataset": lambda t, w: t.server.ask(
        w, "POST", "registered-models/create", {"name": f"wsss-{uuid4().hex[:8]}-candidates"}
    ),
    "copy a candidate into the promoted model": lambda t, w: t.server.ask(
        w, "POST", "model-versions/create", {"name": NAME, "source": f"models:/{CANDIDATES}/{t.candidate}"}
    ),
    "set an alias on the promoted model": lambda t, w: t.server.ask(
        w, "POST", "registered-models/alias", {"name": NAME, "alias": "champion", "version": t.version}
    ),
    "unset an alias of the promoted model": lambda t, w: unset_alias(t, w),
    "set the promoted model's tags": lambda t, w: t.server.ask(
        w, "POST", "registered-models/set-tag", {"name": NAME, "key": "wsss.ledger", "value": "1 a b"}
    ),
    "describe a promoted version": lambda t, w: t.server.ask(
        w, "PATCH", "model-versions/update", {"name": NAME, "version": t.version, "description": "x"}
    ),
    "delete a run of another": lambda t, w: delete_run(t, w, new_run(t.server, "other", t.experiment)),
    "delete a run of one's own": lambda t, w: delete_run(t, w, own_run(t, w)[0]),
    "delete a run's artifacts": lambda t, w: delete_artifacts(t, w),
    "delete an experiment of one's own": lambda t, w: t.server.ask(
        w, "POST", "experiments/delete", {"experiment_id": own_experiment(t, w)}
    ),
    "make a model of another name": lambda t, w: t.server.ask(
        w, "POST", "registered-models/create", {"name": f"wsss-{uuid4().hex[:8]}"}
    ),
    "rename a model": lambda t, w: t.server.ask(
        w, "POST", "registered-models/rename", {"name": new_name(t), "new_name": uuid4().hex}
    ),
    "delete a promoted version": lambda t, w: t.server.ask(
        w, "DELETE", "model-versions/delete", {"name": NAME, "version": promoted_again(t)}
    ),
    "delete a registered model": lambda t, w: t.server.ask(
        w, "DELETE", "registered-models/delete", {"name": new_name(t)}
    ),
    "give another a permission": lambda t, w: t.server.ask(
        w,
        "POST",
        "/api/3.0/mlflow/users/permissions/grant",
        {
            "username": account(t),
            "resource_type": "experiment",
            "resource_id": own_experiment(t, w),
            "permission": "READ",
        },
    ),
    "make an account": lambda t, w: t.server.ask(
        w, "POST", "users/create", {"username": f"made-{uuid4().hex[:8]}", "password": secrets.token_hex(16)}
    ),
    "make an administrator": lambda t, w: t.server.ask(
        w, "PATCH", "users/update-admin", {"username": account(t), "is_admin": True}
    ),
    "remove an account": lambda t, w: t.server.ask(w, "DELETE", "users/delete", {"username": account(t)}),
    "use webhooks, the gateway, jobs, the assistant": lambda t, w: worst(
        t.server.ask(w, "GET", path)
        for path in (
            f"{AJAX}/webhooks",
            "/ajax-api/3.0/mlflow/gateway/secrets/list",
            "/ajax-api/3.0/jobs/search",
            "/ajax-api/3.0/mlflow/assistant/config",
        )
    ),
}


def graphql(things: Things, who: str) -> Any:
    query = f'query {{ mlflowGetRun(input: {{runId: "{things.run}"}}) {{ run {{ info {{ runId }} }} }} }}'
    answer = things.server.ask(who, "POST", "/graphql", {"query": query})
    if answer.status_code == 200 and things.run not in answer.text:
        answer.status_code = 403  # GraphQL says no within an answer
    return answer


def unset_alias(things: Things, who: str) -> Any:
    body = {"name": NAME, "alias": "previous"}
    things.server.made("admin", "registered-models/alias", body | {"version": things.version})
    return things.server.ask(who, "DELETE", "registered-models/alias", body)


def delete_artifacts(things: Things, who: str) -> Any:
    run, experiment = own_run(things, who)
    path = f"{PROXY}/artifacts/{experiment}/{run}/artifacts/a.txt"
    assert things.server.ask("admin", "PUT", path, content=b"a").status_code == 200
    return things.server.ask(who, "DELETE", path)


def new_name(things: Things) -> str:
    """A registered model of the administrator's that a promoter manages, as roles.yaml would have it."""
    name = f"wsss-{uuid4().hex[:8]}"
    things.server.made("admin", "registered-models/create", {"name": name})
    grant = {"username": "promoter", "resource_type": "registered_model", "resource_id": name, "permission": "MANAGE"}
    assert things.server.ask("admin", "POST", "/api/3.0/mlflow/users/permissions/grant", grant).status_code == 200
    return name


def promoted_again(things: Things) -> str:
    body = {"name": NAME, "source": f"models:/{CANDIDATES}/{things.candidate}"}
    return str(things.server.made("admin", "model-versions/create", body)["model_version"]["version"])


def worst(answers: Iterator[Any]) -> Any:
    """The answer that lets through most, so that one that does shows."""
    return min(answers, key=lambda answer: answer.status_code in (401, 403))


def table() -> dict[str, dict[str, bool]]:
    """What docs/operations.md says: of each action, whether each role may do it."""
    heads = [line for line in PAGE.splitlines() if line.startswith("| action |")]
    assert len(heads) == 1
    roles = [cell.strip() for cell in heads[0].strip("|").split("|")][1:]
    assert tuple(roles) == ROLES
    body = PAGE.split(heads[0])[1].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in body]
    assert all(set(row[1:]) <= {"yes", ""} and len(row) == 1 + len(ROLES) for row in rows)
    return {row[0]: {role: cell == "yes" for role, cell in zip(roles, row[1:], strict=True)} for row in rows}


def test_the_table_names_every_action() -> None:
    assert list(table()) == list(ACTIONS)


@pytest.mark.parametrize("action", ACTIONS)
def test_each_role_may_what_the_table_says(things: Things, action: str) -> None:
    may = {}
    for who in ROLES:
        answer = ACTIONS[action](things, who)
        may[who] = answer.status_code not in (401, 403)
        assert not may[who] or answer.status_code in (200, 204) or "jobs" in action, f"{who}: {answer.text}"
        assert who != "anonymous" or may[who] or answer.status_code == 401
    assert may == table()[action]
    assert things.kept == "as promoted"
