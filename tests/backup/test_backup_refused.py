"""Backups that can't be made, and those that can't be relied on: each a sentence, and nothing half written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from backup_examples import (
    NAME,
    back_up,
    digests,
    here,
    look,
    original,
    settle_in,
    wsss,
)

from wsss.backup import databases, places, trees
from wsss.backup.vault import Vault
from wsss.errors import UserError
from wsss.run.lease import lease
from wsss.run.store import StepStore
from wsss.storage import temporary_folder

_FIXTURES = here, original


@pytest.mark.parametrize("damage", ["changed", "cut", "missing", "list", "manifest"])
def test_a_damaged_or_missing_piece_is_named_and_nothing_is_restored(here, tmp_path, monkeypatch, damage) -> None:
    to = tmp_path / "backups"
    backup = back_up(to)
    vault = Vault(str(to))
    part = backup.part("mlruns")
    assert part
    victim = next(file for file in vault.files(part) if file.name.endswith("model.safetensors"))
    piece = Path(vault.piece(part.list if damage == "list" else victim.sha256))
    if damage == "manifest":
        piece = next((to / "backups").iterdir())
        piece.write_text(piece.read_text().replace('"new"', '"old"'))
    elif damage == "missing":
        piece.unlink()
    else:
        content = piece.read_bytes()
        piece.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    said = wsss("backup", "check", str(to), status=2)
    there = tmp_path / "there"
    settle_in(monkeypatch, there)
    assert wsss("restore", str(to), status=2).splitlines()[-1] == said.splitlines()[-1]
    assert str(piece) in said and ("missing" if damage == "missing" else "damaged" if damage != "cut" else "of") in said
    assert damage in ("manifest", "list") or "model.safetensors of the part mlruns" in said
    assert not list(there.iterdir())


def test_a_place_that_is_not_empty_is_refused_and_says_what_is_there(here, tmp_path, monkeypatch) -> None:
    to = tmp_path / "backups"
    back_up(to)
    said = wsss("restore", str(to), status=2)
    for part in ("ledger: ", "tracking: ", "mlruns: ", "store: "):
        assert part in said
    assert "runs" in said and "000001.json" in said
    there = tmp_path / "there"
    settle_in(monkeypatch, there)
    (there / "mlruns").mkdir()
    (there / "mlruns" / "mine").write_text("mine")
    assert "these are not (mlruns:" in wsss("restore", str(to), status=2)
    assert digests(there).keys() == {"mlruns/mine"}
    assert "is restored" in wsss("restore", str(to), "--without", "mlruns")
    assert (there / "mlflow.db").exists() and digests(there / "mlruns").keys() == {"mine"}
    assert "choose from" in wsss("restore", str(to), "--without", "masks", status=2)


def test_check_finds_what_is_named_and_missing(here, tmp_path) -> None:
    """A backup of a store that was broken already: faithful, and not to be relied on."""
    weights = next((here / "mlruns").rglob("model.safetensors"))
    weights.write_bytes(b"another")
    back_up(tmp_path / "one")
    assert "are not those that were promoted" in wsss("backup", "check", str(tmp_path / "one"), status=2)
    shutil.rmtree(weights.parents[1])
    back_up(tmp_path / "two")
    problems = " ".join(look(tmp_path / "two").problems)
    assert "the files of model m-" in problems and f"the files of {NAME}@champion, version 1" in problems
    (here / "work" / "ledger" / NAME / "000001.json").unlink()
    back_up(tmp_path / "three")
    assert "lacks record 1" in " ".join(look(tmp_path / "three").problems)


def test_another_schema_is_a_sentence(here, tmp_path, monkeypatch) -> None:
    to, there = tmp_path / "backups", tmp_path / "there"
    back_up(to)
    settle_in(monkeypatch, there)
    monkeypatch.setattr("wsss.tracking.schema.head", lambda: "0123456789ab")
    older = wsss("restore", str(to), "--without", "tracking")
    assert "is restored" in older
    shutil.rmtree(there)
    settle_in(monkeypatch, there)
    from wsss.backup import restore

    said = []
    monkeypatch.setattr(restore, "say", said.append)
    wsss("restore", str(to))
    assert "of an older MLflow" in said[-1] and "mlflow db upgrade" in said[-1]
    shutil.rmtree(there)
    settle_in(monkeypatch, there)
    monkeypatch.setattr("wsss.tracking.schema._script", lambda: Unknown())
    said = wsss("restore", str(to), status=2)
    assert "a newer one made it; install that version" in said and not list(there.iterdir())


class Unknown:
    def walk_revisions(self) -> list[object]:
        return []


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}, "name that in --database or MLFLOW_BACKEND_STORE_URI"),
        ({"MLFLOW_BACKEND_STORE_URI": "mysql://me:secret@host/db"}, "those of SQLite (a file) and PostgreSQL can"),
        ({"MLFLOW_TRACKING_URI": "sqlite:///missing.db"}, "there is no database"),
        ({"MLFLOW_AUTH_CONFIG_PATH": "missing.ini"}, "says no database_uri"),
        ({"WSSS_STUDIES": "sqlite:///data/shapes/tags.csv"}, "is it a file of SQLite's?"),
    ],
)
def test_what_can_not_be_backed_up_is_a_sentence(here, tmp_path, monkeypatch, variables, sentence) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said = wsss("backup", str(tmp_path / "backups"), status=2)
    assert sentence in said and "secret" not in said
    assert not list((tmp_path / "backups").rglob("*.json"))


def test_artifacts_through_a_server_need_their_place(here, tmp_path) -> None:
    with databases.connected(f"sqlite:///{here}/mlflow.db") as connection:
        connection.exec_driver_sql("INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) "
                                   "VALUES (7, 'p', 'mlflow-artifacts:/7', 'active')")  # fmt: skip
        connection.commit()
    said = wsss("backup", str(tmp_path / "backups"), status=2)
    assert "--artifacts or MLFLOW_ARTIFACTS_DESTINATION" in said and "mlflow-artifacts:/7" in said
    (tmp_path / "served" / "7").mkdir(parents=True)
    (tmp_path / "served" / "7" / "file").write_text("x")
    assert "artifacts: 1 files" in wsss("backup", str(tmp_path / "backups"), "--artifacts", str(tmp_path / "served"))


@pytest.mark.parametrize("to", ["mlruns/backups", "work", "work/store", ".dvc/cache/files/md5/backups"])
def test_a_place_within_what_is_backed_up_is_refused(here, to) -> None:
    assert "lie in one another" in wsss("backup", to, status=2)
    assert not Path(to, "pieces").exists()


def test_two_backups_to_one_place_and_an_empty_place_are_sentences(here, tmp_path) -> None:
    to = tmp_path / "backups"
    assert "holds no complete backup" in wsss("restore", str(to), status=2)
    assert "holds no complete backup" in wsss("backup", "list", str(to))
    with lease(str(to), "backup", "x", wait=False):
        assert f"a backup to {to} is being computed by" in wsss("backup", str(to), status=2)
    back_up(to)
    path = next((to / "backups").iterdir())
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"format": 2}))
    assert "a newer version" in wsss("restore", str(to), status=2)
    assert "a newer version" in wsss("backup", "list", str(to))


def test_a_name_in_a_backup_can_not_leave_the_place(here, tmp_path) -> None:
    vault = Vault(str(tmp_path / "backups"))
    digest, _ = vault.add(b"bad")
    from wsss.backup.manifest import File

    with temporary_folder() as folder, pytest.raises(UserError, match="does not stay inside"):
        trees.put(vault, [File("../outside", 3, digest, "")], str(folder), lambda size: None)


def test_an_artifact_is_found_by_whichever_address() -> None:
    there = places.Places({"tracking": "sqlite:////home/me/mlflow.db"}, "s3://artifacts/all", "", StepStore("", Path()))
    for address, found in {
        "mlflow-artifacts:/7/run/artifacts": ("artifacts", "7/run/artifacts"),
        "mlflow-artifacts://host:5000/7/run": ("artifacts", "7/run"),
        "s3://artifacts/all/7/run": ("artifacts", "7/run"),
        "mlruns/0/run/artifacts": ("mlruns", "0/run/artifacts"),
        "/home/me/mlruns/0/run": ("mlruns", "0/run"),
        "file:///home/me/mlruns/a%20b/run": ("mlruns", "a b/run"),
        "/home/me/elsewhere/0": ("artifacts in /home/me/elsewhere/0", ""),
        "s3://other/0": ("artifacts in s3://other/0", ""),
    }.items():
        assert there.locate(address) == found, address
    with pytest.raises(UserError, match="gs://bucket/0, which can't be backed up; a folder and s3:// can"):
        there.artifacts(["gs://bucket/0"])
