"""Roles and accounts of an MLflow server with authentication, from roles.yaml; run again, it adds what is missing.

    python accounts.py roles.yaml [--account ROLE=FILE ...]

MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD are the administrator's. FILE is what the
account's owner will have as ~/.mlflow/credentials; its name and password are taken from there.
"""

from __future__ import annotations

import argparse
import configparser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

WORKSPACE = "default"
"""The only one, where MLflow's workspaces are not enabled."""


def main(arguments: list[str] | None = None) -> None:
    """Bring the server to what the files say."""
    parser = argparse.ArgumentParser(description="Roles and accounts on an MLflow server.")
    parser.add_argument("roles", type=Path)
    parser.add_argument("--account", action="append", default=[], metavar="ROLE=FILE")
    options = parser.parse_args(arguments)
    from mlflow import MlflowClient
    from mlflow.server import get_app_client

    table = yaml.safe_load(options.roles.read_text(encoding="utf-8"))
    client = MlflowClient()
    auth = get_app_client("basic-auth", tracking_uri=client.tracking_uri)
    make_models(client, table)
    ids = make_roles(auth, table)
    for account in options.account:
        role, _, file = account.partition("=")
        if role not in ids:
            raise SystemExit(f"--account {account}: there is no role {role}; there are {', '.join(ids)}")
        make_account(auth, ids[role], Path(file))
    print(f"roles {', '.join(ids)}; accounts {len(options.account)}")


def models(table: dict[str, Any], suffix: str = "") -> list[str]:
    """The names of the registered models of every dataset."""
    return [f"wsss-{dataset}{kind}{suffix}" for dataset in table["datasets"] for kind in table["kinds"]]


def grants(table: dict[str, Any], role: str) -> Iterator[tuple[str, str, str]]:
    """Resource type, pattern and permission of everything that a role may do."""
    allowed = table["roles"][role]
    yield "experiment", "*", allowed["experiments"]
    for name in models(table):
        yield "registered_model", name, allowed["promoted"]
    for name in models(table, "-candidates"):
        yield "registered_model", name, allowed["candidates"]


def make_models(client: Any, table: dict[str, Any]) -> None:
    """Make the registered models that are not there, owned by the administrator."""
    there = {model.name for model in client.search_registered_models(max_results=1000)}
    for name in [*models(table), *models(table, "-candidates")]:
        if name not in there:
            client.create_registered_model(name)


def make_roles(auth: Any, table: dict[str, Any]) -> dict[str, int]:
    """Make roles and grants that are not there; a grant that changed is changed. Gives the roles' ids."""
    there = {role.name: role.id for role in auth.list_roles(WORKSPACE)}
    ids = {}
    for name in table["roles"]:
        ids[name] = there[name] if name in there else auth.create_role(WORKSPACE, name).id
        granted = {(g.resource_type, g.resource_pattern): g for g in auth.list_role_permissions(ids[name])}
        for kind, pattern, permission in grants(table, name):
            grant = granted.get((kind, pattern))
            if grant is None:
                auth.add_role_permission(ids[name], kind, pattern, permission)
            elif grant.permission != permission:
                auth.update_role_permission(grant.id, permission)
    return ids


def make_account(auth: Any, role: int, file: Path) -> None:
    """Make an account, or give it the password of the file, and its role."""
    from mlflow.exceptions import MlflowException

    credentials = configparser.ConfigParser(interpolation=None)
    if not credentials.read(file, encoding="utf-8") or "mlflow" not in credentials:
        raise SystemExit(f"{file} is no MLflow credentials file; infra/secrets.sh makes some")
    name, password = (credentials["mlflow"][f"mlflow_tracking_{key}"] for key in ("username", "password"))
    try:
        auth.get_user(name)
        auth.update_user_password(name, password)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        auth.create_user(name, password)
    if role not in {held.id for held in auth.list_user_roles(name)}:
        auth.assign_role(name, role)


if __name__ == "__main__":
    main()
