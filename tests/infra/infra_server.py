"""A real MLflow server with accounts, as infra/mlflow sets it up, but for its database; and who asks it."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from infra_files import INFRA, STACK, documents

ROLES = ("anonymous", "reader", "researcher", "promoter", "admin")
DOMAIN = "example.org"
MARKED = {
    name: f"marked-{name.lower()}-{secrets.token_hex(8)}"
    for name in ("PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "MLFLOW_FLASK_SERVER_SECRET_KEY")
}
"""Secrets that a server is told, each of which is found where it shows."""
API, AJAX = "/api/2.0/mlflow", "/ajax-api/2.0/mlflow"


@dataclass
class Server:
    """A server that runs, and its accounts.

    Attributes:
        url: of the server.
        folder: of its databases, artifacts and log.
        process: the server's.
        passwords: by account.
        clients: by account; that of "anonymous" brings no password.
    """

    url: str
    folder: Path
    process: subprocess.Popen[bytes]
    passwords: dict[str, str]
    clients: dict[str, httpx.Client] = field(default_factory=dict)

    def ask(self, who: str, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """A request; a path that does not begin with / is one of MLflow's API."""
        if who not in self.clients:
            auth = None if who == "anonymous" else (who, self.passwords[who])
            self.clients[who] = httpx.Client(base_url=self.url, auth=auth, timeout=60)
        path = path if path.startswith("/") else f"{API}/{path}"
        return self.clients[who].request(method, path, json=body, **options)

    def made(self, who: str, path: str, body: Any) -> Any:
        """What a request made, which has to succeed."""
        answer = self.ask(who, "POST", path, body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def environment(self, who: str) -> dict[str, str]:
        """What a program of somebody's has to be told."""
        return {
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_TRACKING_USERNAME": who,
            "MLFLOW_TRACKING_PASSWORD": self.passwords[who],
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def hosts() -> dict[str, str]:
    """The names that compose.yaml has MLflow answer for, and the pages that may write."""
    environment = documents(STACK)[0]["services"]["mlflow"]["environment"]
    names = ("MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS")
    return {name: environment[name].replace("${WSSS_DOMAIN:-localhost}", DOMAIN) for name in names}


def start_mlflow(folder: Path, admin_password: str) -> tuple[str, subprocess.Popen[bytes]]:
    """Start a server with the file of infra/mlflow, whose database alone is another; its address and its process."""
    config = (INFRA / "mlflow" / "basic_auth.ini").read_text(encoding="utf-8")
    shipped = "database_uri = postgresql:///mlflow_auth"
    assert shipped in config
    config = config.replace(shipped, f"database_uri = sqlite:///{folder}/accounts.db")
    (folder / "basic_auth.ini").write_text(config, encoding="utf-8")
    port = free_port()
    environment = os.environ | {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": admin_password,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **MARKED,
        **hosts(),
    }
    for name in [n for n in environment if n.startswith("MLFLOW_TRACKING")]:
        del environment[name]
    words = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    words += ["--app-name=basic-auth", f"--backend-store-uri=sqlite:///{folder}/mlflow.db"]
    words += [f"--artifacts-destination={folder}/artifacts"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(words, env=environment, cwd=folder, stdout=log, stderr=log)
    return f"http://127.0.0.1:{port}", process


def wait_for(url: str, process: subprocess.Popen[bytes], folder: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, (folder / "server.log").read_text()
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise AssertionError((folder / "server.log").read_text())


@pytest.fixture(scope="session")
def accounts() -> Any:
    """infra/mlflow/accounts.py and beside it people.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(INFRA / "mlflow"))
        import accounts
        import people

        accounts.people = people
        yield accounts


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, accounts: Any, template: Path) -> Iterator[Server]:
    """A server with a reader, a researcher, another researcher and a promoter, all of them called by their role."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(template, folder / "mlflow.db")
    with sqlite3.connect(folder / "mlflow.db") as connection:
        connection.execute("UPDATE experiments SET artifact_location = 'mlflow-artifacts:/0'")
    passwords = {name: secrets.token_hex(16) for name in (*ROLES[1:], "other")}
    url, process = start_mlflow(folder, passwords["admin"])
    try:
        wait_for(url, process, folder)
        made = Server(url, folder, process, passwords)
        options = []
        for name in ("reader", "researcher", "promoter", "other"):
            file = folder / f"account_{name}"
            file.write_text(
                f"[mlflow]\nmlflow_tracking_username = {name}\nmlflow_tracking_password = {passwords[name]}\n"
            )
            options.append(f"--account={'researcher' if name == 'other' else name}={file}")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in made.environment("admin").items():
                patch.setenv(name, value)
            accounts.main([str(INFRA / "mlflow" / "roles.yaml"), *options])
        yield made
        for client in made.clients.values():
            client.close()
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def as_(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Become somebody, for programs that this process runs."""

    def become(who: str) -> None:
        for name, value in server.environment(who).items():
            monkeypatch.setenv(name, value)

    return become
