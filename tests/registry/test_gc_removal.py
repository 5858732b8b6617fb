"""`wsss gc` removes: labels by what they alone hold; one that was killed is finished by the next; as a user does it."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from conftest import command, empty_store
from gc_examples import STEP, Place, fingerprint, here, labelled, local, own_file
from typer.testing import CliRunner

from wsss import storage
from wsss.cli import app
from wsss.errors import UserError
from wsss.registry import gc, inventory
from wsss.registry.gc import Collector
from wsss.run.store import StepStore
from wsss.tracking.connection import mlflow_client

_FIXTURES = (here, labelled, local)
FORK = multiprocessing.get_context("fork")


def test_labels_that_a_tag_locks_or_a_run_keeps_stay(labelled) -> None:
    local, md5s = labelled
    of_the_lock = local.output("d")
    gone = local.remove()
    assert {thing.name for thing in gone if thing.kind == "labels"} == {md5s["forgotten"]}
    assert of_the_lock not in gone
    assert [own_file(md5s, word) for word in ("locked", "kept")] == ["locked", "kept"]
    with pytest.raises(UserError, match="not in DVC's cache"):
        own_file(md5s, "forgotten")
    files = [path for path in Path(".dvc/cache/files/md5").rglob("*") if path.is_file()]
    assert not any(path.read_bytes() == b"forgotten" for path in files)


def killed(action) -> None:
    """Do something in a process that ends by SIGKILL."""
    child = FORK.Process(target=action)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL


def die(*_arguments, **_named) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("moment", ["_finish_labels", "_remove_artifacts", "_is_active"])
def test_a_removal_that_was_killed_is_finished_by_the_next_call(moment: str, labelled, monkeypatch) -> None:
    local, md5s = labelled
    run = local.run()
    local.model(run)
    rubbish = local.garbage()
    with monkeypatch.context() as patch:
        patch.setattr(gc, moment, die)
        patch.setitem(gc._FINISH, inventory.LABELS, gc._finish_labels)
        killed(local.remove)
    assert list(Path("work/gc").iterdir())
    local.remove()
    assert not list(Path("work/gc").iterdir())
    assert local.garbage() == set()
    for thing in rubbish:
        if thing.kind == inventory.RUN:
            assert local.client.list_artifacts(thing.name) == []
    assert not list(Path("mlruns/0/models").rglob("model.json"))
    assert not any(path.read_bytes() == b"forgotten" for path in Path(".dvc/cache").rglob("*") if path.is_file())
    assert own_file(md5s, "kept") == "kept"


def test_an_output_half_removed_does_not_look_whole(here: Place, monkeypatch) -> None:
    output = here.output("a")
    store = here.collector.store
    remote = storage.is_remote(store.url)
    with monkeypatch.context() as patch:
        if remote:
            before = storage.remove
            patch.setattr(storage, "remove", lambda url: before(url) if url.endswith(".json") else die())
        else:
            patch.setattr(shutil, "rmtree", die)
        killed(here.remove)
    assert store.manifest(STEP, fingerprint("a")) is None
    if remote:
        assert here.garbage() == {output}
    here.remove()
    left = [file.name for file in storage.list_tree(store.url) if not file.name.startswith(".")]
    assert left == []
    assert remote or not list(Path(store.url).rglob("*.part"))


def test_as_a_user_calls_it(template, tmp_path: Path, monkeypatch) -> None:
    empty_store(template, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def wsss(*words: str) -> str:
        done = CliRunner().invoke(app, [*words])
        return done.output if done.exception is None else str(done.exception)

    work = Path("work")
    local = Place(mlflow_client(), Collector(StepStore("work/store", work / "cache"), work, 2, time.time()))
    run, output = local.run("a", method="cam"), local.output("a")
    assert "nothing is unneeded; 2 things stay" in wsss("gc")
    shown = wsss("gc", "--older-than", "0m", "--dry-run")
    assert run.name in shown
    assert output.name in shown
    assert "nothing needs 1 run, 1 output" in shown
    refused = command(tmp_path, "gc", "--older-than", "0m", check=False)
    assert refused.returncode == 2
    assert "there is nobody to ask here" in refused.stderr
    assert "--older-than 'ten days' is no age" in wsss("gc", "--older-than", "ten days")
    assert "choose from cache, labels, outputs, runs, scratch" in wsss("gc", "--only", "models")
    assert "is nothing that gc looks after" in wsss("gc", "--why", "nobody")
    wsss("keep", run.name, "--why", "the best one")
    assert "kept: the best one" in wsss("gc", "--older-than", "0m", "--why", output.name)
    wsss("keep", run.name, "--undo")
    assert "removed: 1 output" in wsss("gc", "--older-than", "0m", "--yes", "--only", "outputs")
    assert local.client.get_run(run.name).info.lifecycle_stage == "active"
    assert "removed: 1 run" in wsss("gc", "--older-than", "0m", "--yes")
