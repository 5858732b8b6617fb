"""Several workers share a training: the same weights as one, also where one of them is killed half-way."""

from __future__ import annotations

import math
import os
import signal
import sys
from pathlib import Path
from queue import Queue
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import ray.train
import torch
from torch import nn
from typer.testing import CliRunner

from wsss.cli import app
from wsss.data import Dataset
from wsss.errors import UserError
from wsss.interface import Step, StepContext
from wsss.progress import ConsoleReporter
from wsss.run import together
from wsss.run.cluster import Share
from wsss.run.fingerprints import fingerprints
from wsss.run.plan import PlannedStep, make_plan
from wsss.run.steps import StepRunner
from wsss.training import TrainingSettings, fit, parameter_groups
from wsss.workers import Workers

CPU = torch.device("cpu")
# Batches of 4 and a last one of 1, which leaves the second worker nothing.
IDS = [f"image{number}" for number in range(9)]
SETTINGS = TrainingSettings(epochs=4, batch_size=4, accumulate=2, lr=0.1, weight_decay=0.01)


def train_tiny(context: StepContext) -> None:
    """A step; the second worker is killed once in the third epoch, at the place that the first draws of it name."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 1))
    second = Workers.of_this_process(CPU).rank == 1
    mark = context.inputs["mark"] / "killed"

    def sample(image_id: str, draw: np.random.Generator) -> dict[str, torch.Tensor]:
        return {"image": torch.from_numpy(draw.normal(size=(3, 5, 5)).astype(np.float32))}

    def loss(batch: dict) -> tuple[torch.Tensor, dict[str, float]]:
        if second and batch["epoch"] == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return (model(batch["image"]) ** 2).mean(), {}

    metrics = fit(model, parameter_groups(model[0], [model[2]], context.settings), IDS, sample, loss, context)
    torch.save([*model.parameters()], context.out / "weights.pt")
    (context.out / "loss.txt").write_text(str(metrics["train/loss"]))


def refuse(context: StepContext) -> None:
    raise UserError("these settings contradict each other")


class Reports(ConsoleReporter):
    """What came to the driver."""

    def __init__(self) -> None:
        super().__init__("test")
        self.iterations: list[int] = []

    def metrics(self, values, step: int) -> None:
        self.iterations.append(step)


def planned(run=train_tiny) -> PlannedStep:
    return PlannedStep("localize", "test", Step("train", 1, TrainingSettings, run, workers=True), SETTINGS, {})


def context(folder: Path, dataset: Dataset, report) -> StepContext:
    folder.mkdir()
    return StepContext(SETTINGS, dataset, 7, CPU, folder, {"mark": folder.parent}, report)


def test_two_workers_of_which_one_is_killed_learn_what_one_learns(tiny_shapes: Dataset, tmp_path: Path) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    train_tiny(context(tmp_path / "alone", tiny_shapes, ConsoleReporter("test")))
    report = Reports()
    together.run_together(train_tiny, context(tmp_path / "together", tiny_shapes, report), 2, "local")
    assert (tmp_path / "killed").exists()
    alone, shared = (torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("alone", "together"))
    for one, other in zip(alone, shared, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    one, other = (float((tmp_path / name / "loss.txt").read_text()) for name in ("alone", "together"))
    assert one == pytest.approx(other, rel=1e-5)
    assert sorted(set(report.iterations)) == list(range(8))
    # What was done before the kill was not done again.
    assert report.iterations.count(0) == 1


def test_what_a_worker_refuses_ends_the_step_and_is_not_tried_again(
    tiny_shapes: Dataset, tmp_path: Path, monkeypatch, surroundings
) -> None:
    monkeypatch.setattr(ray.train, "get_context", lambda: SimpleNamespace(get_world_rank=lambda: 1))
    refusals: Queue = Queue()
    given = context(tmp_path / "refused", tiny_shapes, ConsoleReporter("test"))
    letter = together._Letter(refuse, given, math.inf, tmp_path, Share(1, {}), Queue(), refusals)
    with pytest.raises(UserError):
        together._work({"letter": letter})
    together._work({"letter": letter})
    assert refusals.get() == ("UserError", "these settings contradict each other")
    assert refusals.empty()


def test_each_worker_has_whole_cores_of_one_machine() -> None:
    there = [{"CPU": 4.0}, {"CPU": 3.0}]
    assert [together._cores(there, count, CPU) for count in (1, 2, 3, 7)] == [4, 3, 2, 1]
    with pytest.raises(UserError, match="8 workers need a core each"):
        together._cores(there, 8, CPU)


def test_a_batch_is_divided_without_a_rest() -> None:
    for count in range(1, 6):
        for size in range(12):
            parts = [Workers(CPU, rank, count).own(range(size)) for rank in range(count)]
            assert [item for part in parts for item in part] == list(range(size))
            assert not size or len(parts[0]) == max(map(len, parts)) > 0
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_batch_norm_that_learns_needs_whole_batches() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    Workers(CPU).check(model)
    Workers(CPU, 0, 2).check(model.eval())
    with pytest.raises(UserError, match="freeze_bn=true"):
        Workers(CPU, 0, 2).check(model.train())


def test_only_what_is_shared_has_another_fingerprint(tiny_shapes: Dataset, tmp_path: Path) -> None:
    plan = make_plan("affinity", "demo")
    one, two = (fingerprints(plan, tiny_shapes, 0, CPU, workers) for workers in (1, 2))
    shared = {planned.key for planned in plan.steps if planned.step.workers}
    assert shared == {"localize.train", "segment.train"}
    assert {key for key in one if one[key] != two[key]} >= shared
    assert StepRunner(tiny_shapes, 0, CPU, tmp_path, workers=2).fingerprint(plan.steps[0]) == two["localize.train"]


def test_the_command_takes_them() -> None:
    assert "--workers" in CliRunner().invoke(app, ["run", "--help"]).output
