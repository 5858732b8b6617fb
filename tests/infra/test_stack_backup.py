"""Backups of a team's set-up: PostgreSQL, artifacts in a bucket, a bucket for the rest; each real and over its wire."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import boto3
import pytest
from backup_examples import (
    NAME,
    assert_whole,
    finished,
    make_everything,
    served,
    wait_for_runs,
    write_runs,
    writers,
    wsss,
)
from mlflow import MlflowClient

from infra.stack.layout import Layout, Secret, resolved
from infra.stack.postgres import ADMINISTRATOR
from wsss import storage
from wsss.backup import databases, trees
from wsss.backup.vault import Vault
from wsss.registry.standing import history
from wsss.tracking.connection import mlflow_client


@pytest.fixture(scope="module")
def postgres(stack: Layout) -> Iterator[str]:
    """What an address on the stack's PostgreSQL begins with, for the administrator of all databases."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", Secret(stack.secrets / "postgres_password").value())
        yield f"postgresql://{ADMINISTRATOR}@127.0.0.1:{stack.ports['postgres']}"


@pytest.fixture(scope="module")
def objects(stack: Layout) -> Iterator[None]:
    """The stack's buckets, for who may do all there."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name, raising=False)
        for name, value in resolved(stack.s3("admin")).items():
            patch.setenv(name, value)
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        storage.bucket._client.cache_clear()
        for name in ("bucket", "artifacts"):
            boto3.client("s3").create_bucket(Bucket=name)
        yield


@pytest.fixture(scope="module")
def team(postgres, objects, tmp_path_factory) -> Iterator[Path]:
    """A workspace of a team: what it keeps lies on servers."""
    make_database(postgres, "runs")
    make_database(postgres, "trials")
    with databases.connected(f"{postgres}/trials", "AUTOCOMMIT") as connection:
        connection.exec_driver_sql("CREATE TABLE trials (trial_id integer)")
        connection.exec_driver_sql("INSERT INTO trials VALUES (1), (2)")
    folder = tmp_path_factory.mktemp("team")
    with pytest.MonkeyPatch.context() as patch:
        settle_in(patch, folder, postgres)
        mlflow_client()
        # As its server would have it with --default-artifact-root.
        with databases.connected(f"{postgres}/runs", "AUTOCOMMIT") as connection:
            connection.exec_driver_sql("UPDATE experiments SET artifact_location = 's3://artifacts/0'")
        make_everything()
        yield folder


def settle_in(patch: pytest.MonkeyPatch, folder: Path, postgres: str) -> None:
    """Go to a folder whose DVC remote and variables are those of the team."""
    (folder / ".dvc").mkdir()
    lines = ["[core]", "no_scm = True", "remote = team", "['remote \"team\"']", "url = s3://bucket/dvc"]
    (folder / ".dvc" / "config").write_text("\n".join(lines))
    patch.chdir(folder)
    patch.setenv("MLFLOW_TRACKING_URI", f"{postgres}/runs")
    patch.setenv("MLFLOW_ARTIFACTS_DESTINATION", "s3://artifacts")
    patch.setenv("WSSS_STORE", "s3://bucket/steps")
    patch.setenv("WSSS_LEDGER", "s3://bucket/ledger")
    patch.setenv("WSSS_STUDIES", f"{postgres}/trials")
    for name in ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_AUTH_CONFIG_PATH"):
        patch.delenv(name, raising=False)


def make_database(postgres: str, name: str) -> None:
    with databases.connected(f"{postgres}/postgres", "AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        connection.exec_driver_sql(f'CREATE DATABASE "{name}" OWNER mlflow')


def command_lines(ended: threading.Event, found: set[str]) -> None:
    """Collect what everybody on the machine can see of processes, again and again."""
    while not ended.is_set():
        for path in glob("/proc/[0-9]*/cmdline"):
            try:
                found.add(Path(path).read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
        time.sleep(0.005)


def test_everything_comes_back_on_servers_that_are_empty(team, postgres, tmp_path, monkeypatch) -> None:
    client = MlflowClient()
    before = served(), history(NAME), client.get_registered_model(NAME).aliases
    # Connections are not shared with the writers, which begin as copies of this process.
    uri = f"{postgres}/runs?application_name=writer"
    to = "s3://bucket/backups"
    with writers(uri, pause=0.5):
        acknowledged = wait_for_runs(client, 16)
        said = wsss("backup", to)
    for part in ("ledger: 2", "tracking: ", "studies: ", "artifacts: ", "store: 2", "dvc: 4"):
        assert part in said
    checked = wsss("backup", "check", to)
    assert "is whole" in checked and "1 records" in checked

    again = wsss("backup", to)
    assert "backup" in again and Vault(to).read().new < Vault(to).read().size

    # Destroyed: the databases, the buckets but for the backups, the folder.
    for name in ("runs", "trials"):
        make_database(postgres, name)
    for place in ("s3://artifacts/0", "s3://bucket/steps", "s3://bucket/ledger", "s3://bucket/dvc"):
        storage.remove(place)
    there = tmp_path / "there"
    there.mkdir()
    settle_in(monkeypatch, there, postgres)
    said = wsss("restore", to, "--backup", Vault(to).names()[0])
    assert "is restored" in said
    fresh = MlflowClient(f"{postgres}/runs?application_name=reader")
    runs = finished(fresh)
    assert acknowledged.keys() <= runs.keys()
    assert_whole(fresh, dict(list(runs.items())[:16]))
    assert before == (served(), history(NAME), fresh.get_registered_model(NAME).aliases)
    with databases.connected(f"{postgres}/trials") as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM trials").scalar() == 2
        owner = connection.exec_driver_sql("SELECT tableowner FROM pg_tables WHERE tablename = 'trials'").scalar()
        assert owner == "mlflow", "who restored is not whose the database is"
    assert sum(1 for _ in trees.listed("s3://bucket/dvc")) == 4
    refused = wsss("restore", to, status=2)
    for part in ("ledger: s3://bucket/ledger has", "tracking: ", " runs", "studies: ", "2 trials", "artifacts: "):
        assert part in refused


def test_the_password_of_an_address_is_nowhere(team, postgres, tmp_path, monkeypatch, capfd) -> None:
    password = os.environ["PGPASSWORD"]
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.delenv("WSSS_STUDIES")
    address = postgres.replace("postgres@", f"postgres:{password}@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{address}/mlflow")
    ended, lines = threading.Event(), set()
    looking = threading.Thread(target=command_lines, args=(ended, lines))
    looking.start()
    said = [wsss("backup", str(tmp_path / "to")), wsss("backup", "check", str(tmp_path / "to"))]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{address}/nothing")
    said.append(wsss("backup", str(tmp_path / "to"), status=2))
    ended.set()
    looking.join()
    assert any("pg_dump" in line for line in lines) and not any(password in line for line in lines)
    assert "can't be used" in said[-1] and "nothing" in said[-1]
    assert not any(password in text for text in (*said, *capfd.readouterr()))
    assert not any(password.encode() in path.read_bytes() for path in (tmp_path / "to").rglob("*") if path.is_file())
    wrong = postgres.replace("postgres@", "postgres:wrong-password@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{wrong}/mlflow")
    refused = wsss("backup", str(tmp_path / "to"), status=2)
    assert "password authentication failed" in refused and "wrong-password" not in refused


def test_a_table_that_did_not_change_is_not_kept_again(team, postgres, tmp_path) -> None:
    to = str(tmp_path / "to")
    wsss("backup", to)
    first = Vault(to).read()
    write_runs(f"{postgres}/runs?application_name=one", 1, threading.Event(), count=1)
    wsss("backup", to)
    vault = Vault(to)
    second = vault.read()
    one, other = (
        {file.name: file.sha256 for file in vault.files(part)}
        for part in (first.part("tracking"), second.part("tracking"))
        if part
    )
    same = [name for name in one if other.get(name) == one[name]]
    assert len(same) > len(one) / 2 and first.part("studies") is not None
    assert second.new < first.new / 4


def test_another_kind_of_database_and_a_missing_program_are_sentences(team, tmp_path, monkeypatch) -> None:
    to = str(tmp_path / "to")
    wsss("backup", to)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    said = wsss("restore", to, status=2)
    assert "the backup's database of tracking is of postgresql" in said and "is of sqlite" in said
    assert "no server to try it on is named" in wsss("backup", "check", to, status=2)
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "which", lambda *arguments, **options: None)
    assert "apt install postgresql-client" in wsss("backup", to, status=2)
