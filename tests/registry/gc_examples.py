"""A workspace with things that `wsss gc` may or may not remove, for its tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from wsss import versions
from wsss.registry.gc import Collector
from wsss.registry.reach import Thing
from wsss.run.store import StepStore, write_manifest
from wsss.tracking import names
from wsss.tracking.liveness import process_tags

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
