"""A team's whole way on the real stack, and its backup: destroyed, and the same again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import stack_examples
from backup_examples import digests
from conftest import SMALL
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from stack_examples import as_role, call, surroundings

from infra.stack.layout import Layout
from infra.stack.postgres import _connect
from infra.stack.processes import Started, session, wait_until
from wsss.tracking import names

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
PROJECT = Path(__file__).parents[2]
NAME = "wsss-shapes"
FAST = {key: value for key, value in SMALL.items() if not key.startswith("refine")}


@dataclass
class Team:
    """A stack, a workspace on it, and what was made there."""

    stack: Layout
    folder: Path
    run: str
    picture: bytes

    def does(self, role: str, *words: str, status: int = 0) -> str:
        """What `python -m WORDS` says in the workspace, to somebody in a role."""
        done = self.begins(role, *words)
        said, _ = done.communicate(timeout=1200)
        assert done.returncode == status, said
        return said

    def begins(self, role: str, *words: str) -> subprocess.Popen[str]:
        """The same, not waited for."""
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=self.folder,
            env=surroundings(self.stack, role) | {"COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def calls(self, *words: str) -> None:
        """`python -m infra.stack WORDS` does it."""
        done = call(self.stack.folder, *words, cwd=self.folder)
        assert done.returncode == 0, done.stdout + done.stderr

    def served(self, key: str = "") -> bytes:
        """What the server answers to a picture."""
        key = key or (self.stack.secrets / "serve_keys").read_text().split()[0]
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/png"}
        return urlopen(Request(f"{self.stack.address('serve')}/segment", data=self.picture, headers=headers)).read()


@pytest.fixture(scope="module")
def team(tiny_shapes, tmp_path_factory) -> Iterator[Team]:
    """A workspace as a clone would be, whose labels go to the team's bucket, with a first run by `mlflow run`."""
    folder = tmp_path_factory.mktemp("team")
    shutil.copytree(tiny_shapes.root, folder / "data" / "shapes")
    for file in ("MLproject", "python_env.yaml"):
        shutil.copy(PROJECT / file, folder)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    picture = next((folder / "data/shapes/JPEGImages").iterdir()).read_bytes()
    with stack_examples.started("mlflow", "ray-worker") as stack:
        team = Team(stack, folder, "", picture)
        team.does("researcher", "dvc", "init", "--quiet")
        team.does("researcher", "dvc", "remote", "add", "--default", "team", "s3://wsss-store/dvc")
        given = {"method": "cam", "preset": "demo", "data": "shapes"}
        given["set"] = " ".join(f"{key}={value}" for key, value in FAST.items())
        words = [part for key, value in given.items() for part in ("-P", f"{key}={value}")]
        said = team.does("researcher", "mlflow", "run", ".", "--env-manager", "local", *words)
        found = re.search(r"^run (\w+)", said, re.MULTILINE)
        assert found, said
        team.run = found[1]
        yield team


def test_an_experiment_of_mlflow_run_is_on_the_server(team, monkeypatch):
    client = as_role(team.stack, "researcher", monkeypatch)
    run = client.get_run(team.run)
    assert run.info.status == "FINISHED" and run.data.params["method"] == "cam"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert run.data.tags["mlflow.project.entryPoint"] == "main"
    assert "val/pred/miou" in run.data.metrics


def test_a_search_goes_on_when_a_ray_worker_is_killed(team, monkeypatch):
    client = as_role(team.stack, "researcher", monkeypatch)
    words = [part for key, value in FAST.items() for part in ("--set", f"{key}={value}")]
    address = str(team.stack.variables("researcher")["RAY_ADDRESS"])
    words += ["--method", "cam", "--preset", "demo", "--data", "shapes", "--trials", "6", "--ray-address", address]
    process = team.begins("researcher", "tune", *words, "--keys", "refine.crf.bilateral_weight")
    try:
        assert wait_until(lambda: bool(trials(client)) or process.poll() is not None, 300)
        worker = Started(team.stack, "ray-worker").pid
        assert worker and process.poll() is None, process.stdout and process.stdout.read()
        for pid in session(worker):
            os.kill(pid, signal.SIGKILL)
        team.calls("start", "ray-worker")
        said, _ = process.communicate(timeout=1200)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert len(trials(client, "FINISHED")) >= 6 and not trials(client, "RUNNING")


def trials(client: MlflowClient, status: str = "") -> list[Any]:
    condition = f"tags.`{names.KIND}` = '{names.TRIAL_RUN}'" + (f" AND status = '{status}'" if status else "")
    return list(client.search_runs(["0"], condition))


def test_a_promoter_moves_the_champion_and_a_researcher_cannot(team, monkeypatch):
    refused = team.does("researcher", "wsss.cli", "promote", team.run, "--force", "mine", status=2)
    assert "Traceback" not in refused
    assert "is champion" in team.does("promoter", "wsss.cli", "promote", team.run, "--force", "the first")
    client = as_role(team.stack, "researcher", monkeypatch)
    version = client.get_model_version_by_alias(NAME, "champion").version
    with pytest.raises(MlflowException, match="403|[Pp]ermission"):
        client.set_registered_model_alias(NAME, "champion", version)


def test_what_is_served_asks_for_a_key(team):
    team.calls("start", "serve", "dashboard")
    assert team.served().startswith(b"\x89PNG")
    with pytest.raises(HTTPError, match="401"):
        team.served("guessed")


def test_data_and_labels_come_back_from_the_bucket(team):
    team.does("researcher", "dvc", "add", "data/shapes")
    team.does("researcher", "dvc", "push")
    assert "pushed" in team.does("researcher", "wsss.cli", "labels", "push", "--run", team.run)
    before = labels(team, "one"), digests(team.folder / "data" / "shapes")
    for folder in (".dvc/cache", "data/shapes"):
        shutil.rmtree(team.folder / folder)
    team.does("researcher", "dvc", "pull")
    assert (labels(team, "two"), digests(team.folder / "data" / "shapes")) == before
    assert all(len(each) > 10 for each in before)


def labels(team: Team, name: str) -> dict[str, str]:
    """The sha256 of each label map of the run, as they come back."""
    team.does("researcher", "wsss.cli", "labels", "export", "--run", team.run, "--to", name)
    found = digests(team.folder / name)
    shutil.rmtree(team.folder / name)
    return found


def test_nothing_fell_back_to_a_file_here(team):
    assert not {"mlflow.db", "mlruns"} & {path.name for path in team.folder.iterdir()}
    assert not [name for name in ("store", "ledger", "search/studies.db") if (team.folder / "work" / name).exists()]
    assert not list(team.stack.scratch.rglob("mlruns"))


def seen(team: Team, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a backup has to bring back, but for runs and accounts: aliases, ledger, masks, studies, the answer."""
    client = as_role(team.stack, "admin", monkeypatch)
    with _connect(team.stack, "studies") as database:
        searched = database.execute("SELECT to_regclass('trials')").fetchone() != (None,)
        query = "SELECT number, state FROM trials ORDER BY trial_id"
        studied = database.execute(query).fetchall() if searched else []
    return {
        "aliases": client.get_registered_model(NAME).aliases,
        "ledger": json.loads(team.does("researcher", "wsss.cli", "history", NAME, "--json")),
        "masks": labels(team, "masks"),
        "studies": studied,
        "served": team.served(),
    }


def accounts(team: Team) -> list[tuple[str, str]]:
    """Everybody's account, with the hash of the password."""
    with _connect(team.stack, "mlflow_auth") as database:
        return database.execute("SELECT username, password_hash FROM users ORDER BY username").fetchall()


def finished(client: MlflowClient) -> dict[str, Any]:
    """All finished runs of all experiments, by id."""
    runs, token = [], None
    ids = [each.experiment_id for each in client.search_experiments()]
    while True:
        page = client.search_runs(ids, "status = 'FINISHED'", page_token=token)
        runs += page
        if not (token := page.token):
            return {run.info.run_id: (run.data.params, run.data.metrics, run.data.tags) for run in runs}


def test_what_was_backed_up_while_eight_write_is_there_again_after_all_is_destroyed(team, tmp_path, monkeypatch):
    if not Started(team.stack, "serve").pid:
        pytest.skip("what the tests before this one make is not there")
    client = as_role(team.stack, "admin", monkeypatch)
    before, people, to = seen(team, monkeypatch), accounts(team), str(tmp_path / "backups")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "logging")
    writing = team.begins("researcher", "benchmarks.stack_logging", "backup", "8", "50")
    assert wait_until(lambda: len(finished_of_writers(client)) >= 8 or writing.poll() is not None, 300)
    acknowledged = finished(client)
    said = team.does("operator", "wsss.cli", "backup", to)
    assert writing.poll() is None, f"nobody wrote any more: {writing.communicate()}"
    for part in ("ledger: ", "tracking: ", "studies: ", "accounts: ", "artifacts: ", "store: ", "dvc: "):
        assert part in said
    assert writing.wait(900) == 0
    assert "is whole" in team.does("operator", "wsss.cli", "backup", "check", to)

    ports = [part for name, port in team.stack.ports.items() for part in ("--port", f"{name}={port}")]
    team.calls("stop")
    shutil.copytree(team.stack.secrets, tmp_path / "secrets")
    team.calls("clean", "--yes")
    assert not team.stack.folder.exists()
    shutil.rmtree(team.folder / "work")
    shutil.rmtree(team.folder / ".dvc" / "cache")

    team.stack.folder.mkdir()
    shutil.copytree(tmp_path / "secrets", team.stack.secrets)
    team.calls("start", "postgres", "objects", *ports)
    assert "is restored" in team.does("operator", "wsss.cli", "restore", to)
    assert accounts(team) == people and len(people) == 4
    team.calls("start", "mlflow", "serve")
    client = as_role(team.stack, "admin", monkeypatch)
    runs = finished(client)
    assert acknowledged.items() <= runs.items()
    for run in finished_of_writers(client):
        assert {each.path for each in client.list_artifacts(run.info.run_id)} >= {"confusion", "settings.json"}
    assert seen(team, monkeypatch) == before
    # And it is a stack to work on.
    again = team.begins("researcher", "benchmarks.stack_logging", "after", "1", "1")
    assert again.wait(300) == 0
    said = team.does("promoter", "wsss.cli", "promote", team.run, "--force", "again", status=2)
    assert "is the champion already" in said


def finished_of_writers(client: MlflowClient) -> list[Any]:
    found = client.search_experiments(filter_string="name = 'logging'")
    return list(client.search_runs([found[0].experiment_id], "status = 'FINISHED'")) if found else []
