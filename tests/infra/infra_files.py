"""What lies in infra/, read for its tests: compose services, Kubernetes pods, and what each container is."""

from __future__ import annotations

import copy
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
INFRA = PROJECT / "infra"
STACK, PROXY = INFRA / "compose.yaml", INFRA / "reverse-proxy" / "compose.tls.yaml"
COMPOSE = [STACK, INFRA / "compose.gpu.yaml", INFRA / "compose.versitygw.yaml", PROXY]
MANIFESTS = sorted(path for path in (INFRA / "k8s").rglob("*.yaml") if path.name != "kustomization.yaml")
CUSTOM = "ray.io/v1"
LOCK = dict(re.findall(r"^([\w.-]+)==([\w.+-]+)", (PROJECT / "requirements.lock").read_text(), re.M))
PAGE = (PROJECT / "docs" / "operations.md").read_text()
TEXTS = {path: path.read_text() for path in INFRA.rglob("*") if path.is_file() and "secrets" not in path.parts[-2:-1]}
UNITS = {"": 1, "m": 1e-3, "k": 1e3, "g": 2**30, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclass
class Container:
    """A container as any of the files describes it."""

    where: str
    image: str
    words: list[str]
    variables: dict[str, str]
    files: set[str]  # below /run/secrets
    requests: dict[str, str] = field(default_factory=dict)
    limits: dict[str, str] = field(default_factory=dict)


def documents(path: Path) -> list[dict[str, Any]]:
    return copy.deepcopy(_parsed(path))


@cache
def _parsed(path: Path) -> list[dict[str, Any]]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [document for document in yaml.load_all(path.read_text(encoding="utf-8"), loader) if document]


def services(path: Path) -> dict[str, dict[str, Any]]:
    return documents(path)[0]["services"]


def whole() -> dict[str, dict[str, Any]]:
    """The services of compose.yaml and of the proxy's file: each described whole, unlike in the variants."""
    return services(STACK) | services(PROXY)


def words(command: str | list[str] | None) -> list[str]:
    return shlex.split(command) if isinstance(command, str) else [str(word) for word in command or ()]


def of_service(where: str, service: dict[str, Any]) -> Container:
    resources = service.get("deploy", {}).get("resources", {})
    secrets = [s if isinstance(s, str) else s["source"] for s in service.get("secrets", ())]
    return Container(
        where,
        service.get("image", ""),
        [*words(service.get("entrypoint")), *words(service.get("command"))],
        {name: str(value) for name, value in service.get("environment", {}).items()},
        set(secrets),
        {k: str(v) for k, v in resources.get("reservations", {}).items() if k != "devices"},
        {k: str(v) for k, v in resources.get("limits", {}).items()},
    )


def pods(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template of a document, with what it is called."""
    kind, name, spec = document["kind"], document["metadata"]["name"], document.get("spec", {})
    if kind == "CronJob":
        yield name, spec["jobTemplate"]["spec"]["template"]
    elif document["apiVersion"] == CUSTOM:
        if "submitterPodTemplate" in spec:
            yield f"{name} submitter", spec["submitterPodTemplate"]
        cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
        yield f"{name} head", cluster["headGroupSpec"]["template"]
        for group in cluster.get("workerGroupSpecs", ()):
            yield f"{name} {group['groupName']}", group["template"]
    elif "template" in spec:
        yield name, spec["template"]


def all_pods() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{path.name}: {name}", pod)
        for path in MANIFESTS
        for document in documents(path)
        for name, pod in pods(document)
    ]


def secret_files(pod: dict[str, Any]) -> set[str]:
    """The keys of wsss-secrets that a pod mounts."""
    secrets = [v["secret"] for v in pod["spec"].get("volumes", ()) if "secret" in v]
    return {item["key"] for secret in secrets for item in secret["items"]}


def of_pod(where: str, pod: dict[str, Any]) -> Iterator[Container]:
    for container in pod["spec"]["containers"]:
        resources = container.get("resources", {})
        yield Container(
            where,
            container["image"],
            [*words(container.get("command")), *words(container.get("args"))],
            {v["name"]: v.get("value", "") for v in container.get("env", ())},
            secret_files(pod),
            {k: str(v) for k, v in resources.get("requests", {}).items()},
            {k: str(v) for k, v in resources.get("limits", {}).items()},
        )


def containers() -> list[Container]:
    """Every container of every file."""
    compose = [of_service(f"{path.name}: {name}", s) for path in COMPOSE for name, s in services(path).items()]
    return [*compose, *(container for where, pod in all_pods() for container in of_pod(where, pod))]


def amount(text: str) -> float:
    """A quantity, Kubernetes' or compose's; a variable by its default."""
    text = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)
    match = re.fullmatch(r"([\d.]+)([A-Za-z]*)", text)
    assert match, f"{text} is no quantity"
    return float(match[1]) * UNITS[match[2]]


def scripts() -> list[Path]:
    return sorted([*INFRA.rglob("*.sh"), *INFRA.rglob("*.sbatch")])


def problems_of_a_service(name: str, service: dict[str, Any]) -> list[str]:
    """What our rules hold against a compose service that is described whole."""
    found = []
    if re.fullmatch(r"0(:.*)?|root.*|", str(service.get("user", ""))):
        found.append("runs as root")
    if not service.get("read_only"):
        found.append("has a writable root")
    if service.get("cap_drop") != ["ALL"] or "no-new-privileges:true" not in service.get("security_opt", ()):
        found.append("keeps rights")
    once = service.get("restart", "no") == "no"
    if not once and not service.get("healthcheck"):
        found.append("has no health check")
    if not once and not of_service(name, service).limits.get("memory"):
        found.append("has no limit of memory")
    found += [f"publishes {port}" for port in service.get("ports", ()) if not published_well(name, str(port))]
    return found


def published_well(service: str, port: str) -> bool:
    """Whether a port is on the loopback address, or the proxy's, which speaks TLS (80 sends on to it)."""
    return port.startswith("127.0.0.1:") or (service == "proxy" and port in ("80:80", "443:443"))


def problems_of_a_pod(name: str, pod: dict[str, Any]) -> list[str]:
    found = []
    spec = pod["spec"]
    security = spec.get("securityContext", {})
    if not security.get("runAsNonRoot") or not security.get("runAsUser"):
        found.append("runs as root")
    if spec.get("automountServiceAccountToken", True) and not name.endswith(" head"):
        found.append("has a token of the cluster's")
    if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")) or any(
        "hostPath" in volume for volume in spec.get("volumes", ())
    ):
        found.append("reaches its host")
    for container in spec["containers"]:
        own = container.get("securityContext", {})
        if not own.get("readOnlyRootFilesystem"):
            found.append("has a writable root")
        if own.get("allowPrivilegeEscalation", True) or own.get("capabilities", {}).get("drop") != ["ALL"]:
            found.append("keeps rights")
        if set(container.get("resources", {}).get("limits", {})) < {"cpu", "memory"}:
            found.append("has no limits")
    return found


def problems_of_a_container(container: Container) -> list[str]:
    found = []
    for name, request in container.requests.items():
        limit = container.limits.get(name)
        if limit is not None and amount(request) > amount(limit):
            found.append(f"asks for {request} of {name}, above its limit {limit}")
    image = container.image
    if image.endswith(":latest") or (image and ":" not in image and image not in ("wsss", "wsss-cuda")):
        found.append(f"has no fixed image: {image}")
    if re.search(r"\b(pip|apt|apk|apt-get|curl) (install|add|-)", " ".join(container.words)):
        found.append("installs something when it starts")
    for name, file in container.variables.items():
        if file.startswith("/run/secrets/") and file.removeprefix("/run/secrets/") not in container.files:
            found.append(f"{name} is {file}, which it does not have")
        if re.search(r"PASSWORD|SECRET|TOKEN|_KEY", name) and not re.fullmatch(r"(/run/secrets/\w+)?", file):
            found.append(f"has {name} in the open")
    return found


def secrets_in(folder: Path) -> dict[str, str]:
    environment = {"PATH": os.environ["PATH"]}
    command = ["sh", str(INFRA / "secrets.sh"), str(folder)]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The secrets that the script makes, by name."""
    return secrets_in(tmp_path_factory.mktemp("secrets"))
