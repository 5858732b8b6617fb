"""Backups of the set-up without servers: made while people write, restored; kills, what is new, what is kept."""

from __future__ import annotations

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
    back_up,
    digests,
    finished,
    here,
    look,
    original,
    served,
    settle_in,
    wait_for_runs,
    writers,
    wsss,
)
from mlflow import MlflowClient

from wsss import versions
from wsss.backup import databases, trees
from wsss.backup.vault import Vault
from wsss.data import open_dataset
from wsss.registry import gate
from wsss.registry.ledger import HELD, Ledger
from wsss.registry.promotion import FORCED, PromotionRecord, signed
from wsss.registry.standing import history
from wsss.run.lease import lease
from wsss.run.store import StepStore
from wsss.tracking import names

_FIXTURES = here, original


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
