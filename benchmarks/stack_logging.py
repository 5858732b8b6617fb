"""A team's stack without containers: how logging grows with those who log at once."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

from benchmarks.common import Row
from infra.stack.layout import PORTS, Layout, resolved
from infra.stack.supervise import start, stop
from wsss.classes import VOC
from wsss.errors import UserError
from wsss.git import GitState
from wsss.scores import Evaluation
from wsss.tracking.connection import mlflow_client
from wsss.tracking.info import DatasetInfo, RunInfo
from wsss.tracking.runs import method_run

WRITERS = 8
ROUNDS = 3
RUNS = 6
"""Of each writer, in each round."""
_PATIENCE_S = 120


def logging_row() -> Row:
    """Runs in a second of eight writers over eight times one writer's, on PostgreSQL and S3, in turns."""
    with _stack() as layout:
        log_from(layout, 1, 1, "warm-up")
        alone, together = zip(
            *(
                (
                    RUNS / log_from(layout, 1, RUNS, f"{n}-alone"),
                    WRITERS * RUNS / log_from(layout, WRITERS, RUNS, f"{n}"),
                )
                for n in range(ROUNDS)
            ),
            strict=True,
        )
    ratios = [ours / (WRITERS * one) for ours, one in zip(together, alone, strict=True)]
    low, high = np.quantile(ratios, [0.25, 0.75])
    return Row(
        "logging",
        f"runs logged by {WRITERS} writers at once; {WRITERS} times what one logs",
        float(np.median(together)),
        float(WRITERS * np.median(alone)),
        "runs/s",
        float(np.median(ratios)),
        (float(low), float(high)),
        0.5,
    )


def log_from(layout: Layout, writers: int, runs: int, name: str) -> float:
    """Have processes log runs at once, as researchers.

    Args:
        layout: the stack.
        writers: how many processes.
        runs: how many runs each.
        name: what the runs' fingerprints begin with, so that each is a run of its own.

    Returns:
        The seconds from when all were ready until all had logged.
    """
    environment = os.environ | resolved(layout.variables("researcher"))
    environment |= {"PYTHONPATH": str(Path(__file__).parent.parent), "MLFLOW_EXPERIMENT_NAME": "logging"}
    words = [sys.executable, "-m", "benchmarks.stack_logging", name, str(writers), str(runs)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UserError("a writer ended with an error, which is above")
    return float(done.stdout)


def _log_at_once(name: str, writers: int, runs: int) -> float:
    """Fork writers from this process, which has imported what they need, and wait for them; their seconds."""
    fork = multiprocessing.get_context("fork")
    ready = fork.Barrier(writers + 1)
    processes = [fork.Process(target=_writer, args=(f"{name}-{n}", runs, ready)) for n in range(writers)]
    for process in processes:
        process.start()
    ready.wait(_PATIENCE_S)
    began = time.perf_counter()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - began
    if any(process.exitcode for process in processes):
        raise UserError("a writer ended with an error, which is above")
    return seconds


def _writer(name: str, runs: int, ready: Barrier) -> None:
    """One writer, in a folder of its own."""
    Path(name).mkdir()
    os.chdir(name)
    mlflow_client()
    ready.wait(_PATIENCE_S)
    write(name, runs)


def write(name: str, runs: int) -> None:
    """Log runs of a method, as `wsss run` does: settings, an evaluation with its record, some losses."""
    matrices = np.random.default_rng(0).integers(1, 1000, (10, 21, 21))
    evaluation = Evaluation("val", "pred", tuple(map(str, range(10))), ("background", *VOC), matrices)
    data = DatasetInfo("random", "", "0" * 64, {"train": 1})
    for number in range(runs):
        fingerprint = f"{name}-{number}-".ljust(64, "0")
        info = RunInfo(
            "cam",
            "demo",
            data,
            {"number": number},
            frozenset(),
            number,
            fingerprint,
            "0" * 64,
            GitState(None, False),
            "wsss bench stack",
        )
        with method_run(info) as run:
            for step in range(5):
                run.metrics({"train/loss": float(step)}, step)
            run.evaluation(evaluation)


@contextmanager
def _stack() -> Iterator[Layout]:
    """A stack of its own: the database, the objects, MLflow."""
    folder = Path(tempfile.mkdtemp(prefix="wsss-"))
    folder.chmod(0o711)
    layout = Layout(folder / "stack")
    try:
        with redirect_stdout(sys.stderr):  # rows alone go to the standard output
            start(layout, ["mlflow"], free_ports())
        yield layout
    finally:
        with redirect_stdout(sys.stderr):
            stop(layout)
        shutil.rmtree(folder, ignore_errors=True)


def free_ports() -> dict[str, int]:
    """A free port for each that a stack listens on."""
    probes = {name: socket.create_server(("127.0.0.1", 0)) for name in PORTS}
    ports = {name: probe.getsockname()[1] for name, probe in probes.items()}
    for probe in probes.values():
        probe.close()
    return ports


if __name__ == "__main__":
    print(_log_at_once(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
