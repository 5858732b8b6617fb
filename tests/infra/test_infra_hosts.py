"""infra/: names behind a proxy are ones that MLflow and the dashboard answer for, over HTTP; and where secrets show."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
from infra_files import INFRA, STACK, TEXTS, containers, documents
from infra_server import DOMAIN, MARKED, Server, free_port
from starlette.responses import PlainTextResponse

from wsss.dashboard.guard import Guard
from wsss.dashboard.sessions import COOKIE, Sessions
from wsss.serving.keys import ApiKeys

pytest_plugins = ("infra_files", "infra_server")
KEY = "a-key-of-sixteen-characters"


def names_of_the_proxy(site: str) -> list[str]:
    """The Host headers of requests that come through the proxy to a site, as Caddy and an ingress pass them on."""
    assert re.search(rf"^{site}\.{{\$WSSS_DOMAIN}} {{", TEXTS[INFRA / "reverse-proxy" / "Caddyfile"], re.M)
    return [f"{site}.{DOMAIN}", f"{site}.{DOMAIN}:443", f"{site}.{DOMAIN}:8443"]


def own_names(container: str) -> list[str]:
    """The names that a container's `--host-name` has it answer for."""
    (found,) = [c for c in containers() if c.where == container]
    names = [w.removeprefix("--host-name=") for w in found.words if w.startswith("--host-name=")]
    return [name.replace("${WSSS_DOMAIN:-localhost}", DOMAIN) for name in names]


def test_mlflow_answers_for_its_name_behind_the_proxy_and_for_no_other(server: Server) -> None:
    port = server.url.rpartition(":")[2]
    inside = ["mlflow:5000", f"localhost:{port}", f"127.0.0.1:{port}", "localhost"]
    for host in [*names_of_the_proxy("mlflow"), *inside]:
        answer = server.ask("reader", "GET", "experiments/search?max_results=1", headers={"Host": host})
        assert answer.status_code == 200, (host, answer.text)
    for host in ("evil.example.com", f"dashboard.{DOMAIN}", f"mlflow.{DOMAIN}.evil.com", "192.0.2.7:5000"):
        answer = server.ask("reader", "GET", "experiments/search?max_results=1", headers={"Host": host})
        assert answer.status_code == 403 and "Host" in answer.text, host
    evil = {"Host": f"mlflow.{DOMAIN}", "Origin": "https://evil.example.com"}
    answer = server.ask("researcher", "POST", "runs/search", {"experiment_ids": ["0"]}, headers=evil)
    assert answer.status_code == 403
    own = evil | {"Origin": f"https://mlflow.{DOMAIN}"}
    answer = server.ask("researcher", "POST", "runs/search", {"experiment_ids": ["0"]}, headers=own)
    assert answer.status_code == 200


def test_what_kubernetes_lets_in_is_what_the_pods_answer_for() -> None:
    hosts = {
        path["backend"]["service"]["name"]: rule["host"]
        for document in documents(INFRA / "k8s" / "base" / "ingress.yaml")
        for rule in document["spec"]["rules"]
        for path in rule["http"]["paths"]
    }
    (mlflow,) = [c for c in containers() if c.where == "mlflow.yaml: mlflow"]
    allowed = mlflow.variables["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert {hosts["mlflow"], f"{hosts['mlflow']}:*"} <= set(allowed)
    assert mlflow.variables["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == f"https://{hosts['mlflow']}"
    assert hosts["dashboard"] in own_names("dashboard.yaml: dashboard")


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """What stands before the dashboard's pages, with the names and the proxy's rights of compose.yaml; its address."""
    page: Any = PlainTextResponse("pages")
    hosts = frozenset({"127.0.0.1", "::1", "localhost", "0.0.0.0", *own_names("compose.yaml: dashboard")})
    guard = Guard(page, frozenset({"/"}), (), hosts, Sessions(ApiKeys([KEY])))
    believed = documents(STACK)[0]["services"]["dashboard"]["environment"]["FORWARDED_ALLOW_IPS"]
    port = free_port()
    config = uvicorn.Config(guard, port=port, log_level="warning", lifespan="off", forwarded_allow_ips=believed)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(running.serve()), daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True
    thread.join(10)


def test_the_dashboard_answers_for_its_name_behind_the_proxy_and_asks_for_a_key(dashboard: str) -> None:
    bearer = {"Authorization": f"Bearer {KEY}"}
    for host in (*names_of_the_proxy("dashboard"), "dashboard:8050", "localhost:8050"):
        assert httpx.get(dashboard, headers={"Host": host}).status_code == 401, host
        assert httpx.get(dashboard, headers={"Host": host} | bearer).text == "pages"
    for host in ("evil.example.com", f"mlflow.{DOMAIN}", f"dashboard.{DOMAIN}.evil.com"):
        answer = httpx.get(dashboard, headers={"Host": host} | bearer)
        assert answer.status_code == 421 and host in answer.json()["detail"]


def test_what_watches_the_dashboard_needs_no_key_and_no_name(dashboard: str) -> None:
    answer = httpx.get(f"{dashboard}/health", headers={"Host": "10.1.2.3:8050"})
    assert (answer.status_code, answer.text) == (200, "ok")
    assert httpx.post(f"{dashboard}/health").status_code == 404
    probes = [word for c in containers() if "dashboard" in c.where for word in c.words]
    assert any(word == "--api-keys=/run/secrets/dashboard_keys" for word in probes)
    assert "127.0.0.1:8050/health" in TEXTS[STACK]
    assert TEXTS[INFRA / "k8s" / "base" / "dashboard.yaml"].count("path: /health") == 3


def test_a_session_that_began_by_tls_stays_there(dashboard: str) -> None:
    host = f"dashboard.{DOMAIN}"
    for scheme in ("https", "http"):
        headers = {"Host": host, "Origin": f"{scheme}://{host}", "X-Forwarded-Proto": scheme}
        answer = httpx.post(f"{dashboard}/enter", data={"key": KEY, "to": "/"}, headers=headers)
        cookie = answer.headers["set-cookie"]
        assert answer.status_code == 303 and cookie.startswith(f"{COOKIE}=") and KEY not in cookie
        assert ("secure" in cookie.lower()) == (scheme == "https")


def test_no_secret_shows_in_a_process_list_a_log_or_an_artifact(server: Server, tmp_path: Path) -> None:
    secrets = [s for s in (*server.passwords.values(), *MARKED.values()) if len(s) > 16]
    assert len(secrets) > 7
    server.ask("researcher", "GET", "experiments/search?max_results=1")
    server.ask("anonymous", "GET", "experiments/search?max_results=1")
    (tmp_path / "secret").write_text(MARKED["PGPASSWORD"] + "\n")
    words = ["sh", str(INFRA / "entrypoint.sh"), "sleep", "30"]
    started = subprocess.Popen(words, env={"PATH": os.environ["PATH"], "READ_PGPASSWORD": str(tmp_path / "secret")})
    try:
        parent = psutil.Process(server.process.pid)
        listed = [parent, *parent.children(recursive=True), psutil.Process(started.pid)]
        shown = ["\0".join(process.cmdline()) for process in listed]
    finally:
        started.kill()
        started.wait()
    assert len(shown) >= 3 and any("--app-name=basic-auth" in line for line in shown)
    kept = [path for path in server.folder.rglob("*") if path.is_file() and not path.name.startswith("account_")]
    assert {"server.log", "mlflow.db", "accounts.db", "basic_auth.ini"} <= {path.name for path in kept}
    contents = [path.read_bytes() for path in kept]
    for secret in secrets:
        assert not [line for line in shown if secret in line]
        assert not [path for path, content in zip(kept, contents, strict=True) if secret.encode() in content]
