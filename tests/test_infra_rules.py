"""infra/: what we ask of its files beyond their schemas, and that each rule finds what breaks it."""

from __future__ import annotations

import configparser
import copy
import importlib
import json
import os
import re
import runpy
import shlex
import stat
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import hcl2
import pytest
import typer
from infra_files import (
    COMPOSE,
    INFRA,
    MANIFESTS,
    PROJECT,
    PROXY,
    STACK,
    all_pods,
    containers,
    documents,
    problems_of_a_container,
    problems_of_a_pod,
    problems_of_a_service,
    scripts,
    services,
    whole,
)
from moto.server import ThreadedMotoServer

from wsss import methods
from wsss.cli import replicated
from wsss.errors import UserError
from wsss.run.plan import stands_alone

LOCK = dict(re.findall(r"^([\w.-]+)==([\w.+-]+)", (PROJECT / "requirements.lock").read_text(), re.M))
PAGE = (PROJECT / "docs" / "operations.md").read_text()
TEXTS = {path: path.read_text() for path in INFRA.rglob("*") if path.is_file() and "secrets" not in path.parts[-2:-1]}


def secrets_in(folder: Path) -> dict[str, str]:
    environment = {"PATH": os.environ["PATH"]}
    command = ["sh", str(INFRA / "secrets.sh"), str(folder)]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory) -> dict[str, str]:
    return secrets_in(tmp_path_factory.mktemp("secrets"))


# Versions


def test_images_are_of_the_locks_versions():
    dockerfile = TEXTS[INFRA / "Dockerfile"]
    python = re.search(r'^python: "([\d.]+)"', (PROJECT / "python_env.yaml").read_text(), re.M)
    assert python and re.search(rf"^FROM python:{re.escape(python[1])}\.\d+-slim", dockerfile, re.M)
    # The image's MLflow, Ray and torch are the lock's, since nothing is installed but under it.
    installs = re.findall(r"uv pip install (.*)", dockerfile)
    assert len(installs) == 2 and all("--constraint requirements.lock '.[stack]'" in line for line in installs)
    assert {"mlflow", "ray", "torch", "boto3", "flask-wtf", "psycopg", "psycopg-binary"} <= set(LOCK)
    version = re.search(r'^version = "(.*)"', (PROJECT / "pyproject.toml").read_text(), re.M)
    assert version and set(re.findall(r"\bwsss:([\d.]+)-(?:cpu|cuda)", "".join(TEXTS.values()))) == {version[1]}
    tags = {
        i["newTag"] for f in ("base", "ray") for i in documents(INFRA / "k8s" / f / "kustomization.yaml")[0]["images"]
    }
    assert tags == {f"{version[1]}-cpu", f"{version[1]}-cuda"}
    rays = re.findall(r"rayVersion: (\S+)", "".join(TEXTS[path] for path in MANIFESTS))
    assert len(rays) == 3 and set(rays) == {LOCK["ray"]}


def test_images_of_others_are_pinned_by_tag_and_digest_once_and_documented():
    found = set(
        re.findall(r"^(?:FROM| *(?:- )?image:) ([a-z/]+:[\w.-]+@sha256:[0-9a-f]{64})", "\n".join(TEXTS.values()), re.M)
    )
    names = sorted(image.partition(":")[0] for image in found)
    assert names == ["astral/uv", "caddy", "chrislusf/seaweedfs", "postgres", "python", "versity/versitygw"]
    for image in found:
        tag, _, digest = image.partition("@")
        assert f"`{tag}`" in PAGE and f"`{digest[:14]}" in PAGE, (
            f"docs/operations.md does not say where {image} was read"
        )
    for container in containers():
        assert "@sha256:" in container.image or re.match(r"wsss|\$\{WSSS_(GPU_)?IMAGE:-wsss:|$", container.image)


def test_the_store_is_one_that_keeps_conditions_and_postgres_is_the_same_everywhere():
    text = "".join(TEXTS.values())
    (seaweed,) = set(re.findall(r"seaweedfs:(\d+)\.(\d+)", text))
    assert tuple(map(int, seaweed)) >= (4, 8)
    assert not re.search(r"image: *\S*(minio|garage|rustfs)", text)
    terraform = re.findall(r'engine_version\s*= "(\d+)"|family = "postgres(\d+)"', text)
    majors = {*re.findall(r"postgres:(\d+)", text), *(a or b for a, b in terraform)}
    assert len(majors) == 1


# Containers


def test_every_service_is_confined_watched_and_on_the_loopback_address():
    assert {name: problems for name, s in whole().items() if (problems := problems_of_a_service(name, s))} == {}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"user": "0:0"}, "runs as root"),
        ({"user": ""}, "runs as root"),
        ({"read_only": False}, "has a writable root"),
        ({"cap_drop": []}, "keeps rights"),
        ({"healthcheck": None}, "has no health check"),
        ({"ports": ["5000:5000"]}, "publishes 5000:5000"),
        ({"ports": ["0.0.0.0:5000:5000"]}, "publishes 0.0.0.0:5000:5000"),
        ({"deploy": {}}, "has no limit of memory"),
    ],
)
def test_a_service_that_breaks_a_rule_is_found(change, sentence):
    assert problems_of_a_service("mlflow", whole()["mlflow"] | change) == [sentence]


def test_a_variant_changes_nothing_that_confines():
    for path in COMPOSE:
        for name, service in services(path).items():
            if path not in (STACK, PROXY):
                assert name in services(STACK)
                assert not {"user", "read_only", "cap_drop", "cap_add", "privileged", "ports", "networks"} & set(
                    service
                )


def test_every_pod_is_confined():
    pods = all_pods()
    assert len(pods) == 16
    assert {where: problems for where, pod in pods if (problems := problems_of_a_pod(where, pod))} == {}


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("securityContext", {}, "runs as root"),
        ("automountServiceAccountToken", True, "has a token of the cluster's"),
        ("hostNetwork", True, "reaches its host"),
    ],
)
def test_a_pod_that_breaks_a_rule_is_found(key, value, sentence):
    pod = copy.deepcopy(next(pod for where, pod in all_pods() if where.endswith("mlflow")))
    pod["spec"][key] = value
    assert problems_of_a_pod("mlflow", pod) == [sentence]


def test_what_runs_for_long_is_probed():
    for path in MANIFESTS:
        for document in documents(path):
            if document["kind"] in ("Deployment", "StatefulSet"):
                for container in document["spec"]["template"]["spec"]["containers"]:
                    assert {"readinessProbe", "livenessProbe"} <= set(container), document["metadata"]["name"]


def test_containers_ask_for_what_they_have_and_install_nothing():
    assert {c.where: problems for c in containers() if (problems := problems_of_a_container(c))} == {}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"requests": {"memory": "4g"}}, "asks for 4g of memory, above its limit 3g"),
        ({"image": "postgres:latest"}, "has no fixed image: postgres:latest"),
        ({"image": "postgres"}, "has no fixed image: postgres"),
        ({"words": ["sh", "-c", "pip install mlflow && mlflow server"]}, "installs something when it starts"),
        (
            {"variables": {"READ_PGPASSWORD": "/run/secrets/other"}},
            "READ_PGPASSWORD is /run/secrets/other, which it does not have",
        ),
        ({"variables": {"PGPASSWORD": "hunter2"}}, "has PGPASSWORD in the open"),
    ],
)
def test_a_container_that_breaks_a_rule_is_found(change, sentence):
    container = next(c for c in containers() if c.where == "compose.yaml: mlflow")
    for name, value in change.items():
        setattr(container, name, value)
    assert problems_of_a_container(container) == [sentence]


def test_kubernetes_opens_nothing_but_by_an_ingress_with_tls():
    found = [document for path in MANIFESTS for document in documents(path)]
    assert all(d["spec"].get("type", "ClusterIP") == "ClusterIP" for d in found if d["kind"] == "Service")
    (ingress,) = [d["spec"] for d in found if d["kind"] == "Ingress"]
    assert {rule["host"] for rule in ingress["rules"]} == {host for entry in ingress["tls"] for host in entry["hosts"]}
    policies = [d for d in found if d["kind"] == "NetworkPolicy"]
    assert any(
        d["spec"]["podSelector"] == {} and set(d["spec"]["policyTypes"]) == {"Ingress", "Egress"} for d in policies
    )
    labels = {pod["metadata"]["labels"]["app"] for _, pod in all_pods()}
    named = {label for d in policies for label in re.findall(r"'app': '(\w+)'", str(d["spec"]))}
    named |= {
        v
        for d in policies
        for group in re.findall(r"'values': \[(.*?)\]", str(d["spec"]))
        for v in re.findall(r"\w+", group)
    }
    assert named == labels


def test_the_proxy_sends_on_to_what_there_is():
    text = TEXTS[INFRA / "reverse-proxy" / "Caddyfile"]
    assert text.count("{") == text.count("}")
    sites = re.findall(r"^(\w+)\.\{\$WSSS_DOMAIN\} \{\n(.*?)^\}", text, re.M | re.S)
    assert len(sites) == 4
    for name, site in sites:
        assert "import common" in site
        (upstream,) = re.findall(r"reverse_proxy (\w+):(\d+)", site)
        assert any(port.endswith(f":{upstream[1]}") for port in services(STACK)[upstream[0]]["ports"])
        assert name in PAGE
    assert "basic_auth" in dict(sites)["dashboard"]


# Secrets and variables


def test_secrets_are_made_once_for_their_owner_alone(tmp_path):
    folder = tmp_path / "new folder"
    made = secrets_in(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert secrets_in(folder) == made, "made again, they are others"
    values = [value for name, value in made.items() if not name.startswith(("s3_", "account_"))]
    assert len(set(values)) == len(values) and all(re.fullmatch(r"[0-9a-f]{64}\n", value) for value in values)
    assert (
        len({re.search(r"secret_access_key = (\w+)", v)[1] for n, v in made.items() if re.fullmatch(r"s3_[a-z]+", n)})
        == 5
    )


def test_every_secret_is_made_declared_used_and_documented(secrets):
    declared = {name for path in (STACK, PROXY) for name in documents(path)[0]["secrets"]}
    used = {name for container in containers() for name in container.files}
    by_hand = {"dashboard_users"}  # a person's name and the hash of a password
    assert declared == used == set(secrets) | by_hand
    for name in declared:
        assert re.search(rf"^\| `{re.escape(name)}` \|", PAGE, re.M), (
            f"docs/operations.md says nothing of secret {name}"
        )
    keys = {
        key
        for path in MANIFESTS
        for key in re.findall(r"secretKeyRef: \{name: wsss-secrets, key: (\w+)\}", TEXTS[path])
    }
    assert keys <= set(secrets)


def test_no_file_has_a_secret_in_it():
    for path, text in TEXTS.items():
        assert not re.search(
            r"(?<!sha256:)\b[0-9a-f]{32,}\b|AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|://\w+:\w+@", text
        ), path


def variables() -> set[str]:
    """Every variable that a file of infra/ sets or reads."""
    found = {name for container in containers() for name in container.variables}
    settings = next(d for d in documents(INFRA / "k8s" / "base" / "settings.yaml") if d["kind"] == "ConfigMap")
    found |= set(settings["data"])
    text = "".join(TEXTS.values())
    found |= set(re.findall(r"--env=(\w+)=", text)) | set(
        re.findall(r"\$\{([A-Z]\w+)(?::[-?]|\})", "".join(TEXTS[p] for p in COMPOSE))
    )
    block = re.search(r"^ENV (PATH=.*?[^\\])\n", TEXTS[INFRA / "Dockerfile"], re.M | re.S)
    assert block
    found |= set(re.findall(r"(?:^|\s)([A-Z_]+)=", block[1]))
    return {name.removeprefix("READ_") for name in found}


def test_every_variable_is_in_the_table():
    table = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", "".join(re.findall(r"^\|.*$", PAGE, re.M))))
    standard = {"PATH", "HOME", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "XDG_DATA_HOME", "XDG_CONFIG_HOME"}
    assert variables() - standard <= table, variables() - standard - table
    ours = {
        n
        for room in ("wsss", "tune")
        for p in (PROJECT / room).rglob("*.py")
        for n in re.findall(r'"(WSSS_[A-Z0-9_]+)"', p.read_text())
    }
    assert ours - {"WSSS_READER_PATH"} <= table, ours - table
    example = re.findall(r"^([A-Z0-9_]+)=(.*)$", TEXTS[INFRA / ".env.example"], re.M)
    asked = {n: d for p in COMPOSE for n, d in re.findall(r"\$\{(\w+):[-?]([^}]*)\}", TEXTS[p]) if n != "WSSS_DOMAIN"}
    assert {name: value for name, value in example if name != "WSSS_DOMAIN"} == asked


def test_variables_of_ours_and_of_mlflow_are_ones_that_something_reads():
    from mlflow import environment_variables

    sources = "".join(p.read_text() for room in ("wsss", "tune") for p in (PROJECT / room).rglob("*.py"))
    here = {"WSSS_IMAGE", "WSSS_GPU_IMAGE", "WSSS_SECRETS", "WSSS_MODEL", "WSSS_DOMAIN"}
    for name in variables():
        if name.startswith("MLFLOW_") and name not in ("MLFLOW_TRACKING_URI", "MLFLOW_PORT"):
            assert hasattr(environment_variables, name), name
        if name.startswith("WSSS_") and name not in here:
            assert f'"{name}"' in sources, name


def run_entrypoint(tmp_path, **environment) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(INFRA / "entrypoint.sh"), "sh", "-c", 'printf %s "$PGPASSWORD"; env']
    return subprocess.run(command, env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True)


def test_the_entrypoint_reads_secrets_out_of_files(tmp_path):
    (tmp_path / "a b").write_text("p$w `d` 'q\n")
    done = run_entrypoint(tmp_path, READ_PGPASSWORD=str(tmp_path / "a b"))
    assert done.stdout.startswith("p$w `d` 'q") and "READ_PGPASSWORD" not in done.stdout
    (tmp_path / "empty").write_text("\n")
    for file, sentence in ((tmp_path / "no", "can't be read"), (tmp_path / "empty", "is empty")):
        done = run_entrypoint(tmp_path, READ_PGPASSWORD=str(file))
        assert (
            done.returncode == 1 and sentence in done.stderr and "infra/secrets.sh" in done.stderr and not done.stdout
        )


# Accounts and buckets


def mlflow_auth(name: str) -> SimpleNamespace:
    """A file of MLflow's authentication by itself: the package around it takes seconds to import."""
    import mlflow

    return SimpleNamespace(**runpy.run_path(str(Path(mlflow.__file__).parent / "server" / "auth" / f"{name}.py")))


def test_nobody_may_anything_by_default_and_there_is_no_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(INFRA / "mlflow" / "basic_auth.ini"))
    monkeypatch.delenv("MLFLOW_AUTH_ADMIN_PASSWORD", raising=False)
    config = mlflow_auth("config").read_auth_config()
    assert config.default_permission == "NO_PERMISSIONS" and config.admin_password is None
    assert config.auth_cache_ttl_seconds == 0 and "@" not in config.database_uri


ACCOUNTS = SimpleNamespace(**runpy.run_path(str(INFRA / "mlflow" / "accounts.py")))
ROLES = documents(INFRA / "mlflow" / "roles.yaml")[0]


def test_a_researcher_writes_candidates_and_only_a_promoter_the_promoted():
    permissions = mlflow_auth("permissions")
    may = {
        role: {(k, n): permissions.get_permission(p) for k, n, p in ACCOUNTS.grants(ROLES, role)}
        for role in ROLES["roles"]
    }
    assert all(kind in permissions.TYPE for grants in may.values() for kind, _ in grants)
    promoted, candidates = ("registered_model", "wsss-shapes"), ("registered_model", "wsss-shapes-candidates")
    rights = {
        role: [grants[key].can_update for key in (("experiment", "*"), candidates, promoted)]
        for role, grants in may.items()
    }
    assert rights == {"reader": [False] * 3, "researcher": [True, True, False], "promoter": [True] * 3}
    assert not any(grant.can_manage or grant.can_delete for grants in may.values() for grant in grants.values())
    assert ("registered_model", "wsss-shapes-direct") in may["reader"]


class Auth:
    """What an MLflow server with accounts keeps, by the calls of its client."""

    def __init__(self) -> None:
        self.roles: dict[str, SimpleNamespace] = {}
        self.grants: dict[int, list[SimpleNamespace]] = {}
        self.users: dict[str, str] = {}
        self.held: dict[str, list[SimpleNamespace]] = {}

    def list_roles(self, workspace):
        return list(self.roles.values())

    def create_role(self, workspace, name):
        self.roles[name] = SimpleNamespace(name=name, id=len(self.roles) + 1)
        return self.roles[name]

    def list_role_permissions(self, role_id):
        return list(self.grants.get(role_id, ()))

    def add_role_permission(self, role_id, resource_type, resource_pattern, permission):
        grant = SimpleNamespace(
            id=(role_id, resource_pattern),
            resource_type=resource_type,
            resource_pattern=resource_pattern,
            permission=permission,
        )
        self.grants.setdefault(role_id, []).append(grant)

    def update_role_permission(self, role_permission_id, permission):
        role, pattern = role_permission_id
        next(g for g in self.grants[role] if g.resource_pattern == pattern).permission = permission

    def get_user(self, username):
        from mlflow.exceptions import RESOURCE_DOES_NOT_EXIST, MlflowException

        if username not in self.users:
            raise MlflowException("no such user", RESOURCE_DOES_NOT_EXIST)

    def create_user(self, username, password):
        self.users[username] = password

    update_user_password = create_user

    def list_user_roles(self, username):
        return self.held.get(username, [])

    def assign_role(self, username, role_id):
        self.held.setdefault(username, []).append(SimpleNamespace(id=role_id))


def test_accounts_are_brought_to_the_server_once(tmp_path, secrets):
    import mlflow

    client = (Path(mlflow.__file__).parent / "server" / "auth" / "client.py").read_text()
    assert all(f"    def {name}(" in client for name in vars(Auth) if not name.startswith("_"))
    auth, file = Auth(), tmp_path / "credentials"
    file.write_text(secrets["account_researcher"])
    for _ in range(2):
        ids = ACCOUNTS.make_roles(auth, ROLES)
        ACCOUNTS.make_account(auth, ids["researcher"], file)
    assert set(ids) == {"reader", "researcher", "promoter"} and list(auth.users) == ["researcher"]
    assert [held.id for held in auth.held["researcher"]] == [ids["researcher"]]
    assert len(auth.grants[ids["reader"]]) == 1 + 2 * len(ACCOUNTS.models(ROLES))
    changed = copy.deepcopy(ROLES)
    changed["roles"]["reader"]["candidates"] = "EDIT"
    ACCOUNTS.make_roles(auth, changed)
    assert {g.permission for g in auth.grants[ids["reader"]] if g.resource_pattern.endswith("-candidates")} == {"EDIT"}
    file.write_text("nothing")
    with pytest.raises((SystemExit, configparser.Error)):
        ACCOUNTS.make_account(auth, 1, file)


def test_s3_keys_and_aws_roles_may_the_same(secrets):
    """Who writes where: the object store's identities beside Terraform's policies."""
    identities = json.loads(secrets["s3_identities.json"])["identities"]
    assert not [identity for identity in identities if identity["name"] == "anonymous"]
    rights = hcl2.loads(TEXTS[INFRA / "terraform" / "roles.tf"])["locals"][0]["rights"]
    for identity in identities:
        (key,) = identity["credentials"]
        assert f"aws_secret_access_key = {key['secretKey']}\n" in secrets[f"s3_{identity['name']}"]
        if identity["name"] == "admin":
            continue
        may = {tuple(action.split(":")) for action in identity["actions"]}
        right = rights[identity["name"]]
        for ours, theirs in (("Read", "read"), ("List", "read"), ("Write", "write")):
            buckets = {"wsss-" + bucket.strip('"') for bucket in right[theirs]}
            assert {bucket for action, bucket in may if action == ours} == buckets, identity["name"]
    writers = [i["name"] for i in identities if "Write:wsss-ledger" in i["actions"]]
    assert writers == ["promoter"]


@pytest.fixture
def s3(monkeypatch) -> Iterator[None]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    for name, value in {
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield
    server.stop()


BUCKETS = SimpleNamespace(**runpy.run_path(str(INFRA / "buckets.py")))


def test_buckets_are_made_versioned_and_with_a_lifecycle(s3, capsys):
    for _ in range(2):
        BUCKETS.main(["--bucket", "wsss-store", "--days", "9"])
    assert "s3://wsss-store is versioned and keeps conditions" in capsys.readouterr().out
    client = boto3.client("s3")
    assert client.get_bucket_versioning(Bucket="wsss-store")["Status"] == "Enabled"
    (rule,) = client.get_bucket_lifecycle_configuration(Bucket="wsss-store")["Rules"]
    assert rule["NoncurrentVersionExpiration"]["NoncurrentDays"] == 9
    assert not client.list_objects_v2(Bucket="wsss-store").get("Contents")


def test_a_store_that_ignores_conditions_is_refused(s3, monkeypatch):
    def ignored(url):
        raise UserError(f"{url}: this store ignores conditional writes")

    monkeypatch.setattr("wsss.storage.check_exclusive_writes", ignored)
    with pytest.raises(SystemExit, match="ignores conditional writes"):
        BUCKETS.main(["--bucket", "wsss-ledger"])


def test_kubernetes_database_is_set_up_as_composes():
    (init,) = [
        d for d in documents(INFRA / "k8s" / "base" / "postgres.yaml") if d["metadata"]["name"] == "postgres-init"
    ]
    assert init["data"]["init.sh"] == TEXTS[INFRA / "postgres" / "init.sh"]


# Commands


@cache
def program(name: str) -> Any:
    """The commands of a program that has them in Python."""
    if name == "mlflow server":
        return importlib.import_module("mlflow.cli").server
    if name == "ray":
        return importlib.import_module("ray.scripts.scripts").cli
    module = {"wsss": "wsss.cli", "python -m tune": "tune.__main__"}[name]
    return typer.main.get_command(importlib.import_module(module).app)


def command_tree(words: list[str]) -> tuple[Any, list[str]] | None:
    """The command that the first words name, and the words that follow; None for other programs."""
    for name in ("wsss", "python -m tune", "ray", "mlflow server"):
        size = len(name.split())
        if words[:size] == name.split():
            command, rest = program(name), words[size:]
            break
    else:
        return None
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        inner = command.commands.get(rest[0])
        assert inner is not None, f"there is no {shlex.join(words)}"
        command, rest = inner, rest[1:]
    return command, rest


def unknown_options(words: list[str]) -> list[str]:
    found = command_tree(words)
    if found is None:
        return []
    command, rest = found
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help"
    }
    if "--" in rest:  # a command within a command
        place = rest.index("--")
        return unknown_options(rest[place + 1 :]) + [w for w in options(rest[:place]) if w not in known]
    return [word for word in options(rest) if word not in known]


def options(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if word.startswith("--")]


def commands() -> Iterator[list[str]]:
    """Every command of ours, Ray's and MLflow's: of containers, of scripts and manifests, of the page."""
    for container in containers():
        yield container.words
    lines = [line for path in (*scripts(), *TEXTS) for line in TEXTS[path].replace("\\\n", " ").splitlines()]
    lines += PAGE.replace("\\\n", " ").splitlines()
    for line in lines:
        line = re.sub(r'"?\$\{?\w+(\[@\])?[^\s"]*"?', "X", line)
        for match in re.finditer(r"(?:^|[\s`(])((?:wsss|python -m tune|ray start|mlflow server) [^`#;|&>'\"]*)", line):
            words = match[1].split()
            if words[0] != "wsss" or re.fullmatch(r"[a-z]+", words[1] if len(words) > 1 else ""):
                yield words


def test_every_command_is_one_that_the_programs_know():
    found = [words for words in commands() if command_like(words)]
    assert len(found) > 30
    assert {shlex.join(words): unknown for words in found if (unknown := unknown_options(words))} == {}
    assert unknown_options(["wsss", "serve", "--prot", "1"]) == ["--prot"]
    assert unknown_options(["wsss", "cluster", "submit", "--", "python", "-m", "tune", "--trails", "1"]) == ["--trails"]
    with pytest.raises(AssertionError, match="there is no"):
        unknown_options(["wsss", "backup"])


def command_like(words: list[str]) -> bool:
    """Not a sentence that begins with the package's name."""
    return words[:1] != ["wsss"] or len(words) < 2 or words[1] in program("wsss").commands


def test_the_slurm_array_has_every_method_and_rng():
    text = TEXTS[INFRA / "slurm" / "methods.sbatch"]
    listed = re.search(r"METHODS=\((.*)\)", text)
    rngs, last = re.search(r"^RNGS=(\d+)", text, re.M), re.search(r"--array=0-(\d+)", text)
    assert listed and rngs and last
    assert listed[1].split() == sorted(filter(stands_alone, methods.names()))
    assert int(last[1]) + 1 == len(listed[1].split()) * int(rngs[1])


def test_replicas_by_a_file_are_those_of_the_command(monkeypatch, tmp_path):
    made = {}

    def deployment(address, options, replicas, device):
        made.update(address=address, options=options, replicas=replicas, device=device)

    monkeypatch.setattr("wsss.serving.ray_serve.deployment", deployment)
    (tmp_path / "keys").write_text("0123456789abcdef\n")
    model = "models:/wsss-shapes@champion"
    replicated.application({"model": model, "replicas": "2-3", "device": "cpu", "api_keys": str(tmp_path / "keys")})
    assert (
        made["address"] == made["options"].address == model and made["replicas"] == (2, 3) and made["device"] == "cpu"
    )
    assert made["options"].keys is not None and made["options"].every == 5
    with pytest.raises(UserError, match="api_keys"):
        replicated.application({"model": model, "apikeys": "x"})
