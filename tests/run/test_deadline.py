"""Work that has to end in time: steps stop at a checkpoint and go on in the next call; nobody waits longer."""

from __future__ import annotations

import math
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import SMALL

from wsss import interface
from wsss.data import Dataset
from wsss.errors import OutOfTimeError
from wsss.interface import StepContext, StepResult
from wsss.progress import ConsoleReporter
from wsss.run import deadline as deadlines
from wsss.run.lease import lease
from wsss.run.plan import make_plan
from wsss.run.steps import StepRunner
from wsss.stages.outputs import write_metrics

SETTINGS = {key: value for key, value in SMALL.items() if not key.startswith("refine.")}
PLAN = {planned.key: planned for planned in make_plan("cam", "demo", SETTINGS).steps}
CPU = torch.device("cpu")


def run(dataset: Dataset, work: Path, key: str, deadline: float = math.inf, **options: object) -> StepResult:
    """A step and those before it."""
    runner = StepRunner(dataset, 0, CPU, work, deadline=math.inf, **options)
    for planned in PLAN.values():
        if planned.key == key:
            runner.deadline = deadline
        result = runner.run(planned, ConsoleReporter(planned.key))
        if planned.key == key:
            return result
    raise AssertionError(key)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock that reporters look at."""
    hand = SimpleNamespace(monotonic=time.monotonic)
    monkeypatch.setattr(deadlines, "time", hand)
    return hand


def test_training_stops_after_an_epoch_if_the_next_would_not_end_in_time(
    tiny_shapes: Dataset, tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tiny_shapes, tmp_path / "whole", "localize.train")
    far = time.monotonic() + 1000
    clock.monotonic = lambda: 0.0
    monkeypatch.setattr(interface, "time", SimpleNamespace(monotonic=lambda: far))
    for _ in range(int(SETTINGS["localize.train.epochs"]) - 1):
        with pytest.raises(OutOfTimeError, match="the next piece of work takes about"):
            run(tiny_shapes, tmp_path / "work", "localize.train", far)
    result = run(tiny_shapes, tmp_path / "work", "localize.train", far)
    assert (result.folder / "model.safetensors").read_bytes() == (whole.folder / "model.safetensors").read_bytes()
    assert not (result.folder / "seconds.txt").exists()


def test_maps_stop_after_an_image_and_only_the_others_are_made(
    tiny_shapes: Dataset, tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tiny_shapes, tmp_path, "localize.train")
    report = ConsoleReporter.progress
    seen: list[int] = []

    def progress(self: ConsoleReporter, done: int, total: int, unit: str, note: str = "") -> None:
        seen.append(done)
        report(self, done, total, unit, note)

    monkeypatch.setattr(ConsoleReporter, "progress", progress)
    far = time.monotonic() + 1000
    clock.monotonic = lambda: far if seen[-1] >= 7 else 0.0
    with pytest.raises(OutOfTimeError, match=r"after 7 of 36 images; the others take about [\d,]+ s more"):
        run(tiny_shapes, tmp_path, "localize.infer", far)
    assert seen[-1] == 7
    seen.clear()
    clock.monotonic = lambda: 0.0
    run(tiny_shapes, tmp_path, "localize.infer", far)
    assert seen[0] == 8 and seen[-1] == 36


def test_the_seconds_of_a_stopped_attempt_count(tiny_shapes: Dataset, tmp_path: Path) -> None:
    slow = PLAN["localize.train"]
    calls = []

    def work(context: StepContext) -> None:
        calls.append(context)
        time.sleep(0.2)
        if len(calls) == 1:
            raise OutOfTimeError("stopped")
        write_metrics(context.out, {"train/loss": 1.0})

    planned = replace(slow, step=replace(slow.step, run=work))
    runner = StepRunner(tiny_shapes, 0, CPU, tmp_path)
    with pytest.raises(OutOfTimeError):
        runner.run(planned, ConsoleReporter("test"))
    assert 0.4 <= runner.run(planned, ConsoleReporter("test")).seconds < 10


def test_nothing_is_begun_when_the_time_is_over(tiny_shapes: Dataset, tmp_path: Path) -> None:
    with pytest.raises(OutOfTimeError, match=r"no time left to begin step localize\.train"):
        run(tiny_shapes, tmp_path, "localize.train", time.monotonic())
    assert not (tmp_path / "scratch").exists()


def test_who_waits_for_another_waits_no_longer_than_the_deadline(tmp_path: Path) -> None:
    started = time.monotonic()
    with lease(str(tmp_path), "name", "step x", wait=True):
        held = threading.Event()
        errors: list[BaseException] = []

        def wait() -> None:
            try:
                with lease(str(tmp_path), "name", "step x", wait=True, deadline=started + 0.3):
                    held.set()
            except OutOfTimeError as error:
                errors.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(5)
    assert not held.is_set() and f"held by process {os.getpid()}" in str(errors[0])
    assert time.monotonic() - started < 3
