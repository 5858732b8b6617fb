"""A search on a cluster of two machines that see neither the driver's folder nor its variables, with a store on S3."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from mlflow import MlflowClient
from ray.cluster_utils import Cluster

from tune.mirror import TRIAL
from tune.parent import SEARCH as SEARCH_NAME
from wsss.data.shapes import make_shapes
from wsss.run.cluster import WORKER_FOLDER
from wsss.tracking import names

SEARCH = ("--method", "cam,affinity,wildcat", "--trials", "6")
FIX = ["localize.train.epochs=1", "localize.train.crop=33", "refine.train.epochs=1", "refine.train.crop=41"]
TINY = ["--preset", "demo", "--data", "little", "--sampler", "random", *(f"--fix={pair}" for pair in FIX)]
ENDED = ("COMPLETE", "PRUNED", "FAIL")


@dataclass
class Machines:
    """Two of them, each with one core and a folder of its own."""

    cluster: Cluster
    folders: list[Path]

    def add(self):
        number = len(self.cluster.list_all_nodes())
        return self.cluster.add_node(
            num_cpus=1, object_store_memory=100 * 2**20, env_vars={WORKER_FOLDER: str(self.folders[number])}
        )


@pytest.fixture(scope="module")
def there(tmp_path_factory) -> Iterator[Machines]:
    """A cluster that was started without the variables that runs need."""
    folders = [tmp_path_factory.mktemp(f"machine-{number}") for number in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        for name in list(os.environ):
            if name.startswith(("WSSS_", "MLFLOW_TRACKING", "MLFLOW_EXPERIMENT", "AWS_")):
                patch.delenv(name)
        machines = Machines(Cluster(), folders)
        machines.add()
        machines.add()
        yield machines
        machines.cluster.shutdown()


@pytest.fixture(scope="module")
def workspace(there, s3, template, tmp_path_factory) -> Iterator[Path]:
    """The driver's folder, with a dataset of which val has no masks."""
    folder = tmp_path_factory.mktemp("driver")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_ADDRESS", there.cluster.address)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        shutil.copy(template, folder / "mlflow.db")
        with sqlite3.connect(folder / "mlflow.db") as database:
            database.execute("UPDATE experiments SET artifact_location = ?", (f"{folder}/mlruns/0",))
        little = folder / "data" / "little"
        make_shapes(little, images=16, val_images=2, size=40, classes=2)
        for id in (little / "ImageSets/Segmentation/val.txt").read_text().split():
            (little / "SegmentationClass" / f"{id}.png").unlink()
        yield folder


@pytest.fixture
def bucket(s3, workspace, request, monkeypatch) -> str:
    """A store of each test's own, which remembers all that was ever written."""
    boto3.client("s3").put_bucket_versioning(Bucket="bucket", VersioningConfiguration={"Status": "Enabled"})
    monkeypatch.setenv("WSSS_STORE", f"{s3}/{request.node.name}")
    return f"{s3}/{request.node.name}"


@dataclass
class Driver:
    """A process that runs `python -m tune ARGUMENTS`; it was forked with all imported, since that takes longest."""

    process: multiprocessing.Process
    log: Path

    @classmethod
    def start(cls, *arguments: str) -> Driver:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["tune.runner", "tune.__main__", "tune.report", "mlflow", "wsss.methods.affinity"]
        )
        log = Path(f"driver-{time.monotonic_ns()}.log").absolute()
        process = context.Process(target=_drive, args=(list(arguments), dict(os.environ), os.getcwd(), log))
        process.start()
        return cls(process, log)

    def kill_when(self, moment: Callable[[], bool]) -> None:
        wait_for(moment, self)
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()

    def end(self) -> str:
        self.process.join()
        said = self.log.read_text()
        assert self.process.exitcode == 0, said
        return said


def _drive(arguments: list[str], environment: dict[str, str], folder: str, log: Path) -> None:
    from tune.__main__ import main

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["tune", *arguments]
    with log.open("w", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        status = main()
    sys.exit(status)


def wait_for(moment: Callable[[], bool], driver: Driver, patience: float = 150.0) -> None:
    end = time.monotonic() + patience
    while not moment():
        assert driver.process.is_alive() and time.monotonic() < end, driver.log.read_text()
        time.sleep(0.02)


def states(study: str) -> list[str]:
    """Of the trials of a study, in order."""
    try:
        with sqlite3.connect("file:work/search/studies.db?mode=ro", uri=True) as database:
            query = "select state from trials join studies using (study_id) where study_name = ? order by number"
            return [state for (state,) in database.execute(query, (study,))]
    except sqlite3.OperationalError:
        return []


def ended(study: str) -> int:
    return sum(state in ENDED for state in states(study))


def configurations(study: str) -> Counter[str]:
    with sqlite3.connect("work/search/studies.db") as database:
        query = """select number, group_concat(param_name || '=' || param_value, ' ') from
            (select number, param_name, param_value from trial_params join trials using (trial_id)
            join studies using (study_id) where study_name = ? order by number, param_name) group by number"""
        return Counter(text for _, text in database.execute(query, (study,)))


def trial_runs(study: str) -> dict[str, str]:
    """The ids of the trials' runs, by number; each has one."""
    client = MlflowClient()
    [parent] = client.search_runs(["0"], f"tags.`{SEARCH_NAME}` = '{study}'")
    found = client.search_runs(["0"], f"tags.`{names.MLFLOW_PARENT}` = '{parent.info.run_id}'")
    runs = {run.data.tags[TRIAL]: run.info.run_id for run in found}
    assert len(runs) == len(found)
    return runs


def uploads(store: str) -> dict[str, set[str]]:
    """Of each step output that was ever in the store, the uploads: one for each time that it was computed."""
    bucket, _, prefix = store.removeprefix("s3://").partition("/")
    found: dict[str, set[str]] = {}
    for page in boto3.client("s3").get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
        for version in page.get("Versions", []):
            step, *rest = version["Key"].removeprefix(f"{prefix}/").split("/")
            if not step.startswith(".") and len(rest) > 2:
                found.setdefault(f"{step}/{rest[0]}", set()).add(rest[1])
    return found


def steps_of(study: str) -> list[list[dict]]:
    with sqlite3.connect("work/search/studies.db") as database:
        query = """select value_json from trial_user_attributes join trials using (trial_id)
            join studies using (study_id) where study_name = ? and key = 'facts'"""
        return [json.loads(json.loads(text))["steps"] for (text,) in database.execute(query, (study,))]


def assert_whole(study: str, store: str) -> dict[str, str]:
    """Every trial ended once, has one run, and no step was computed twice; the runs."""
    assert len(states(study)) == 6 and set(states(study)) <= {"COMPLETE", "PRUNED"}
    runs = trial_runs(study)
    assert sorted(runs) == [str(number) for number in range(6)]
    assert {MlflowClient().get_run(run).info.status for run in runs.values()} <= {"FINISHED", "KILLED"}
    computed = Counter(each for steps in steps_of(study) for step in steps for each in step["computed"])
    assert computed and set(computed.values()) == {1}
    return runs


def test_a_worker_machine_dies_in_the_middle_of_a_search_over_three_methods(there, workspace, bucket):
    driver = Driver.start(*SEARCH, *TINY, "--name", "three", "--retries=2")
    wait_for(lambda: ended("three") >= 1, driver)
    there.cluster.remove_node(there.cluster.list_all_nodes()[-1], allow_graceful=False)
    before = trial_runs("three")
    driver.end()
    there.add()
    assert before.items() <= assert_whole("three", bucket).items()
    again = {step for step, which in uploads(bucket).items() if len(which) > 1}
    assert len(again) <= 1, again  # what the machine was in the middle of publishing
    assert not (workspace / "work" / "scratch").exists()
    for folder in there.folders:
        assert len(list(folder.glob("*/data/little/SegmentationClass/*.png"))) == 2, "the masks of dev came along"


def test_a_driver_killed_at_three_moments_goes_on_and_tries_the_same(there, workspace, bucket):
    Driver.start(*SEARCH, *TINY, "--name", "killed").kill_when(lambda: "RUNNING" in states("killed"))
    resume = ("--resume", "killed", "--trials", "6")
    Driver.start(*resume).kill_when(lambda: ended("killed") >= 1)
    before = trial_runs("killed")
    Driver.start(*resume).kill_when(lambda: ended("killed") >= 4)
    before |= {number: run for number, run in trial_runs("killed").items() if number not in before}
    Driver.start(*resume).end()
    assert before.items() <= assert_whole("killed", bucket).items()
    assert configurations("killed") == configurations("three")
