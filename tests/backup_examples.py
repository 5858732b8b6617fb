"""What the tests of backups have in common: a group's place with one of everything, writers, and what a reader sees."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import empty_store
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.store.artifact import s3_artifact_repo
from PIL import Image
from served_examples import asking, save_one_answer
from typer.testing import CliRunner

from wsss import versions
from wsss.backup import check, make, places, trees
from wsss.backup.vault import Vault
from wsss.cli import app
from wsss.data import open_dataset
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.registry import gate
from wsss.registry.lineage import keep_lineage
from wsss.run.store import StepStore, write_manifest
from wsss.serving.package import load_package, log_model
from wsss.serving.server import make_app
from wsss.storage import store_address
from wsss.tracking import names

FORK = multiprocessing.get_context("fork")
NAME = "wsss-shapes"
FINGERPRINT = "a" * 64


def wsss(*arguments: str, status: int = 0) -> str:
    """What a command says; its error too."""
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    said = result.output + str(result.exception if isinstance(result.exception, UserError) else "")
    if result.exception and not isinstance(result.exception, UserError | SystemExit):
        raise result.exception
    assert bool(status) == isinstance(result.exception, UserError), said
    return said


def make_everything() -> None:
    """In the current folder: a dataset, a run with a model that is champion, a step's output, a version of labels."""
    root = Path("data", "shapes").absolute()
    make_shapes(root, images=6, val_images=4, size=40, classes=2)
    dataset = open_dataset("shapes")
    Path("step").mkdir()
    save_one_answer(Path("step"), 1)
    client = MlflowClient()
    version = versions.store(_masks())
    tags = {
        names.DATASET: "shapes",
        names.SUPERVISION: "",
        names.KIND: names.METHOD_RUN,
        names.LABELS_MD5: version.md5,
    }
    run = client.create_run("0", tags=tags).info.run_id
    log_model(run, Path("step"), dataset.classes, "# card\n")
    keep_lineage(run, dataset)
    client.set_terminated(run)
    gate.promote(run, NAME, dataset, force="the first")
    add_step("one")


def add_step(word: str, fingerprint: str = FINGERPRINT) -> None:
    """A finished step's output in the store."""
    made = Path("made")
    made.mkdir()
    (made / "maps").write_text(word * 1000)
    write_manifest(made, {"step": "refine.test.first", "inputs": {}})
    StepStore(store_address(), Path("work", "cache")).publish("refine.test.first", fingerprint, made)


def served() -> bytes:
    """The champion's answer to a picture."""
    picture = Path("picture.png")
    Image.fromarray(np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)).save(picture)
    ask = asking(make_app(load_package(f"models:/{NAME}@champion")))
    answer = ask("POST", "/segment", content=picture.read_bytes(), headers={"Content-Type": "image/png"})
    assert answer.status_code == 200
    return answer.content


def expected(number: int) -> tuple[dict[str, str], dict[str, float], str]:
    """What a writer logs in its run of a number: params, metrics, an artifact's text."""
    params = {f"setting{i}": f"{number}-{i}" for i in range(10)}
    return params, {f"val/{i}": number + i / 10 for i in range(10)}, f"masks of {number}\n" * 500


def write_runs(uri: str, first: int, ended: Any, pause: float = 0.0, count: int = 10**6) -> None:
    """Log run after run, with a pause between them (seconds)."""
    # A client that another process has, whose connection this copy of it would speak into.
    s3_artifact_repo._cached_get_s3_client.cache_clear()
    client = MlflowClient(uri)
    for number in range(first, first + count):
        if ended.is_set():
            return
        params, metrics, text = expected(number)
        run = client.create_run("0", tags={"number": str(number)}).info.run_id
        client.log_batch(
            run,
            [Metric(key, value, 0, 0) for key, value in metrics.items()],
            [Param(key, value) for key, value in params.items()],
            [RunTag("half", "way")],
        )
        client.log_text(run, text, "masks/labels.txt")
        client.set_terminated(run)
        time.sleep(pause)


@contextmanager
def writers(uri: str, count: int = 8, pause: float = 0.1) -> Iterator[None]:
    """So many processes that log runs."""
    ended = FORK.Event()
    processes = [FORK.Process(target=write_runs, args=(uri, 1000 * n, ended, pause)) for n in range(1, count + 1)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        ended.set()
        for process in processes:
            process.join(60)
    assert [process.exitcode for process in processes] == [0] * count


def finished(client: MlflowClient) -> dict[int, Any]:
    """The writers' runs that were finished, by number."""
    runs, token = [], None
    while True:
        page = client.search_runs(["0"], "tags.half = 'way' AND status = 'FINISHED'", page_token=token)
        runs += page
        token = page.token
        if not token:
            return {int(run.data.tags["number"]): run for run in runs}


def wait_for_runs(client: MlflowClient, count: int) -> dict[int, Any]:
    """The finished runs of the writers, once there are so many."""
    deadline = time.monotonic() + 60
    while len(runs := finished(client)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return runs


def assert_whole(client: MlflowClient, runs: dict[int, Any]) -> None:
    """Each run has the params, metrics and artifact that its writer gave it."""
    for number, run in runs.items():
        params, metrics, text = expected(number)
        assert run.data.params == params and run.data.metrics == metrics, number
        folder = Path(client.download_artifacts(run.info.run_id, "masks", os.getcwd()))
        assert (folder / "labels.txt").read_text() == text, number


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of every file."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


_MADE: list[Path] = []


@pytest.fixture(scope="session")
def original(template, tmp_path_factory) -> Path:
    """A folder with one of everything, made once for all modules; nobody changes it."""
    if _MADE:
        return _MADE[0]
    folder = tmp_path_factory.mktemp("original")
    empty_store(template, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        settle_in(patch, folder)
        make_everything()
    _MADE.append(folder)
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


def _masks() -> Path:
    folder = Path("masks")
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(folder / f"{number}.png")
    return folder
