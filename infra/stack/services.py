"""The services of a stack: what each needs, how it is started, and when it is well."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from infra.stack import postgres
from infra.stack.layout import BUCKETS, INFRA, Layout, Secret, resolved
from wsss.errors import UserError
from wsss.process import own_cores

_ANSWER_S = 3
_QUIET: dict[str, str | Secret] = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A machine that is busy takes longer than Ray's half minute to start what each node needs.
    "RAY_agent_register_timeout_ms": "120000",
    "DVC_NO_ANALYTICS": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass(frozen=True)
class Service:
    """A part of the stack.

    Attributes:
        name: of its log and its process.
        words: its command.
        healthy: whether it does its work.
        needs: the services that must be healthy before.
        ports: the names of those that it listens on.
        variables: of its environment.
        folder: where it works.
        user: the ids that it runs as, where that is another user.
        before: what is made before its start.
        after: what is done once when it is healthy; whoever needs it waits for that too.
        stops_by: the signal that ends it.
        patience: seconds until it is healthy.
    """

    name: str
    words: Sequence[str]
    healthy: Callable[[], bool]
    needs: Sequence[str] = ()
    ports: Sequence[str] = ()
    variables: Mapping[str, str | Secret] = field(default_factory=dict)
    folder: Path = Path("/")
    user: tuple[int, int] | None = None
    before: Callable[[], None] = lambda: None
    after: Sequence[Callable[[], None] | tuple[Sequence[str], Mapping[str, str | Secret]]] = ()
    stops_by: signal.Signals = signal.SIGTERM
    patience: float = 120


def services(layout: Layout, model: str = "", upgrade: bool = False) -> list[Service]:
    """All services, each behind those that it needs.

    Args:
        layout: the stack.
        model: what is served; by default the champion that there is.
        upgrade: bring an older database to the schema of this MLflow.
    """
    python = sys.executable
    return [
        Service(
            "postgres",
            postgres.words(layout),
            lambda: postgres.answers(layout),
            ports=["postgres"],
            user=postgres.user(),
            before=lambda: postgres.make_cluster(layout),
            after=[lambda: postgres.make_databases(layout)],
            stops_by=signal.SIGINT,  # ends sessions, and writes everything
        ),
        Service(
            "objects",
            _objects(layout),
            lambda: bool(_answers(f"{layout.address('objects')}/health")),
            ports=["objects"],
            variables=_home(),
            after=[([python, str(INFRA / "buckets.py"), *_buckets()], layout.s3("admin") | _home())],
        ),
        _mlflow(layout, python, upgrade),
        *_ray(layout),
        Service(
            "serve",
            _page(layout, "serve", model),
            lambda: bool(_answers(f"{layout.address('serve')}/health")),
            ["mlflow"],
            ["serve"],
            layout.variables("reader") | _home(),
            layout.scratch,
        ),
        Service(
            "dashboard",
            _page(layout, "dashboard"),
            lambda: bool(_answers(layout.address("dashboard"))),
            ["mlflow"],
            ["dashboard"],
            layout.variables("reader") | _home(),
            Path.cwd(),  # the workspace, with the datasets' masks
        ),
    ]


def _objects(layout: Layout) -> list[str]:
    words = [sys.executable, "-m", "infra.stack.objects", str(layout.data("objects"))]
    return [*words, "--port", str(layout.ports["objects"]), "--keys", str(layout.secrets / "s3_identities.json")]


def _page(layout: Layout, *words: str) -> list[str]:
    """The command of what people open in a browser, with a key."""
    port, keys = str(layout.ports[words[0]]), str(layout.secrets / "serve_keys")
    return [sys.executable, "-m", "wsss.cli", *words, "--port", port, "--api-keys", keys]


def _buckets() -> list[str]:
    return [part for bucket in BUCKETS for part in ("--bucket", bucket)]


def _home() -> dict[str, str | Secret]:
    """Where Python finds this package, whichever folder a service works in."""
    path = os.pathsep.join(filter(None, (str(INFRA.parent), os.environ.get("PYTHONPATH"))))
    return {**_QUIET, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _mlflow(layout: Layout, python: str, upgrade: bool) -> Service:
    variables: dict[str, str | Secret] = {
        **_home(),
        **layout.s3("mlflow"),
        **layout.database("mlflow", "mlflow_db_password"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": Secret(layout.secrets / "mlflow_secret_key"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": Secret(layout.secrets / "mlflow_admin_password"),
        "MLFLOW_AUTH_CONFIG_PATH": str(INFRA / "mlflow" / "basic_auth.ini"),
        "MLFLOW_SERVER_ALLOWED_HOSTS": "localhost,localhost:*,127.0.0.1,127.0.0.1:*",
        # Nothing here uses MLflow's jobs; their processes take 650 MB.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    words = [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(layout.ports["mlflow"])]
    words += ["--workers", "2", "--app-name", "basic-auth", "--backend-store-uri", "postgresql:///mlflow"]
    words += ["--artifacts-destination", f"s3://{BUCKETS[0]}"]
    accounts = [python, str(INFRA / "mlflow" / "accounts.py"), str(INFRA / "mlflow" / "roles.yaml")]
    for role, name in (("reader", "serving"), ("researcher", "researcher"), ("promoter", "promoter")):
        accounts += ["--account", f"{role}={layout.secrets / f'account_{name}'}"]

    def before() -> None:
        if upgrade:
            for command in (
                ["-m", "mlflow", "db", "upgrade", "postgresql:///mlflow"],
                ["-m", "mlflow.server.auth", "db", "upgrade", "--url", "postgresql:///mlflow_auth"],
            ):
                once(layout, "mlflow", [python, *command], variables)
        postgres.check_schemas(layout)

    return Service(
        "mlflow",
        words,
        lambda: bool(_answers(f"{layout.address('mlflow')}/health")),
        ["postgres", "objects"],
        ["mlflow"],
        variables,
        layout.scratch,
        before=before,
        after=[(accounts, layout.account("admin") | _home())],
        patience=180,
    )


def _ray(layout: Layout) -> list[Service]:
    """The head, which only directs, and a worker that has the cores."""
    ray = [sys.executable, "-m", "infra.stack.ray_node", "start"]
    variables = layout.variables("researcher") | _home()
    del variables["RAY_ADDRESS"], variables["RAY_API_SERVER_ADDRESS"]
    address = f"127.0.0.1:{layout.ports['ray-head']}"
    shared = ["--node-ip-address", "127.0.0.1", "--disable-usage-stats", "--block"]
    head = [*ray, "--head", "--port", str(layout.ports["ray-head"]), "--num-cpus", "0"]
    head += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(layout.ports["ray-jobs"])]
    head += ["--temp-dir", str(layout.ray_folder), "--object-store-memory", "100000000"]
    worker = [*ray, "--address", address, "--num-cpus", str(own_cores())]
    worker += ["--object-store-memory", "500000000"]
    return [
        Service(
            "ray-head",
            head + shared,
            lambda: _machines(layout) > 0,
            ["postgres", "objects"],
            ["ray-head", "ray-jobs"],
            variables,
            layout.scratch,
        ),
        Service(
            "ray-worker", worker + shared, lambda: _machines(layout) > 1, ["ray-head"], [], variables, layout.scratch
        ),
    ]


def once(layout: Layout, name: str, words: Sequence[str], variables: Mapping[str, str | Secret]) -> None:
    """Run a command that ends; what it says goes to the service's log.

    Raises:
        UserError: it ended with an error.
    """
    with open(layout.log(name), "ab") as log:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=layout.scratch,
            env=dict(os.environ) | resolved(variables),
            check=False,
        )
    if done.returncode:
        raise UserError(f"{name} could not be set up: {last_line(layout, name)}; all of it: {layout.log(name)}")


def last_line(layout: Layout, name: str) -> str:
    """What a service said last."""
    try:
        lines = layout.log(name).read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return "nothing"
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")


def champion(layout: Layout) -> str:
    """The address of the model that is served by default: the first with a champion; empty without one."""
    name, password = (layout.account("reader")[f"MLFLOW_TRACKING_{each}"] for each in ("USERNAME", "PASSWORD"))
    assert isinstance(name, Secret) and isinstance(password, Secret)
    token = b64encode(f"{name.value()}:{password.value()}".encode()).decode()
    asked = f"{layout.address('mlflow')}/api/2.0/mlflow/registered-models/search?{urlencode({'max_results': 1000})}"
    with urlopen(Request(asked, headers={"Authorization": f"Basic {token}"}), timeout=30) as answer:
        models = json.load(answer).get("registered_models", [])
    for each in models:
        if any(alias["alias"] == "champion" for alias in each.get("aliases", ())):
            return f"models:/{each['name']}@champion"
    return ""


def _answers(address: str, token: str = "") -> bytes:
    """What an address answers; nothing where it does not, or refuses."""
    try:
        with urlopen(Request(address, headers={"Authorization": token} if token else {}), timeout=_ANSWER_S) as answer:
            return answer.read() or b"ok"
    except HTTPError as error:
        return b"asks for a key" if error.code in (401, 403) and not token else b""
    except (URLError, OSError, ValueError):
        return b""


def _machines(layout: Layout) -> int:
    """How many machines Ray's head knows to be alive."""
    token = Secret(layout.secrets / "ray_token").value()
    said = _answers(f"{layout.address('ray-jobs')}/nodes?view=summary", f"Bearer {token}")
    try:
        return sum(each["raylet"].get("state") == "ALIVE" for each in json.loads(said)["data"]["summary"])
    except (ValueError, KeyError, TypeError):
        return 0


def hint(layout: Layout) -> str:
    """How a person has the variables of the stack."""
    return f'eval "$({layout.command("env")})"'
