"""A step with parts: each done once, under its own name, all gone at the end, whenever the process is killed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from wsss.interface import StepContext
from wsss.stages.outputs import write_metrics
from wsss.stages.parts import in_parts, once, part_of


class Listener:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.heard.append((dict(values), step))

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self.heard.append((done, total, unit, note))


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    dataset: Any = None
    return StepContext("settings", dataset, 3, torch.device("cpu"), tmp_path / "out", {}, Listener())


done: list[str] = []


@in_parts
def two_parts(context: StepContext) -> None:
    """A step whose second part needs the first."""

    def first(part: StepContext) -> dict[str, float]:
        done.append("first")
        (part.out / "network").write_text("weights")
        return {"loss": 0.25, "images": 4}

    def second(part: StepContext) -> dict[str, float]:
        done.append("second")
        return {"length": len((part_of(context, "first").out / "network").read_text())}

    metrics = once(part_of(context, "first"), first) | once(part_of(context, "round_1/second", rng=7), second)
    (context.out / "labels").write_text("labels")
    write_metrics(context.out, metrics)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    done.clear()


def test_a_step_with_parts_leaves_its_outputs_alone(context: StepContext) -> None:
    context.out.mkdir()
    two_parts(context)
    assert done == ["first", "second"]
    assert files(context.out) == ["labels", "metrics.json"]
    assert json.loads((context.out / "metrics.json").read_text()) == {"loss": 0.25, "images": 4, "length": 7}


def test_killed_anywhere_a_step_does_no_part_twice(context: StepContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the removal of the parts, of which some are gone already, and after it."""
    context.out.mkdir()
    remove = shutil.rmtree

    def killed(folder: Path) -> None:
        remove(folder / "first")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", killed)
        two_parts(context)
    assert (context.out / "parts").is_dir()
    two_parts(context)
    two_parts(context)
    assert done == ["first", "second"]
    assert files(context.out) == ["labels", "metrics.json"]


def test_a_part_that_was_broken_off_is_begun_again_in_its_folder(context: StepContext) -> None:
    part = part_of(context, "first")

    def broken(part: StepContext) -> dict[str, float]:
        (part.out / "checkpoint.pt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(part, broken)
    seen = once(part, lambda part: {"seen": len((part.out / "checkpoint.pt").read_text())})
    assert seen == once(part, broken) == {"seen": 4}
    assert files(part.out) == ["part.json"], "what only a continued part needs is gone"


def test_what_a_part_reports_carries_its_name(context: StepContext) -> None:
    part = part_of(context, "round_1/unary", settings="own", rng=5)
    assert part == replace(
        context, out=context.out / "parts" / "round_1" / "unary", report=part.report, settings="own", rng=5
    )
    part.report.metrics({"train/loss": 0.5}, 3)
    part.report.progress(1, 2, "images", "loss 0.5")
    part.report.progress(2, 2, "images")
    listener: Any = context.report
    assert listener.heard == [
        ({"train/round_1/unary/loss": 0.5}, 3),
        (1, 2, "images", "round_1/unary loss 0.5"),
        (2, 2, "images", "round_1/unary"),
    ]
