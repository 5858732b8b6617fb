"""Artifacts belong to the workspace: it may be renamed, copied, called as one likes, and stand in a closed folder."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from tracking_examples import INFO

from wsss.errors import UserError
from wsss.tracking.artifacts import read_artifact
from wsss.tracking.connection import mlflow_client, tracking_uri
from wsss.tracking.opening import experiment_id, new_run, open_run

NAMES = (
    "a%20b",
    "a b",
    "Übung 猫",
    "a#b",
    "a?b",
    "a%23b",
    "a[1]",
    "a:b",
    "it's",
    "a;b",
    "100%",
    "%41",
    "a+b&c=d",
    "a\\b",
)


@pytest.fixture(autouse=True)
def no_address(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def enter(template, tmp_path, monkeypatch):
    """Go into a folder with a store whose addresses are those that MLflow gives them there."""

    def enter(name: str) -> Path:
        folder = tmp_path / "around" / name
        folder.mkdir(parents=True)
        shutil.copy(template, folder / "mlflow.db")
        set_addresses(folder, f"{folder}/mlruns/0")
        monkeypatch.chdir(folder)
        return folder

    return enter


def set_addresses(folder: Path, address: str) -> None:
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET artifact_location = ?", (address,))


def run_with(content: str) -> str:
    """A run, with an artifact of that content."""
    client = mlflow_client()
    run = new_run(client, "test", {}).info.run_id
    client.log_text(run, content, "folder/file.txt")
    return str(run)


def in_mlflows_way(folder: Path, content: str) -> str:
    """A run as an earlier version wrote it: with absolute addresses, by MLflow alone."""
    client = MlflowClient(f"sqlite:///{quote(str(folder))}/mlflow.db")
    run = client.create_run("0").info.run_id
    place = folder / "mlruns" / "0" / run / "artifacts" / "folder"
    place.mkdir(parents=True)
    (place / "file.txt").write_text(content)
    return str(run)


def content(run: str) -> str:
    return read_artifact(run, "folder/file.txt").decode()


def written(folder: Path) -> list[str]:
    return sorted(path.read_text() for path in folder.rglob("file.txt"))


@pytest.mark.parametrize("name", NAMES)
def test_a_workspace_of_any_name_reads_and_writes_in_its_own_place(name, enter, tmp_path):
    folder = enter(name)
    run = run_with(name)
    assert content(run) == name and written(folder) == [name]
    assert os.listdir(tmp_path / "around") == [name]


def test_names_that_are_quoted_forms_of_each_other_are_not_mixed_up(enter, monkeypatch):
    folders = {name: enter(name) for name in ("a%20b", "a b", "a%2520b")}
    runs = {}
    for name, folder in folders.items():
        monkeypatch.chdir(folder)
        runs[name] = run_with(name)
    for name, folder in folders.items():
        monkeypatch.chdir(folder)
        assert content(runs[name]) == name and written(folder) == [name]
        assert Path(tracking_uri().partition("///")[2]).name == "mlflow.db"


@pytest.mark.parametrize("made", [run_with, None])
@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_a_moved_or_copied_workspace_uses_its_own_artifacts(made, how, enter, monkeypatch):
    old = enter("old place")
    run = run_with("first") if made else in_mlflows_way(old, "first")
    new = old.with_name("new place")
    how(str(old), str(new))
    monkeypatch.chdir(new)
    if old.exists():
        next(old.rglob("file.txt")).write_text("changed in the old one")
    assert content(run) == "first"
    run_with("second")
    assert written(new) == ["first", "second"]
    assert old.exists() == (how is shutil.copytree)
    if old.exists():
        monkeypatch.chdir(old)
        assert content(run) == "changed in the old one" and len(written(old)) == 1


def test_plain_mlflow_finds_them_in_the_folder_and_we_do_from_everywhere(enter, tmp_path, monkeypatch):
    folder = enter("workspace")
    run = run_with("text")
    assert MlflowClient().get_run(run).info.artifact_uri == f"mlruns/0/{run}/artifacts"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    assert content(run) == "text"
    run_with("from elsewhere")
    assert written(folder) == ["from elsewhere", "text"] and not (tmp_path / "mlruns").exists()


def test_a_new_experiment_is_of_the_workspace_and_one_elsewhere_stays_there(enter, tmp_path, monkeypatch):
    folder = enter("workspace")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "new")
    experiment_id(mlflow_client())
    run_with("own")
    elsewhere = tmp_path / "elsewhere"
    MlflowClient().create_experiment("given", f"{elsewhere}/art")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "given")
    run_with("given")
    assert written(folder) == ["own"] and written(elsewhere) == ["given"]


def test_runs_whose_artifacts_lie_in_another_folder_are_left_there(enter, tmp_path, monkeypatch):
    """An earlier version wrote into the current folder whatever database was named."""
    folder, other = enter("workspace"), tmp_path / "other"
    set_addresses(folder, f"{other}/mlruns/0")
    client = MlflowClient()
    run = client.create_run("0").info.run_id
    place = other / "mlruns" / "0" / run / "artifacts" / "folder"
    place.mkdir(parents=True)
    (place / "file.txt").write_text("there")
    (folder / "mlruns" / "0" / ("f" * 32)).mkdir(parents=True)
    assert content(run) == "there"
    assert client.get_run(run).info.artifact_uri.startswith(str(other))
    run_with("here")
    assert written(folder) == ["here"] and written(other) == ["there"]


def test_a_workspace_that_wrote_into_its_neighbour_reads_it_there_and_writes_at_home(enter, tmp_path):
    """MLflow took `a%20b` for `a b`: what an earlier version wrote there is found, what is new is at home."""
    neighbour, folder = enter("a b"), enter("a%20b")
    run = MlflowClient().create_run("0").info.run_id
    place = neighbour / "mlruns" / "0" / run / "artifacts" / "folder"
    place.mkdir(parents=True)
    (place / "file.txt").write_text("astray")
    assert content(run) == "astray"
    run_with("at home")
    assert written(folder) == ["at home"] and written(neighbour) == ["astray"]


def test_a_server_over_such_a_database_is_not_misunderstood(enter, tmp_path, monkeypatch):
    """Its addresses count from its folder: a client in another one must not write into its own."""
    enter("workspace")
    run = run_with("text")
    repository = partial(get_artifact_repository, f"mlruns/0/{run}/artifacts", "http://127.0.0.1:1")
    assert repository().list_artifacts("folder")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="work in the folder of its database"):
        repository()


def test_artifacts_that_are_gone_are_told_as_such(enter):
    folder = enter("workspace")
    run = run_with("text")
    with pytest.raises(FileNotFoundError, match=f"run {run} has no artifact other.txt"):
        read_artifact(run, "other.txt")
    shutil.rmtree(folder / "mlruns")
    with pytest.raises(FileNotFoundError, match=f"the artifacts of run {run} are gone: nothing is left in mlruns/0/"):
        content(run)


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "sqlite+pysqlite://", "sqlite:///"])
def test_a_store_in_memory_is_said_to_be_lost(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=r"lost with it; name a file in MLFLOW_TRACKING_URI"):
        mlflow_client()


def test_an_experiment_that_was_deleted_or_never_was_is_one_sentence(enter, monkeypatch):
    enter("workspace")
    client = mlflow_client()
    deleted = client.create_experiment("mine")
    client.delete_experiment(deleted)
    for name, value in (("NAME", "mine"), ("ID", deleted), ("ID", "77"), ("ID", "x"), ("NAME", "x" * 600)):
        with monkeypatch.context() as patch:
            patch.setenv(f"MLFLOW_EXPERIMENT_{name}", value)
            with pytest.raises(UserError, match="MLflow begins no run .*MLFLOW_EXPERIMENT_NAME") as told:
                open_run(client, INFO, None)
        assert "\n" not in str(told.value)


def test_a_run_is_continued_in_its_own_experiment_alone(enter, monkeypatch):
    """The trials of a search lie where the search's own run lies, whatever was interrupted elsewhere."""
    enter("workspace")
    client = mlflow_client()
    interrupted = open_run(client, INFO, None).info.run_id
    client.set_terminated(interrupted, "KILLED")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "search")
    search = new_run(client, "search", {}).info
    trial = open_run(client, INFO, search.run_id).info
    assert trial.run_id != interrupted and trial.experiment_id == search.experiment_id
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    assert open_run(client, INFO, None).info.run_id == interrupted
