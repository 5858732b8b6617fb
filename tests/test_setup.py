"""The files that set the project up agree with each other."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
LOCK = (PROJECT / "requirements.lock").read_text()
MLPROJECT = yaml.safe_load((PROJECT / "MLproject").read_text())


def locked() -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for line in LOCK.splitlines():
        requirement = Requirement(line)
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def make(*arguments: str) -> str:
    return subprocess.run(["make", *arguments], cwd=PROJECT, check=True, capture_output=True, text=True).stdout


def test_the_lock_pins_every_version_and_holds_no_address() -> None:
    assert not re.search(r"://|^-|@|\.(whl|gz)\b", LOCK, re.MULTILINE)
    for requirements in locked().values():
        for requirement in requirements:
            assert re.fullmatch(r"==[\w.+!]+", str(requirement.specifier)), requirement


def test_what_pyproject_asks_for_is_locked_as_it_asks() -> None:
    project = PYPROJECT["project"]
    asked = [*project["dependencies"], *(r for e in ("dev", "postgres") for r in project["optional-dependencies"][e])]
    for requirement in map(Requirement, asked):
        assert canonicalize_name(requirement.name) in locked(), f"{requirement.name} is not locked; run: make lock"
        (pin,) = [p for p in locked()[canonicalize_name(requirement.name)] if not p.marker or p.marker.evaluate()]
        assert requirement.specifier.contains(str(pin.specifier)[2:])


def test_the_lock_keeps_the_versions_chosen_by_hand() -> None:
    chosen = [line for line in (PROJECT / "constraints.in").read_text().splitlines() if line and line[0] != "#"]
    assert len(chosen) == 7
    for requirement in map(Requirement, chosen):
        assert {str(pin.specifier) for pin in locked()[requirement.name]} == {str(requirement.specifier)}


def test_what_is_locked_is_what_is_installed() -> None:
    from importlib.metadata import version

    for name, pins in locked().items():
        for pin in pins:
            if not pin.marker or pin.marker.evaluate():
                assert version(name) == str(pin.specifier)[2:], f"{name}: run make env"


def test_mlproject_has_the_keys_mlflow_reads_and_no_other() -> None:
    """MLflow does not check the file: a key it does not know is silently without effect."""
    assert set(MLPROJECT) == {"name", "python_env", "entry_points"}
    assert (PROJECT / MLPROJECT["python_env"]).is_file()
    assert set(MLPROJECT["entry_points"]) == {"main", "search", "promote", "serve"}
    for entry in MLPROJECT["entry_points"].values():
        assert set(entry) == {"parameters", "command"}
        for parameter in entry["parameters"].values():
            assert set(parameter) <= {"type", "default"}
            assert parameter["type"] in ("string", "float", "path", "uri")
            assert isinstance(parameter.get("default", ""), str)


@pytest.mark.parametrize("name", MLPROJECT["entry_points"])
def test_each_entry_point_uses_exactly_the_parameters_it_declares(name: str) -> None:
    entry = MLPROJECT["entry_points"][name]
    assert set(re.findall(r"{(\w+)}", entry["command"])) == set(entry["parameters"])


@pytest.mark.parametrize("name", ["promote", "serve"])
def test_the_command_line_takes_what_an_entry_point_gives_it(name: str) -> None:
    import typer.main

    from wsss.cli import app

    entry = MLPROJECT["entry_points"][name]
    values = {key: parameter.get("default", "abc") for key, parameter in entry["parameters"].items()}
    program, command, *arguments = shlex.split(entry["command"].format(**values))
    assert (program, command) == ("wsss", name)
    typer.main.get_command(app).commands[name].make_context(name, arguments)


def test_mlflow_builds_the_demos_command() -> None:
    from mlflow.projects._project_spec import load_project

    entry = load_project(str(PROJECT)).get_entry_point("main")
    command = entry.compute_command({"method": "affinity", "preset": "demo", "set": "refine.walk.beta=8"}, None)
    words = shlex.split(command)
    assert words[:5] == ["python", "-m", "pipelines.run", "--method", "affinity"]
    assert words[-2:] == ["--set", "refine.walk.beta=8"]


def test_make_help_names_every_target_a_person_calls() -> None:
    targets = {line.split()[1] for line in make("--no-print-directory", "help").splitlines()}
    wanted = "help demo dashboard test lint generate docs performance gpu env lock sbom soak stack"
    assert targets == set(wanted.split())


def test_make_test_runs_every_check_and_make_demo_runs_the_demo() -> None:
    checks = make("--dry-run", "test")
    for check in ("ruff check .", "ruff format --check .", "mypy", "lint-imports", "pytest -q"):
        assert check in checks.splitlines()
    assert "mlflow run . --env-manager local -P method=affinity -P preset=demo" in make("--dry-run", "demo")


def test_every_room_has_its_place_in_the_import_rule() -> None:
    contracts = {contract["name"]: contract for contract in PYPROJECT["tool"]["importlinter"]["contracts"]}
    layers = contracts["imports run downward only"]["layers"]
    placed = {name.strip(" ()") for layer in layers for name in layer.split(":")}
    rooms = {f"wsss.{path.stem}" for path in (PROJECT / "wsss").iterdir() if path.stem[0] != "_" and has_code(path)}
    assert rooms <= placed, f"give {rooms - placed} a layer in pyproject.toml"


def has_code(path: Path) -> bool:
    return path.suffix == ".py" or any(path.glob("*.py"))


def test_ci_is_one_command_and_needs_no_path_of_a_machine() -> None:
    script = PROJECT / ".ci" / "run"
    text = script.read_text()
    assert script.stat().st_mode & 0o111 and "REQUIRE_ALL=1 make test" in text
    assert not re.search(r"(?<![\w.$])/(home|root|work|opt|mnt)/", text)
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_license_and_citation_name_the_same_license() -> None:
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert citation["license"] == PYPROJECT["project"]["license"] == "Apache-2.0"
    assert citation["version"] == PYPROJECT["project"]["version"]
    assert "Apache License" in (PROJECT / "LICENSE").read_text()
