"""`wsss gc`: what nothing needs goes, what anything needs stays, and a call that was killed is finished by the next."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import command, empty_store
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from wsss import storage, versions
from wsss.cli import app
from wsss.errors import UserError
from wsss.registry import gc, inventory
from wsss.registry.gc import Collector
from wsss.registry.ledger import Ledger
from wsss.registry.promotion import FORCED, PromotionRecord, signed
from wsss.registry.reach import Thing, chain, reached
from wsss.registry.standing import settle
from wsss.run.lease import held, lease
from wsss.run.store import StepStore, write_manifest
from wsss.tracking import names
from wsss.tracking.connection import mlflow_client
from wsss.tracking.liveness import process_tags

FORK = multiprocessing.get_context("fork")
STEP = "refine.test.first"


def fingerprint(word: str) -> str:
    return f"{word:0>64}".replace("_", "0")


@dataclass
class Place:
    """A workspace with things that can go, all older than `collector.since`."""

    client: object
    collector: Collector

    def output(self, word: str, *inputs: str) -> Thing:
        """An output in the store."""
        folder = self.collector.work / "made" / word
        folder.mkdir(parents=True)
        (folder / "maps").write_text(word)
        write_manifest(folder, {"step": STEP, "inputs": {need: fingerprint(need) for need in inputs}})
        self.collector.store.publish(STEP, fingerprint(word), folder)
        return Thing("output", f"{STEP}/{fingerprint(word)}")

    def run(self, *steps: str, kind: str = names.METHOD_RUN, status: str = "FINISHED", **tags: str) -> Thing:
        """A run whose one stage, or trial, used the outputs."""
        run = self.client.create_run("0", tags={names.KIND: kind, **process_tags(), **tags}).info.run_id
        self.client.log_text(run, "settings", names.SETTINGS)
        part = {names.KIND: names.STAGE_RUN, names.STAGE: "refine", names.MLFLOW_PARENT: run}
        if kind == names.SEARCH_RUN:
            part[names.KIND] = names.TRIAL_RUN
        done = {names.step_fingerprint(f"refine.{step}"): fingerprint(step) for step in steps}
        child = self.client.create_run("0", tags=part | (done if kind == names.METHOD_RUN else {})).info.run_id
        if kind == names.SEARCH_RUN:
            content = {"steps": [{"fingerprints": [fingerprint(step)]} for step in steps]}
            self.client.log_dict(child, content, names.TRIAL_STEPS)
        self.client.set_terminated(child)
        if status != "RUNNING":
            self.client.set_terminated(run, status)
        return Thing("run", run)

    def model(self, run: Thing) -> Thing:
        """A model that a run logged."""
        model = self.client.create_logged_model("0", source_run_id=run.name)
        folder = Path(model.artifact_location)
        folder.mkdir(parents=True)
        (folder / "model.json").write_text("{}")
        return Thing("model", model.model_id)

    def version(self, name: str, model: Thing, run: Thing) -> Thing:
        """A version of a registered model."""
        if name not in [each.name for each in self.client.search_registered_models()]:
            self.client.create_registered_model(name)
        made = self.client.create_model_version(name, f"models:/{model.name}", run.name, model_id=model.name)
        return Thing("version", f"{name}/{made.version}")

    def garbage(self) -> set[Thing]:
        return {thing for thing in self.collector.find().things if thing.kind != "cache"}

    def remove(self) -> set[Thing]:
        gone = self.collector.remove(self.collector.find().things)
        return {thing for thing in gone if thing.kind != "cache"}


@pytest.fixture
def here(store, place: str, tmp_path: Path) -> Place:
    work = Path("work")
    return Place(store, Collector(StepStore(place, work / "cache"), work, records=2, since=time.time() + 3600))


@pytest.fixture
def local(store, tmp_path: Path) -> Place:
    work = Path("work")
    return Place(store, Collector(StepStore("work/store", work / "cache"), work, records=2, since=time.time() + 3600))


THINGS = st.integers(0, 9).map(lambda number: Thing("output", str(number)))


@given(st.sets(THINGS, max_size=3), st.dictionaries(THINGS, st.sets(THINGS)))
def test_nothing_reachable_is_ever_removed(roots, references):
    found = reached(roots, references)
    # By Warshall's closure, another way to the same answer.
    every = [Thing("output", str(number)) for number in range(10)]
    paths = {(one, other) for one, others in references.items() for other in others}
    for middle in every:
        paths |= {(one, other) for one in every for other in every if {(one, middle), (middle, other)} <= paths}
    assert set(found) == roots | {other for one, other in paths if one in roots}
    for thing in found:
        links = chain(thing, found)
        assert links[-1] in roots
        assert all(one in references[other] for one, other in pairwise(links))


def test_what_no_run_needs_goes_and_what_a_kept_run_needs_stays(here: Place) -> None:
    before, behind, other = here.output("a"), here.output("b", "a"), here.output("c")
    kept, forgotten = here.run("b", **{names.KEEP: "for the paper"}), here.run("c")
    assert here.garbage() == {other, forgotten}
    assert here.remove() == {other, forgotten}
    store = here.collector.store
    assert [store.manifest(STEP, fingerprint(word)) is not None for word in "abc"] == [True, True, False]
    assert not storage.exists(storage.join(store.url, other.name))
    assert not (here.collector.work / "cache" / other.name).exists()
    assert here.client.get_run(forgotten.name).info.lifecycle_stage == "deleted"
    assert here.client.list_artifacts(forgotten.name) == []
    assert here.client.list_artifacts(kept.name)
    sentence, *_ = here.collector.find().why(f"work/store/{before.name}")
    assert sentence == f"{before} < {behind} < {kept}: kept: for the paper"
    assert here.garbage() == set()


def test_what_is_young_leased_or_of_a_running_run_stays(here: Place) -> None:
    leased, of_running, rubbish = here.output("a"), here.output("b"), here.output("c")
    here.run("b", status="RUNNING")
    scratch = here.collector.work / "scratch" / STEP / fingerprint("a")
    scratch.mkdir(parents=True)
    (scratch / "half").write_text("")
    with lease(here.collector.store.url, f"{STEP}.{fingerprint('a')}", "step", wait=False):
        assert f"{STEP}.{fingerprint('a')}" in held(here.collector.store.url)
        assert here.garbage() == {rubbish}
    assert here.garbage() == {rubbish, leased, Thing("scratch", leased.name)}
    assert of_running not in here.garbage()
    young = Collector(here.collector.store, here.collector.work, 2, time.time() - 3600)
    assert young.find().things == ()


def test_an_output_that_is_used_is_young_again(local: Place) -> None:
    output = local.output("a")
    manifest = Path("work/store", output.name, "manifest.json")
    for path in manifest.parent.iterdir():
        os.utime(path, (1e9, 1e9))
    old = Collector(local.collector.store, local.collector.work, 2, time.time() - 3600)
    assert old.find().things == (output,)
    assert local.collector.store.find(STEP, fingerprint("a"))
    assert old.find().things == ()


def test_no_model_goes_that_an_alias_of_any_name_or_the_last_of_the_ledger_names(local: Place) -> None:
    runs = [local.run() for _ in range(7)]
    models = [local.model(run) for run in runs]
    named = [local.version("wsss-x", model, run) for model, run in zip(models[:5], runs, strict=False)]
    aliased = local.version("elsewhere-candidates", models[5], runs[5])
    local.client.set_registered_model_alias("elsewhere-candidates", "challenger", "1")
    ledger = Ledger("wsss-x")
    for number in range(1, 6):
        ledger.append(signed(PromotionRecord("wsss-x", FORCED, str(number), str(number - 1 or ""), str(number), "why")))
    settle(ledger)
    # Records 4 and 5 name the versions 3, 4 and 5.
    assert local.remove() == {*named[:2], *models[:2], models[6], *runs[:2], runs[6]}
    for model in (*models[2:6],):
        assert Path(local.client.get_logged_model(model.name).artifact_location, "model.json").exists()
    assert local.client.get_model_version_by_alias("wsss-x", "champion").version == 5
    [sentence] = local.collector.find().why("models:/elsewhere-candidates/1")
    assert sentence == f"{aliased}: elsewhere-candidates@challenger"
    assert local.garbage() == set()


def test_a_version_that_is_promoted_between_the_look_and_the_removal_stays(local: Place, monkeypatch) -> None:
    run = local.run()
    version = local.version("wsss-x", local.model(run), run)
    find = Collector.find

    def find_and_promote(self, *only):
        found = find(self, *only)
        local.client.set_registered_model_alias("wsss-x", "champion", "1")
        return found

    monkeypatch.setattr(Collector, "find", find_and_promote)
    assert version not in local.remove()
    assert local.client.get_model_version("wsss-x", "1").aliases == ["champion"]


def test_a_ledger_that_is_not_here_stops_everything(local: Place, monkeypatch) -> None:
    run = local.run()
    local.version("wsss-x", local.model(run), run)
    ledger = Ledger("wsss-x")
    ledger.append(signed(PromotionRecord("wsss-x", FORCED, "1", "", "1", "why")))
    settle(ledger)
    monkeypatch.setenv("WSSS_LEDGER", "another")
    with pytest.raises(UserError, match="use it with: export WSSS_LEDGER="):
        local.collector.find()


def test_a_running_or_kept_search_keeps_its_trials_and_a_winner_keeps_the_search_alone(local: Place) -> None:
    kept, of_winner, of_trial = local.output("a"), local.output("b"), local.output("c")
    local.run("a", kind=names.SEARCH_RUN, **{names.KEEP: "why"})
    search = local.run("c", kind=names.SEARCH_RUN)
    local.run("b", **{names.KEEP: "the winner", names.MLFLOW_PARENT: search.name})
    assert local.garbage() == {of_trial}
    assert {kept, of_winner} <= set(local.collector.find().held)


def git(*words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True)


@pytest.fixture
def labelled(local: Place) -> tuple[Place, dict[str, str]]:
    """Three label versions with a file in common; a commit of a branch locks one, whose run nobody keeps."""
    git("init", "--initial-branch", "main")
    md5s = {}
    for word in ("locked", "kept", "forgotten"):
        folder = Path("made", word)
        folder.mkdir(parents=True)
        (folder / "common").write_text("common")
        (folder / "own").write_text(word)
        md5s[word] = versions.store(folder).md5
    shutil.rmtree("made")
    pointer = Path(".dvc/cache/files/md5/aa", "b" * 30)
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.write_text(json.dumps({"refine.test": fingerprint("d")}))
    Path("dvc.lock").write_text(f"outs:\n- md5: {md5s['locked']}\n- md5: aa{'b' * 30}\n")
    git("checkout", "-b", "old")
    git("add", "dvc.lock")
    git("commit", "-m", "lock")
    git("tag", "-a", "-m", "tag", "v1")
    git("checkout", "--orphan", "main")
    git("rm", "--cached", "dvc.lock")
    Path("dvc.lock").unlink()
    git("branch", "-D", "old")
    local.run(**{names.LABELS_MD5: md5s["locked"]})
    local.run(**{names.LABELS_MD5: md5s["forgotten"]})
    local.run(**{names.LABELS_MD5: md5s["kept"], names.KEEP: "why"})
    return local, md5s


def own_file(md5s: dict[str, str], word: str, folder: Path = Path("back")) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    versions.checkout(md5s[word], folder)
    return (folder / "own").read_text()


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
