"""A step in parts: each has a folder and a reporter of its own and is done once; all go when the step ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any

from wsss.interface import Reporter, StepContext
from wsss.scores import metric_names
from wsss.stages.outputs import METRICS
from wsss.storage import write_bytes
from wsss.training import CHECKPOINT

PARTS = "parts"
DONE = "part.json"
"""In a part's folder: its metrics, once it has ended."""


def in_parts(run: Callable[[StepContext], None]) -> Callable[[StepContext], None]:
    """A step's function whose work is done in parts, which are removed when it has ended.

    It has ended when its metrics are there, which it writes last: killed at any moment, in the removal too, a continued
    step does nothing twice.
    """

    @wraps(run)
    def whole(context: StepContext) -> None:
        if not (context.out / METRICS).exists():
            run(context)
        if (context.out / PARTS).exists():
            shutil.rmtree(context.out / PARTS)

    return whole


def part_of(context: StepContext, name: str, **changes: Any) -> StepContext:
    """The context of a part of a step.

    Args:
        context: the step's.
        name: the part's within the step, such as "round_1/unary"; it stands in what the part reports:
            "train/round_1/unary/loss".
        changes: what else is its own, such as `settings` and `rng`.
    """
    return replace(context, out=context.out / PARTS / name, report=_PartReporter(context.report, name), **changes)


def once(context: StepContext, work: Callable[[StepContext], Mapping[str, float]]) -> dict[str, float]:
    """The metrics of `work(context)` in a part's context; work that has ended before is not done again."""
    done = context.out / DONE
    if not done.exists():
        context.out.mkdir(parents=True, exist_ok=True)
        write_bytes(done, json.dumps(dict(work(context))).encode())
    (context.out / CHECKPOINT).unlink(missing_ok=True)
    metrics: dict[str, float] = json.loads(done.read_text(encoding="utf-8"))
    return metrics


class _PartReporter:
    """Reports for a part of a step: its metrics and its progress carry its name."""

    def __init__(self, report: Reporter, name: str) -> None:
        self._report, self._name = report, name

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        prefix = f"{metric_names.TRAIN}{self._name}/"
        self._report.metrics({prefix + key.removeprefix(metric_names.TRAIN): v for key, v in values.items()}, step)

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self._report.progress(done, total, unit, f"{self._name} {note}".rstrip())
