"""Machines of a cluster, drivers that can be killed, a tracking server that can be away, and what a search leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import boto3
import forks
import pytest
from conftest import empty_store, forget_variables
from mlflow import MlflowClient
from ray.cluster_utils import Cluster
from ray_examples import HEAD

from wsss.data.shapes import make_shapes
from wsss.run.cluster import WORKER_FOLDER
from wsss.tracking import names

ENDED = ("COMPLETE", "PRUNED", "FAIL")


@dataclass
class Machines:
    """One or two, each with one core and a folder of its own; the first has a GPU, as far as Ray knows."""

    cluster: Cluster
    folders: list[Path]

    def add(self):
        number = len(self.cluster.list_all_nodes())
        given = {"object_store_memory": HEAD["object_store_memory"]} if number else HEAD | {"num_gpus": 1}
        return self.cluster.add_node(num_cpus=1, env_vars={WORKER_FOLDER: str(self.folders[number])}, **given)


@pytest.fixture(scope="module")
def there(starting, tmp_path_factory) -> Iterator[Machines]:
    """A cluster that was started without the variables that runs need."""
    folders = [tmp_path_factory.mktemp(f"machine-{number}") for number in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        forget_variables(patch, tmp_path_factory.mktemp("home"))
        machines = Machines(Cluster(), folders)
        machines.add()
        yield machines
        machines.cluster.shutdown()


@pytest.fixture(scope="module")
def workspace(there, s3, template, tmp_path_factory) -> Iterator[Path]:
    """The driver's folder, with a dataset of which val has no masks."""
    folder = tmp_path_factory.mktemp("driver")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RAY_ADDRESS", there.cluster.address)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        empty_store(template, folder / "mlflow.db")
        little = folder / "data" / "little"
        make_shapes(little, images=16, val_images=2, size=40, classes=2)
        for id in (little / "ImageSets/Segmentation/val.txt").read_text().split():
            (little / "SegmentationClass" / f"{id}.png").unlink()
        yield folder


@contextmanager
def bucket(s3: str, name: str) -> Iterator[str]:
    """A store of its own, which remembers all that was ever written."""
    boto3.client("s3").put_bucket_versioning(Bucket="bucket", VersioningConfiguration={"Status": "Enabled"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSSS_STORE", f"{s3}/{name}")
        yield f"{s3}/{name}"


class Server:
    """A tracking server behind a door that can be shut."""

    def __init__(self, folder: Path) -> None:
        self.away = threading.Event()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        words = [
            "--backend-store-uri",
            f"sqlite:///{folder}/mlflow.db",
            "--artifacts-destination",
            f"{folder}/artifacts",
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words, "--port", str(self._port), "--workers", "1"],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._door = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._door.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
                if self.away.is_set():
                    client.close()
                    continue
                inside = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                return
            for source, target in ((client, inside), (inside, client)):
                threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            source.settimeout(0.2)
            while not self.away.is_set():
                try:
                    if not (data := source.recv(1 << 16)):
                        break
                    target.sendall(data)
                except TimeoutError:
                    continue
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def wait(self) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self._port)).close()
                return
            time.sleep(0.1)

    def stop(self) -> None:
        self._door.close()
        self._process.terminate()
        self._process.wait()


@pytest.fixture(scope="module")
def starting(template, tmp_path_factory) -> Iterator[Server]:
    """It takes seconds to start, so it does while the cluster does."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(template, folder / "mlflow.db")
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("UPDATE experiments SET artifact_location = 'mlflow-artifacts:/0'")
    server = Server(folder)
    yield server
    server.stop()


@pytest.fixture
def server(starting) -> Server:
    starting.wait()
    return starting


@dataclass
class Driver:
    """A process that runs `python -m tune ARGUMENTS`."""

    process: BaseProcess
    log: Path

    @classmethod
    def start(cls, *arguments: str) -> Driver:
        log = Path(f"driver-{time.monotonic_ns()}.log").absolute()
        return cls(forks.start("tune.__main__", *arguments, folder=Path.cwd(), variables=os.environ, out=log), log)

    def kill_when(self, moment: Callable[[], bool]) -> None:
        wait_for(moment, self)
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()

    def end(self) -> str:
        self.process.join()
        said = self.log.read_text()
        assert self.process.exitcode == 0, said
        return said


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
    [parent] = client.search_runs(["0"], f"tags.`{names.SEARCH}` = '{study}'")
    found = client.search_runs(["0"], f"tags.`{names.MLFLOW_PARENT}` = '{parent.info.run_id}'")
    runs = {run.data.tags[names.TRIAL]: run.info.run_id for run in found}
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


def facts_of(study: str) -> list[dict]:
    with sqlite3.connect("work/search/studies.db") as database:
        query = """select value_json from trial_user_attributes join trials using (trial_id)
            join studies using (study_id) where study_name = ? and key = 'facts'"""
        return [json.loads(json.loads(text)) for (text,) in database.execute(query, (study,))]


def assert_whole(study: str, trials: int = 6) -> dict[str, str]:
    """Every trial ended once, has one run, and no step was computed twice; the runs."""
    assert set(found := states(study)) <= {"COMPLETE", "PRUNED"} and len(found) == trials, (found, facts_of(study))
    runs = trial_runs(study)
    assert sorted(runs) == [str(number) for number in range(trials)]
    assert {MlflowClient().get_run(run).info.status for run in runs.values()} <= {"FINISHED", "KILLED"}
    computed = Counter(each for facts in facts_of(study) for step in facts["steps"] for each in step["computed"])
    assert computed and set(computed.values()) == {1}
    return runs
