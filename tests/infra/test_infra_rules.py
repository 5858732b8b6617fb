"""infra/: versions and containers, what we ask beyond their schemas, and that each rule finds what breaks it."""

from __future__ import annotations

import copy
import re

import pytest
from infra_files import (
    COMPOSE,
    INFRA,
    LOCK,
    MANIFESTS,
    PAGE,
    PROJECT,
    PROXY,
    STACK,
    TEXTS,
    all_pods,
    containers,
    documents,
    problems_of_a_container,
    problems_of_a_pod,
    problems_of_a_service,
    services,
    whole,
)


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
    assert len(pods) == 17
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
    ingresses = [d["spec"] for d in found if d["kind"] == "Ingress"]
    for ingress in ingresses:
        named = {host for entry in ingress["tls"] for host in entry["hosts"]}
        assert {rule["host"] for rule in ingress["rules"]} == named
    reached = {p["backend"]["service"]["name"] for i in ingresses for r in i["rules"] for p in r["http"]["paths"]}
    assert reached == {"mlflow", "serve", "dashboard"}
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


def test_whatever_is_reached_asks_who_comes():
    """Accounts at MLflow, a token at Ray, keys at the rest, in each file that starts one."""
    asks = {"mlflow server": "--app-name=basic-auth", "wsss serve": "--api-keys=", "wsss dashboard": "--api-keys="}
    found = []
    for container in containers():
        for program, option in asks.items():
            if " ".join(container.words[:2]) == program:
                found.append(container.where)
                assert any(word.startswith(option) for word in container.words), container.where
    assert len(found) == 6
