"""`wsss cluster submit`: what goes to a cluster with a command, what is shown of it, and what is refused before."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wsss.cli import app
from wsss.data import Dataset, open_dataset
from wsss.errors import UserError
from wsss.run import jobs
from wsss.scores import Masks

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "hidden-1",
    "MLFLOW_TRACKING_PASSWORD": "hidden-2",
    "WSSS_STUDIES": "postgresql://me:hidden-3@database/studies",
}
COMMAND = [
    "python",
    "-m",
    "tune",
    "--data",
    "little",
    "--space",
    "spaces/mine.json",
    "--fix=localize.train.weights=w.pt",
]


class Client:
    """Keeps what it is given, as a cluster would."""

    def __init__(self, kept: Path) -> None:
        self.kept = kept

    def submit_job(self, entrypoint, runtime_env):
        self.entrypoint, self.environment = entrypoint, runtime_env
        package = Path(runtime_env["working_dir"])
        self.mode = stat.S_IMODE((package / jobs.LETTER).stat().st_mode)
        shutil.copytree(package, self.kept)
        return "raysubmit_1"


@pytest.fixture
def cluster(tiny_shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A workspace from which all is shared, and a cluster."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in list(os.environ):
        if name.startswith(("WSSS_", "MLFLOW_", "AWS_")) and name != "WSSS_READER_PATH":
            monkeypatch.delenv(name)
    for name, value in {
        **SECRETS,
        "WSSS_STORE": str(tmp_path / "store"),
        "MLFLOW_TRACKING_URI": "http://tracking:5000",
        "WSSS_CORES": "7",
    }.items():
        monkeypatch.setenv(name, value)
    shutil.copytree(tiny_shapes.root, "data/little")
    Path("spaces").mkdir()
    Path("spaces/mine.json").write_text("{}")
    Path("w.pt").write_text("weights")
    client = Client(tmp_path / "there")
    monkeypatch.setattr(jobs, "_client", lambda address: client)
    return client


def test_a_job_gets_variables_datasets_and_files_and_ray_is_shown_no_variable(cluster: Client) -> None:
    result = CliRunner().invoke(app, ["cluster", "submit", "--", *COMMAND])
    assert result.exit_code == 0, result.output
    assert "raysubmit_1" in result.output and "ray job stop --address http://127.0.0.1:8265" in result.output
    assert "hidden" not in result.output + cluster.entrypoint + json.dumps(cluster.environment)
    assert "env_vars" not in cluster.environment and cluster.mode == 0o600
    files = {path.relative_to(cluster.kept).as_posix() for path in cluster.kept.rglob("*") if path.is_file()}
    assert files == {jobs.LETTER, "spaces/mine.json", "w.pt"}


def test_where_a_job_begins_it_has_them_and_the_letter_is_gone(cluster: Client) -> None:
    look = "import os, json; print(json.dumps([dict(os.environ), os.listdir('.')]))"
    jobs.submit(["python", "-c", look, "little"], jobs.ADDRESS)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WSSS_", "AWS_", "MLFLOW_"))}
    config = {"runtime_env": {"working_dir": "gcs://package.zip", "py_modules": ["gcs://code.zip"]}}
    environment["RAY_JOB_CONFIG_JSON_ENV_VAR"] = json.dumps(config)
    words = shlex.split(cluster.entrypoint)
    assert words[:3] == ["python", "-m", "wsss.run.jobs"]
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=cluster.kept, env=environment, capture_output=True, text=True, check=True
    )
    variables, names = json.loads(done.stdout)
    assert SECRETS.items() <= variables.items() and "WSSS_CORES" not in variables and names == ["data"]
    workers = json.loads(variables["RAY_JOB_CONFIG_JSON_ENV_VAR"])["runtime_env"]
    assert workers == {"py_modules": ["gcs://code.zip"]}, "the letter is not copied to other machines"
    there = open_dataset(cluster.kept / "data" / "little")
    here = open_dataset("little")
    assert there.digest == here.digest
    assert all(Masks(there).ids(split) == Masks(here).ids(split) for split in ("train", "dev", "val"))


def test_passwords_can_stay_here_and_the_sources_can_go_along(cluster: Client) -> None:
    jobs.submit(COMMAND, jobs.ADDRESS, secrets=False, code=True)
    letter = json.loads((cluster.kept / jobs.LETTER).read_text())
    assert letter["variables"].keys() == {"WSSS_STORE", "MLFLOW_TRACKING_URI"}
    packages = cluster.environment["py_modules"]
    assert [Path(package).name for package in packages] == ["wsss", "tune", "pipelines", "benchmarks"]
    assert all(Path(package, "__init__.py").is_file() for package in packages)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("WSSS_STORE", "", r"WSSS_STORE \(not set\)"),
        ("WSSS_STORE", "work/store", r"WSSS_STORE \(names a file of this folder\)"),
        ("WSSS_STUDIES", "sqlite:///studies.db", r"WSSS_STUDIES \(names a file of this folder\)"),
        ("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db", r"MLFLOW_TRACKING_URI \(names"),
        ("MLFLOW_TRACKING_URI", "mlruns", r"MLFLOW_TRACKING_URI \(names"),
    ],
)
def test_what_would_stay_in_this_folder_is_refused(
    cluster: Client, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=said):
        jobs.submit(COMMAND, jobs.ADDRESS)
    assert not cluster.kept.exists()


def test_what_all_machines_share_is_taken(cluster: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSSS_STUDIES", "sqlite:////shared/studies.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///shared/mlruns")
    assert jobs.submit(COMMAND, jobs.ADDRESS) == "raysubmit_1"


def test_a_file_that_would_leave_the_folder_is_refused(cluster: Client) -> None:
    Path("../outside.json").write_text("{}")
    with pytest.raises(UserError, match="does not stay inside"):
        jobs.submit(["python", "../outside.json"], jobs.ADDRESS)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:1", "no Ray dashboard answers at http://127.0.0.1:1"),
        ("http://nowhere.invalid:8265", "no Ray dashboard answers at"),
        ("127.0.0.1:8265", "is no address for jobs; give that of the dashboard, http://HOST:PORT"),
        ("ray://127.0.0.1:10001", "is no address for jobs"),
    ],
)
def test_an_address_that_does_not_answer_is_refused(address: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        jobs.submit(["true"], address)


def test_a_command_is_needed() -> None:
    with pytest.raises(UserError, match="there is no command to submit; give it behind --"):
        jobs.submit([], jobs.ADDRESS)
