"""Roles and accounts of an MLflow server with authentication, from roles.yaml; run again, it brings what changed.

    python accounts.py roles.yaml [--account ROLE=FILE ...]

MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD are the administrator's. FILE is what the
account's owner will have as ~/.mlflow/credentials; its name and password are taken from there. One person more, another
role or one person less: people.py.
"""

from __future__ import annotations

import argparse
import configparser
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

WORKSPACE = "default"
"""The only one, where MLflow's workspaces are not enabled."""
PERMISSIONS = ("READ", "USE", "EDIT", "MANAGE")
NEEDED, ALLOWED = {"experiments", "promoted", "candidates"}, {"experiments", "promoted", "candidates", "versions"}
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


def main(arguments: list[str] | None = None) -> None:
    """Bring the server to what the files say."""
    parser = argparse.ArgumentParser(description="Roles and accounts on an MLflow server.")
    parser.add_argument("roles", type=Path)
    parser.add_argument("--account", action="append", default=[], metavar="ROLE=FILE")
    options = parser.parse_args(arguments)
    table = read_roles(options.roles)
    accounts = [account.partition("=")[::2] for account in options.account]
    for role, file in accounts:
        if role not in table["roles"]:
            raise SystemExit(f"--account {role}={file}: there is no role {role}; there are {', '.join(table['roles'])}")
    owners = [(role, *read_credentials(Path(file))) for role, file in accounts]
    client, auth = administrator()
    with told():
        make_models(client, table)
        ids = make_roles(auth, table)
        for role, name, password in owners:
            make_account(auth, name, password)
            give_role(auth, ids, name, role)
    print(f"roles {', '.join(ids)}; accounts {len(owners)}")


def read_roles(file: Path) -> dict[str, Any]:
    """What roles.yaml says: "datasets", "kinds", and of each of "roles" a permission for each thing.

    Raises:
        SystemExit: a word is missing, or one that MLflow does not know; nothing was changed.
    """
    try:
        table = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SystemExit(f"{file} can't be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(table, dict) or {"datasets", "kinds", "roles"} - table.keys():
        raise SystemExit(f"{file} has to have datasets, kinds and roles; infra/mlflow/roles.yaml is an example")
    for role, allowed in table["roles"].items():
        if not isinstance(allowed, dict) or not NEEDED <= allowed.keys() <= ALLOWED:
            raise SystemExit(
                f"{file}: role {role} has to say {', '.join(sorted(NEEDED))}, and may say versions; nothing was changed"
            )
        for what, permission in allowed.items():
            if permission not in PERMISSIONS:
                raise SystemExit(
                    f"{file}: role {role} has the permission {permission!r} for {what}; choose from "
                    f"{', '.join(PERMISSIONS)}; nothing was changed"
                )
    return table


def read_credentials(file: Path) -> tuple[str, str]:
    """Name and password of an account out of the file that its owner has.

    Raises:
        SystemExit: it is no such file.
    """
    credentials = configparser.ConfigParser(interpolation=None)
    try:
        credentials.read_string(file.read_text(encoding="utf-8"))
        name, password = (credentials["mlflow"][f"mlflow_tracking_{key}"] for key in ("username", "password"))
    except (OSError, UnicodeDecodeError, configparser.Error, KeyError):
        # The error would quote what stands in the file.
        raise SystemExit(f"{file} is no MLflow credentials file; infra/secrets.sh makes some") from None
    return name, password


def administrator() -> tuple[Any, Any]:
    """MLflow's clients of the registry and of the accounts, of an administrator who is known to the server.

    Raises:
        SystemExit: the server does not answer, the password is wrong, or the account is no administrator's.
    """
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    uri, name = os.environ.get("MLFLOW_TRACKING_URI", ""), os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    if not uri.startswith(("http://", "https://")) or not name or not os.environ.get("MLFLOW_TRACKING_PASSWORD"):
        raise SystemExit(
            "set MLFLOW_TRACKING_URI to the server, and MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to its "
            "administrator's; infra/secrets.sh makes the password, in mlflow_admin_password"
        )
    from mlflow import MlflowClient
    from mlflow.server.auth.client import AuthServiceClient

    client, auth = MlflowClient(), AuthServiceClient(uri)
    with told():
        if not auth.get_user(name).is_admin:
            raise SystemExit(f"{name} is no administrator of {uri}; log in as one")
    return client, auth


@contextmanager
def told() -> Iterator[None]:
    """What the server refuses, as one sentence that ends the program."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        uri, name, said = os.environ["MLFLOW_TRACKING_URI"], os.environ["MLFLOW_TRACKING_USERNAME"], str(error)
        if error.get_http_status_code() == 401 or "not authenticated" in said:
            raise SystemExit(f"{uri} does not take the password of {name}; correct MLFLOW_TRACKING_PASSWORD") from None
        if error.error_code == "INTERNAL_ERROR" and not error.get_http_status_code() == 403:
            raise SystemExit(f"{uri} does not answer; start it, or correct MLFLOW_TRACKING_URI") from None
        raise SystemExit(f"{uri} refuses: {' '.join(said.split())[:500]}") from None


def models(table: dict[str, Any], suffix: str = "") -> list[str]:
    """The names of the registered models of every dataset."""
    return [f"wsss-{dataset}{kind}{suffix}" for dataset in table["datasets"] for kind in table["kinds"]]


def grants(table: dict[str, Any], role: str) -> Iterator[tuple[str, str, str]]:
    """Resource type, pattern and permission of everything that a role may do."""
    allowed = table["roles"][role]
    # Named apart, these hold in an experiment of one's own too: nobody but an administrator deletes what was logged.
    for kind in ("experiment", "run", "logged_model"):
        yield kind, "*", allowed["experiments"]
    for name in models(table):
        yield "registered_model", name, allowed["promoted"]
    for name in models(table, "-candidates"):
        yield "registered_model", name, allowed["candidates"]
    if "versions" in allowed:
        yield "registered_model_version", "*", allowed["versions"]


def make_models(client: Any, table: dict[str, Any]) -> None:
    """Make the registered models that are not there, owned by the administrator."""
    there = {model.name for model in client.search_registered_models(max_results=1000)}
    for name in [*models(table), *models(table, "-candidates")]:
        if name not in there:
            client.create_registered_model(name)


def make_roles(auth: Any, table: dict[str, Any]) -> dict[str, int]:
    """Give each role the grants that the file says, and no others. Gives the roles' ids."""
    there = {role.name: role.id for role in auth.list_roles(WORKSPACE)}
    ids = {}
    for name in table["roles"]:
        ids[name] = there[name] if name in there else auth.create_role(WORKSPACE, name).id
        granted = {(g.resource_type, g.resource_pattern): g for g in auth.list_role_permissions(ids[name])}
        for kind, pattern, permission in grants(table, name):
            grant = granted.pop((kind, pattern), None)
            if grant is None:
                auth.add_role_permission(ids[name], kind, pattern, permission)
            elif grant.permission != permission:
                auth.update_role_permission(grant.id, permission)
        for grant in granted.values():
            auth.remove_role_permission(grant.id)
    return ids


def known(auth: Any, name: str) -> bool:
    """Whether there is an account of this name."""
    return unless_missing(lambda: auth.get_user(name)) is not None


def unless_missing(ask: Callable[[], Any]) -> Any:
    """What the server answers; None where it says that there is no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    return None


def make_account(auth: Any, name: str, password: str) -> None:
    """Make an account, or give the one that is there this password."""
    if known(auth, name):
        auth.update_user_password(name, password)
    else:
        auth.create_user(name, password)


def give_role(auth: Any, ids: dict[str, int], name: str, role: str) -> None:
    """Make a role the only one of ours that an account has; ids are those of all roles of ours."""
    held = {each.id for each in auth.list_user_roles(name)}
    if ids[role] not in held:
        auth.assign_role(name, ids[role])
    for other in held & set(ids.values()) - {ids[role]}:
        auth.unassign_role(name, other)


if __name__ == "__main__":
    main()
