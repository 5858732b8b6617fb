"""infra/: every file against its own format's schema, without a network and without starting anything."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import hcl2
import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from infra_files import COMPOSE, CUSTOM, INFRA, MANIFESTS, PROJECT, STACK, documents, pods, scripts
from ray.autoscaler._private.util import prepare_config, validate_config

TERRAFORM = sorted((INFRA / "terraform").glob("*.tf"))
TOOLS = Path(sys.executable).parent


def tool(name: str) -> str:
    found = shutil.which(name, path=str(TOOLS)) or shutil.which(name)
    assert found, f"{name} is not installed; make env"
    return found


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_files_keep_the_compose_specification(path):
    jsonschema.validate(documents(path)[0], get_builtin_schema("vendor.compose-spec"))


def test_a_misspelt_key_of_a_compose_file_is_found():
    (content,) = documents(STACK)
    content["services"]["mlflow"]["healthchek"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, get_builtin_schema("vendor.compose-spec"))


def kubernetes_problem(document) -> str:
    try:
        kubernetes_validate.validate(document, "1.37", strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{document['kind']} {document['metadata']['name']}: {error.message}"
    return ""


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_keep_kubernetes_schemas(path):
    kuberay = json.loads((PROJECT / "tests" / "infra" / "kuberay_schema.json").read_text())
    for document in documents(path):
        if document["apiVersion"] != CUSTOM:
            assert not kubernetes_problem(document)
            continue
        jsonschema.validate(document, kuberay)
        for name, template in pods(document):
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": template}
            assert not kubernetes_problem(pod)


def test_a_misspelt_field_of_a_manifest_is_found():
    (document, *_) = documents(INFRA / "k8s" / "base" / "mlflow.yaml")
    document["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    assert "readinesProbe" in kubernetes_problem(document)


@pytest.mark.parametrize("folder", ["base", "ray"])
def test_a_kustomization_names_files_that_are_there(folder):
    (content,) = documents(INFRA / "k8s" / folder / "kustomization.yaml")
    assert set(content) <= {"apiVersion", "kind", "namespace", "labels", "resources", "images"}
    there = {path.name for path in (INFRA / "k8s" / folder).glob("*.yaml")} - {"kustomization.yaml"}
    alone = {"search.yaml", "service.yaml"} if folder == "ray" else set()
    assert set(content["resources"]) == there - alone
    named = {c["image"] for name in there for d in documents(INFRA / "k8s" / folder / name) for c in images(d)}
    assert {image for image in named if ":" not in image} == {image["name"] for image in content["images"]}


def images(document):
    return [container for _, pod in pods(document) for container in pod["spec"]["containers"]]


def test_the_ray_cluster_keeps_rays_launcher_schema():
    (content,) = documents(INFRA / "ray" / "cluster.yaml")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(content, schema)
    assert content["max_workers"] == len(content["provider"]["worker_ips"])
    prepared = prepare_config(content)
    validate_config(prepared)
    assert prepared["available_node_types"]["local.cluster.node"]["min_workers"] == content["max_workers"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "head_start_ray_command": []}, schema)


def test_the_replicas_of_ray_serve_are_configured_as_ray_serve_reads_it():
    from ray.serve.schema import ServeDeploySchema

    (content,) = documents(INFRA / "k8s" / "ray" / "service.yaml")
    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(content["spec"]["serveConfigV2"])).applications
    module, _, name = application.import_path.partition(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None and f"def {name}(" in Path(str(spec.origin)).read_text()


def test_terraform_parses_and_its_names_are_there():
    blocks = [hcl2.loads(path.read_text()) for path in TERRAFORM]
    texts = "".join(re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.M) for path in TERRAFORM)

    def named(kind: str) -> dict[str, dict]:
        return {n.strip('"'): v for block in blocks for entry in block.get(kind, ()) for n, v in entry.items()}

    variables, resources = named("variable"), [e for block in blocks for e in block.get("resource", ())]
    assert set(re.findall(r"\bvar\.(\w+)", texts)) == set(variables)
    assert all(len(variable["description"]) > 10 for variable in [*variables.values(), *named("output").values()])
    made = {(t.strip('"'), n.strip('"')) for e in resources for t, names in e.items() for n in names if n[:2] != "__"}
    assert set(re.findall(r"(?<![\w.])(aws_\w+)\.(\w+)", texts)) <= {(t, n) for t, n in made}
    for kind in re.findall(r"data\.(aws_\w+)\.(\w+)", texts):
        assert f'data "{kind[0]}" "{kind[1]}"' in texts
    assert (
        not re.search(r"^\s*(password|secret\w*|access_key)\s*=", texts, re.M)
        and "manage_master_user_password" in texts
    )


def test_what_is_not_terraform_is_found():
    with pytest.raises(Exception, match=r"(?i)unexpected|expected"):
        hcl2.loads('resource "aws_s3_bucket" "this" {')


def test_scripts_pass_shellcheck():
    subprocess.run([tool("shellcheck"), "--severity=style", *map(str, scripts())], check=True)


def test_the_dockerfile_passes_hadolint():
    subprocess.run([tool("hadolint"), "--failure-threshold", "info", str(INFRA / "Dockerfile")], check=True)


def test_every_file_that_was_not_run_says_so_on_top():
    files = [path for pattern in ("*.yaml", "*.tf", "*.sbatch", "Caddyfile") for path in INFRA.rglob(pattern)]
    assert len(files) >= 30
    for path in files:
        if path.name not in ("roles.yaml", ".env.example"):
            top = "\n".join(path.read_text().splitlines()[:12])
            assert re.search(r"Schema-checked( \(parsed\))?, not (started|applied)|Not started", top), path


def test_the_bill_of_materials_has_every_package_of_the_lock(tmp_path):
    (line,) = re.findall(r"^\tcyclonedx-py (.*)$", (PROJECT / "Makefile").read_text(), re.M)
    words = line.replace("work/sbom.json", str(tmp_path / "sbom.json")).split()
    command = [sys.executable, "-m", "cyclonedx_py", *words, "--no-validate"]
    subprocess.run(command, check=True, cwd=PROJECT, capture_output=True)
    made = json.loads((tmp_path / "sbom.json").read_text())
    assert made["bomFormat"] == "CycloneDX" and made["metadata"]["component"]["name"] == "wsss"
    locked = re.findall(r"^([\w.-]+)==([\w.+-]+)", (PROJECT / "requirements.lock").read_text(), re.M)
    assert sorted((c["name"], c["version"]) for c in made["components"]) == sorted(locked)
