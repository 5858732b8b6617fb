"""infra/: secrets and variables, in a place each, documented, and in no file that is kept."""

from __future__ import annotations

import os
import re
import stat
import subprocess

from infra_files import (
    COMPOSE,
    INFRA,
    MANIFESTS,
    PAGE,
    PROJECT,
    PROXY,
    STACK,
    TEXTS,
    containers,
    documents,
    secrets_in,
)

pytest_plugins = ("infra_files",)


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
    declared = {name for path in (STACK, PROXY) for name in documents(path)[0].get("secrets", ())}
    used = {name for container in containers() for name in container.files}
    assert declared == used == set(secrets)
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
