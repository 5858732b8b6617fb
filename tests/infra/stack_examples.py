"""A stack without containers, for the tests: free ports, a folder that PostgreSQL's user reaches, its variables."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
from mlflow import MlflowClient

from benchmarks.stack_logging import free_ports
from infra.stack import postgres
from infra.stack.layout import Layout, resolved
from wsss import storage
from wsss.errors import UserError
from wsss.tracking.connection import mlflow_client

CALL = [sys.executable, "-m", "infra.stack"]


def call(folder: Path, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python -m infra.stack`, as a user would."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    words = ("--folder", str(folder), *words)
    return subprocess.run(
        [*CALL, *words], capture_output=True, text=True, check=False, cwd=cwd or folder.parent, env=environment
    )


@contextmanager
def started(*services: str) -> Iterator[Layout]:
    """A stack of some services, which ends with the test; skips where there is no PostgreSQL."""
    try:
        postgres.programs()
    except UserError as missing:
        pytest.skip(str(missing))
    # Not pytest's folder, which is for root alone.
    folder = Path(tempfile.mkdtemp(prefix="wsss-"))
    folder.chmod(0o711)
    ports = [part for name, port in free_ports().items() for part in ("--port", f"{name}={port}")]
    layout = Layout(folder / "stack")
    try:
        done = call(layout.folder, "start", *services, *ports)
        assert done.returncode == 0, done.stdout + done.stderr
        yield layout
    finally:
        call(layout.folder, "stop")
        shutil.rmtree(layout.ray_folder, ignore_errors=True)
        shutil.rmtree(folder)


def surroundings(layout: Layout, role: str) -> dict[str, str]:
    """The variables of a process of somebody in a role."""
    own = ("AWS_ACCESS", "AWS_SECRET", "MLFLOW_RUN", "WSSS_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return inherited | resolved(layout.variables(role)) | {"PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture
def researcher(stack, monkeypatch):
    """This process works on the stack as a researcher; its client."""
    return as_role(stack, "researcher", monkeypatch)


def as_role(stack: Layout, role: str, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """This process works on a stack in a role; its client."""
    for name, value in resolved(stack.variables(role)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    storage.bucket._client.cache_clear()
    return mlflow_client()
