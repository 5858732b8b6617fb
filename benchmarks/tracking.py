"""What tracking costs: its seconds beside a training loop's, and writing an evaluation at once or metric by metric."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import Row, row_of
from wsss.classes import VOC
from wsss.git import GitState
from wsss.interface import Reporter, StepContext
from wsss.scores import Evaluation
from wsss.stages.localize import Classifier
from wsss.tracking.connection import mlflow_client
from wsss.tracking.info import DatasetInfo, RunInfo
from wsss.tracking.runs import MethodRun, StageRun, method_run
from wsss.training import TrainingSettings, fit, parameter_groups

ROUNDS = 5
IMAGES, SIDE = 160, 97
SETTINGS = TrainingSettings(epochs=1, batch_size=16, optimizer="adamw", lr=2e-3, head_lr=1.0)


class _Timed:
    """A reporter that counts the seconds its caller spends in it."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.seconds = 0.0

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        started = time.perf_counter()
        self._reporter.metrics(values, step)
        self.seconds += time.perf_counter() - started

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        started = time.perf_counter()
        self._reporter.progress(done, total, unit, note)
        self.seconds += time.perf_counter() - started


def rows() -> Iterator[Row]:
    """Both claims, on a SQLite store, measured in turns."""
    with _run() as (run, folder), run.stage("localize") as stage:
        _overhead(stage, folder / "warm-up")
        tracking, loop, ours, single = zip(
            *((*_overhead(stage, folder / str(i)), *_evaluation(run, i)) for i in range(ROUNDS)), strict=True
        )
    free = [1 - part / whole for part, whole in zip(tracking, loop, strict=True)]
    low, high = np.quantile(free, [0.25, 0.75])
    yield Row(
        "overhead",
        "tracking beside the loop that trains the demo's classifier; the share that is free",
        median(tracking),
        median(loop),
        "s",
        median(free),
        (float(low), float(high)),
        0.98,
    )
    what = "write an evaluation of 21 classes: one batch; log_metric for each metric"
    yield row_of("evaluation-write", what, 5.0, list(ours), list(single))


def _overhead(stage: StageRun, folder: Path) -> tuple[float, float]:
    """Seconds that tracking takes, and seconds of the training loop that it is called from.

    Tracking's are those inside its calls, those of the last flush, and the processor's seconds of its threads.
    """
    folder.mkdir()
    report = _Timed(stage.reporter("localize.train"))
    before, started = _background_seconds(), time.perf_counter()
    _train(folder, report)
    loop = time.perf_counter() - started
    started = time.perf_counter()
    stage.flush()
    return report.seconds + time.perf_counter() - started + _background_seconds() - before, loop


def _evaluation(run: MethodRun, step: int) -> tuple[float, float]:
    """Seconds to write the metrics of an evaluation over 20 classes in one batch, and one by one."""
    matrices = np.random.default_rng(step).integers(1, 1000, (1, 21, 21))
    values = Evaluation("val", "pred", ("image",), ("background", *VOC), matrices).metrics
    started = time.perf_counter()
    run.metrics(values, step)
    run.flush()
    ours = time.perf_counter() - started
    client = mlflow_client()
    started = time.perf_counter()
    for name, value in values.items():
        client.log_metric(run.id, f"single/{name}", value, step=step)
    return ours, time.perf_counter() - started


def _train(folder: Path, report: Reporter) -> None:
    """The demo's classifier over random pictures."""
    torch.manual_seed(0)
    model = Classifier(20, "tiny", "none", 8, 0.0)
    context = StepContext(SETTINGS, None, 0, torch.device("cpu"), folder, {}, report)  # type: ignore[arg-type]

    def sample(image_id: str, draw: np.random.Generator) -> dict[str, Tensor]:
        pixels = draw.standard_normal((3, SIDE, SIDE), dtype=np.float32)
        return {"image": torch.from_numpy(pixels), "tags": torch.from_numpy(draw.random(20) < 0.1).float()}

    def loss(batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]:
        return F.multilabel_soft_margin_loss(model(batch["image"]), batch["tags"]), {}

    fit(model, parameter_groups(None, [model], SETTINGS), [str(i) for i in range(IMAGES)], sample, loss, context)


def _background_seconds() -> float:
    """The processor's seconds of tracking's threads so far."""
    ours = {thread.native_id for thread in threading.enumerate() if thread.name in ("tracking", "heartbeat")}
    return sum(thread.user_time + thread.system_time for thread in psutil.Process().threads() if thread.id in ours)


@contextmanager
def _run() -> Iterator[tuple[MethodRun, Path]]:
    """A method's run in a store of its own."""
    data = DatasetInfo("random", "", "0" * 64, {"train": IMAGES})
    info = RunInfo("cam", "demo", data, {}, frozenset(), 0, "0" * 64, "0" * 64, GitState(None, False), "wsss bench")
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        os.environ.pop("MLFLOW_RUN_ID", None)
        with method_run(info) as run:
            yield run, Path(folder)
