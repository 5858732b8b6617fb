"""What a run's training went through: its losses, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from wsss.interface import STAGES
from wsss.scores import metric_names
from wsss.tracking.connection import mlflow_client
from wsss.tracking.query import RunRecord, stage_runs

POINTS = 500
"""The most points of a curve."""


@dataclass(frozen=True)
class Curve:
    """A loss of a stage.

    Attributes:
        stage: whose run has it.
        name: of the metric, such as "train/loss".
        steps: at most `POINTS` steps, ascending; where there are more, the first and the last and some between.
        values: the loss at each of them.
    """

    stage: str
    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


def losses(run: RunRecord) -> tuple[Curve, ...]:
    """The losses of a method's run, stage by stage; of a finished run they stay in memory.

    Raises:
        UserError: the tracking store can't be used.
    """
    return _kept(run.id) if run.status == "FINISHED" else tuple(_read(run.id))


@lru_cache(maxsize=64)
def _kept(run_id: str) -> tuple[Curve, ...]:
    return tuple(_read(run_id))


def _read(run_id: str) -> Iterator[Curve]:
    client = mlflow_client()
    stages = stage_runs(client, client.get_run(run_id).info.experiment_id, run_id)
    wanted = [
        (stage, key, stages[stage].info.run_id)
        for stage in STAGES
        if stage in stages
        for key in sorted(stages[stage].data.metrics)
        if key.rpartition("/")[2] == metric_names.LOSS
    ]
    with ThreadPoolExecutor(4) as pool:
        histories = pool.map(lambda each: client.get_metric_history(each[2], each[1]), wanted)
        for (stage, key, _), history in zip(wanted, histories, strict=True):
            # What a run that was continued wrote twice counts once, the later time.
            at = {point.step: point.value for point in sorted(history, key=lambda point: point.timestamp)}
            steps = sorted(at)
            if len(steps) > POINTS:
                steps = [steps[place] for place in np.linspace(0, len(steps) - 1, POINTS).round().astype(int)]
            yield Curve(stage, key, tuple(steps), tuple(at[step] for step in steps))
