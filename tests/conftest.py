"""What the tests share: small datasets, one demo-sized run, a tracking store, and that nothing is skipped in CI."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import forks
import pytest
import torch

from wsss.data import Dataset, open_dataset
from wsss.data.shapes import make_shapes
from wsss.interface import Reporter, StepResult
from wsss.run.plan import PlannedStep
from wsss.run.steps import StepRunner
from wsss.scores.metric_names import TAG_METRICS, TRAIN_LOSS
from wsss.tracking.connection import mlflow_client

for name, value in {
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A Ray of this machine asks for a token, one that `ray start` made does not, and a process can't have both.
    "RAY_AUTH_MODE": "disabled",
    "GIT_PYTHON_REFRESH": "quiet",
    "AWS_EC2_METADATA_DISABLED": "true",
}.items():
    os.environ.setdefault(name, value)
# Printed commands are those of a reader who has the environment on the path.
os.environ["WSSS_READER_PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))

SMALL = {
    "localize.train.epochs": "6",
    "localize.train.crop": "65",
    "refine.train.epochs": "3",
    "refine.train.crop": "81",
    "segment.train.epochs": "3",
    "segment.train.crop": "65",
}
"""Settings that make preset demo a matter of seconds on 64 px images."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are left out where there is no GPU, those marked `soak` but for `make soak`."""
    there = {"gpu": torch.cuda.is_available(), "soak": os.environ.get("WSSS_SOAK") == "1"}
    left_out = [item for item in items if any(item.get_closest_marker(mark) and not there[mark] for mark in there)]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True, scope="module")
def surroundings_of_a_module() -> Iterator[None]:
    """What the tests of a module do to the process ends with them: Ray, MLflow and workers set variables."""
    with same_surroundings():
        yield


@pytest.fixture
def surroundings() -> Iterator[None]:
    """What a test does to the process, as a worker of a search does on purpose, ends with the test."""
    with same_surroundings():
        yield


@contextmanager
def same_surroundings() -> Iterator[None]:
    """The process's variables, folder and threads are in the end what they were."""
    variables, folder, threads = dict(os.environ), os.getcwd(), torch.get_num_threads()
    yield
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)
    os.chdir(folder)
    torch.set_num_threads(threads)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """With REQUIRE_ALL=1 a skipped test is a failed one: there, every part has to be present."""
    report = yield
    if os.environ.get("REQUIRE_ALL") == "1" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be skipped: {report.longrepr}"
    return report


@pytest.fixture
def real_data() -> Path:
    """The folder of real photographs that WSSS_REAL_DATA names."""
    folder = os.environ.get("WSSS_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("WSSS_REAL_DATA does not name a folder of real photographs")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def _steps_write_the_metrics_that_they_declare() -> Iterator[None]:
    """Whatever step a test runs: a search that asks for a declared metric gets it, and no such metric is undeclared."""
    run = StepRunner.run

    def run_and_check(self: StepRunner, planned: PlannedStep, report: Reporter) -> StepResult:
        result = run(self, planned, report)
        declared = set(planned.step.metrics)
        assert declared == result.metrics.keys() & (declared | {TRAIN_LOSS, *TAG_METRICS}), planned.key
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepRunner, "run", run_and_check)
        yield


@pytest.fixture(scope="session")
def tiny_shapes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """48 scenes of 64 px and 3 classes: 36 to train on, with dev and val."""
    root = tmp_path_factory.mktemp("data") / "data" / "shapes"
    root.mkdir(parents=True)
    make_shapes(root, images=36, val_images=12, size=64, classes=3, rng=0)
    return open_dataset(root)


@dataclass(frozen=True)
class Workspace:
    """A folder with data, step store, tracking store and one finished run."""

    root: Path
    run_id: str
    log: str

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `wsss ARGUMENTS` in the workspace, as a user would."""
        return command(self.root, *arguments, check=check)


def command(root: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `wsss ARGUMENTS` in a folder, in a process of its own."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_TRACKING", "MLFLOW_RUN"))}
    with tempfile.TemporaryDirectory() as said:
        out, err = Path(said, "out"), Path(said, "err")
        process = forks.start("wsss.cli", *arguments, folder=root, variables=variables, out=out, err=err)
        process.join()
        assert process.exitcode is not None
        done = subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())
    if check and done.returncode:
        raise AssertionError(f"wsss {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


@pytest.fixture(scope="session")
def workspace(tiny_shapes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which `wsss run` has run AffinityNet over the tiny shapes, once for the whole session."""
    root = tmp_path_factory.mktemp("workspace")
    shutil.copytree(tiny_shapes.root, root / "data" / "shapes")
    settings = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    done = command(root, "run", "--method", "affinity", "--preset", "demo", *settings)
    run_id = next(line.split()[1].rstrip(",") for line in done.stdout.splitlines() if line.startswith("run "))
    return Workspace(root, run_id, done.stdout)


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A tracking store with its tables, which take seconds to make."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        mlflow_client()
    return folder / "mlflow.db"


def empty_store(template: Path, database: Path) -> None:
    """A tracking store without runs, whose artifacts lie in `mlruns` beside the database."""
    shutil.copy(template, database)
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE experiments SET artifact_location = ?", (f"{database.parent}/mlruns/0",))


def forget_variables(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Surroundings of a cluster that was started without what runs need: a home of its own, none of our variables."""
    patch.setenv("HOME", str(home))
    for name in list(os.environ):
        if name.startswith(("WSSS_", "MLFLOW_TRACKING", "MLFLOW_EXPERIMENT", "AWS_")):
            patch.delenv(name)


@pytest.fixture
def store(template, tmp_path, monkeypatch):
    """A tracking store in the current folder, where MLflow looks for it when it is told nothing."""
    empty_store(template, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(variable, raising=False)
    return mlflow_client()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """An S3 server of our own with one bucket; its s3:// address."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    # All servers of a process share their buckets, and what a module made of one, such as versions, stays.
    urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(scope="session")
def stack():
    """A team's stack of database, objects and MLflow, started once for all modules, at the first that asks for it."""
    import stack_examples

    with stack_examples.started("mlflow") as layout:
        yield layout


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place to store things in, of either kind."""
    if request.param == "folder":
        return str(tmp_path / "store")
    return f"{request.getfixturevalue('s3')}/{request.node.originalname}-{tmp_path.name}"


@pytest.fixture
def remote_artifacts(tmp_path, monkeypatch):
    """Artifacts come as from a bucket, copied where they are asked for, and temporary files have a folder of their own.

    The paths that were downloaded.
    """
    from mlflow import MlflowClient

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    here, paths = MlflowClient.download_artifacts, []

    def download(self, run_id, path, dst_path=None):
        paths.append(path)
        return here(self, run_id, path, dst_path or tempfile.mkdtemp())

    monkeypatch.setattr(MlflowClient, "download_artifacts", download)
    return paths
