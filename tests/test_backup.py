"""Backups of the set-up without servers: made while people write, checked, restored; kills, damage, what is new."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import time
from pathlib import Path

import pytest
from backup_examples import (
    FORK,
    NAME,
    add_step,
    assert_whole,
    digests,
    finished,
    make_everything,
    served,
    wait_for_runs,
    writers,
    wsss,
)
from conftest import empty_store
from mlflow import MlflowClient

from wsss import versions
from wsss.backup import check, databases, make, places, trees
from wsss.backup.vault import Vault
from wsss.data import open_dataset
from wsss.errors import UserError
from wsss.registry import gate
from wsss.registry.ledger import HELD, Ledger
from wsss.registry.promotion import FORCED, PromotionRecord, signed
from wsss.registry.standing import history
from wsss.run.lease import lease
from wsss.run.store import StepStore
from wsss.storage import temporary_folder
from wsss.tracking import names


@pytest.fixture(scope="module")
def original(template, tmp_path_factory) -> Path:
    """A folder with one of everything; nobody changes it."""
    folder = tmp_path_factory.mktemp("original")
    empty_store(template, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        settle_in(patch, folder)
        make_everything()
    return folder


@pytest.fixture
def here(original, tmp_path, monkeypatch) -> Path:
    """A copy of it, which is the current folder."""
    folder = tmp_path / "here"
    shutil.copytree(original, folder, symlinks=True)
    settle_in(monkeypatch, folder)
    # Nobody writes in most tests, so that nobody need wait for files that were copied a moment ago.
    monkeypatch.setattr(trees, "SETTLED_S", 0.02)
    return folder


def settle_in(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Go to a folder, and say where its runs are: this process knows the stores of other folders too."""
    folder.mkdir(exist_ok=True)
    patch.chdir(folder)
    patch.setenv("HOME", str(folder.parent / f"home-of-{folder.name}"))
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    for name in ("WSSS_LEDGER", "WSSS_STORE", "WSSS_STUDIES", "MLFLOW_BACKEND_STORE_URI"):
        patch.delenv(name, raising=False)


def back_up(to: Path, keep: int = 0):
    return make.back_up(places.find_places(), Vault(str(to)), keep)


def look(to: Path, name: str = "") -> check.Checked:
    return check.check(places.find_places(), Vault(str(to)), name)


def test_everything_comes_back_after_a_backup_while_eight_write(here, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(trees, "SETTLED_S", 1.0)
    client, uri = MlflowClient(), os.environ["MLFLOW_TRACKING_URI"]
    (labels,) = {run.data.tags[names.LABELS_MD5] for run in client.search_runs(["0"], "tags.`wsss.kind` = 'method'")}
    before = {
        "served": served(),
        "records": history(NAME),
        "steps": digests(here / "work" / "store" / "refine.test.first"),
        "aliases": client.get_registered_model(NAME).aliases,
    }
    to = tmp_path / "backups"
    with writers(uri):
        acknowledged = wait_for_runs(client, 16)
        said = wsss("backup", str(to))
        during = finished(client)
    assert "of which" in said and "tries it" in said and len(during) > len(acknowledged)
    assert "is whole" in wsss("backup", "check", str(to))

    shutil.rmtree(here)
    there = tmp_path / "there"
    settle_in(monkeypatch, there)
    assert "is restored" in wsss("restore", str(to))
    client = MlflowClient()
    runs = finished(client)
    assert acknowledged.keys() <= runs.keys()
    assert_whole(client, runs)
    assert before == {
        "served": served(),
        "records": history(NAME),
        "steps": digests(there / "work" / "store" / "refine.test.first"),
        "aliases": client.get_registered_model(NAME).aliases,
    }
    versions.fetch(labels)
    versions.checkout(labels, "again")
    assert digests(Path("again")) and versions.content_of("again").md5 == labels
    assert StepStore("work/store", Path("work/cache")).find("refine.test.first", "a" * 64)


def test_a_second_backup_copies_only_what_is_new(here, tmp_path) -> None:
    to = tmp_path / "backups"
    first = back_up(to)
    size = sum(path.stat().st_size for path in (to / "pieces").rglob("*") if path.is_file())
    assert first.new == size > 500_000
    again = back_up(to)
    assert again.new == 0
    add_step("two", "b" * 64)
    third = back_up(to)
    # The maps, their manifest, and the part's list.
    grown = sum(path.stat().st_size for path in (to / "pieces").rglob("*") if path.is_file()) - size
    assert third.new == grown < 6000
    assert [name.count("T") for name in Vault(str(to)).names()] == [1, 1, 1]


def test_what_did_not_change_is_not_read_again(here, tmp_path, monkeypatch) -> None:
    to = tmp_path / "backups"
    back_up(to)
    monkeypatch.setattr(trees, "_DOUBT_S", -60)
    read = []
    take = trees._take_file
    monkeypatch.setattr(
        trees, "_take_file", lambda place, seen, vault: read.append(seen.name) or take(place, seen, vault)
    )
    back_up(to)
    assert read == []
    weights = next((here / "mlruns").rglob("model.safetensors"))
    state = weights.stat()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    back_up(to)
    assert [Path(name).name for name in read] == ["model.safetensors"], "equal size and time, but another content"


@pytest.mark.parametrize("step", ["third piece", "manifest"])
def test_a_kill_leaves_the_last_backup_and_the_next_goes_on(here, tmp_path, step) -> None:
    to = tmp_path / "backups"
    back_up(to)
    add_step("two", "b" * 64)
    (here / "mlruns" / "0" / "extra").mkdir(parents=True)
    for number in range(20):
        (here / "mlruns" / "0" / "extra" / str(number)).write_text(str(number) * 1000)
    killed = FORK.Process(target=back_up_and_die, args=(to, step))
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    vault = Vault(str(to))
    assert len(vault.names()) == 1 and not look(to).problems
    left = len(vault.sizes)
    went_on = back_up(to)
    assert len(Vault(str(to)).names()) == 2 and not look(to).problems
    assert step == "third piece" or went_on.new == 0
    assert left > 10 and not list(to.rglob("*.part"))


def back_up_and_die(to: Path, step: str) -> None:
    def die(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if step == "manifest":
        Vault.write = die  # type: ignore[method-assign]
    else:
        keep, count = Vault.add, []

        def add(self, content, sha256=""):
            count.append(1)
            return die() if len(count) > 5 and isinstance(content, bytes) else keep(self, content, sha256)

        Vault.add = add  # type: ignore[method-assign]
    back_up(to)


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


def test_a_restore_that_was_killed_goes_on(here, tmp_path, monkeypatch) -> None:
    to, there = tmp_path / "backups", tmp_path / "there"
    back_up(to)
    before = digests(here / "mlruns")
    settle_in(monkeypatch, there)
    killed = FORK.Process(target=restore_and_die, args=(to,))
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    assert digests(there / "mlruns") and not (there / "mlflow.db").exists()
    assert "is restored" in wsss("restore", str(to))
    assert digests(there / "mlruns") == before and not (there / "work" / "restore.json").exists()
    assert "these are not (" in wsss("restore", str(to), status=2)


def restore_and_die(to: Path) -> None:
    databases.load = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    wsss("restore", str(to))


def test_gc_and_promotions_wait_for_a_backup_and_it_waits_for_gc(here, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("wsss.run.lease.RENEWED_S", 0.4)
    with lease(str(here / "work" / "store"), "gc", "a backup", wait=False):
        assert "what gc removes or a backup keeps" in wsss("gc", "--yes", "--older-than", "0m", status=2)
    record = signed(PromotionRecord(NAME, FORCED, "1", "1", "1", "again"))
    ledger = Ledger(NAME)
    started = time.monotonic()
    with lease(ledger.root, HELD, "the ledger", wait=False):
        waiting = FORK.Process(target=ledger.append, args=(record,))
        waiting.start()
        time.sleep(0.6)
        assert len(ledger.records()) == 1
    waiting.join(30)
    assert len(ledger.records()) == 2 and time.monotonic() - started < 20


def test_a_record_that_came_while_the_database_was_copied_is_in_the_backup(here, tmp_path, monkeypatch) -> None:
    """Somebody who had begun before promotions were held: database and ledger are copied once more."""
    dump, late = databases.dump, []
    (run,) = MlflowClient().search_runs(["0"], "tags.`wsss.kind` = 'method'")

    def dump_late(uri, folder):
        if "mlflow.db" in uri and not late:
            late.append(Ledger(NAME))
            held = "wsss.registry.ledger.held"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(held, lambda root: {})
                gate.promote(run.info.run_id, "wsss-other", open_dataset("shapes"), force="late")
        return dump(uri, folder)

    monkeypatch.setattr(databases, "dump", dump_late)
    back_up(tmp_path / "backups")
    checked = look(tmp_path / "backups")
    assert late and not checked.problems and checked.counts["records"] == 2


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


def test_damaged_steps_and_half_removed_ones_stay_out(here, tmp_path) -> None:
    store = here / "work" / "store" / "refine.test.first"
    add_step("two", "b" * 64)
    add_step("three", "c" * 64)
    (store / ("b" * 64) / "maps").write_text("damaged")
    (store / ("c" * 64) / "manifest.json").unlink()
    vault = Vault(str(tmp_path / "backups"))
    part = back_up(tmp_path / "backups").part("store")
    assert part
    assert {file.name.split("/")[1] for file in vault.files(part)} == {"a" * 64}


def test_a_file_that_is_being_written_is_in_the_backup_whole_or_not_at_all(here, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(trees, "SETTLED_S", 1.0)
    whole = "x" * 200_000
    target = here / "mlruns" / "0" / "growing"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch()

    def write() -> None:
        with target.open("w") as file:
            for start in range(0, len(whole), 20_000):
                file.write(whole[start : start + 20_000])
                file.flush()
                time.sleep(0.2)

    writing = FORK.Process(target=write)
    writing.start()
    backup = back_up(tmp_path / "backups")
    writing.join()
    part, vault = backup.part("mlruns"), Vault(str(tmp_path / "backups"))
    assert part
    (file,) = [file for file in vault.files(part) if file.name == "0/growing"]
    assert Path(vault.piece(file.sha256)).read_text() == whole


def test_keep_leaves_the_newest_and_removes_what_only_others_need(here, tmp_path) -> None:
    to = tmp_path / "backups"
    for word in "bcd":
        add_step(word, word * 64)
        back_up(to)
        shutil.rmtree(here / "work" / "store" / "refine.test.first" / (word * 64))
    assert len(Vault(str(to)).names()) == 3
    pieces = len(Vault(str(to)).sizes)
    assert "of which" in wsss("backup", "--keep", "2", str(to))
    vault = Vault(str(to))
    assert len(vault.names()) == 2 and len(vault.sizes) < pieces
    for name in vault.names():
        assert not look(to, name).problems
    said = wsss("backup", "list", str(to)).splitlines()
    assert [line.split()[0] for line in said] == list(reversed(vault.names()))
    assert "mlruns" in said[0] and "choose from" in wsss("backup", "check", str(to), "--backup", "x", status=2)


def test_files_are_for_their_owner_and_hold_no_password(here, tmp_path, monkeypatch) -> None:
    back_up(tmp_path / "backups")
    paths = list((tmp_path / "backups").rglob("*"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_file()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} == {0o700}


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


def test_artifacts_of_an_experiment_elsewhere_come_back_there(here, tmp_path, monkeypatch) -> None:
    elsewhere, to = tmp_path / "elsewhere", tmp_path / "backups"
    client = MlflowClient()
    run = client.create_run(client.create_experiment("other", str(elsewhere))).info.run_id
    client.log_text(run, "text", "a/b.txt")
    assert f"artifacts in {elsewhere}: 1 files" in wsss("backup", str(to))
    before = digests(elsewhere)
    shutil.rmtree(elsewhere)
    settle_in(monkeypatch, tmp_path / "there")
    assert "is restored" in wsss("restore", str(to))
    assert digests(elsewhere) == before


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
