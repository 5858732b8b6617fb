"""A tracking store of many runs, written straight into SQLite: through MLflow's calls it would take an hour."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from wsss.classes import VOC
from wsss.scores import metric_names
from wsss.scores.scored import SCORED, reported
from wsss.tracking import names

METHODS = ("affinity", "bound", "cam", "dcsm", "ial", "mcis", "wildcat")
RNGS = 3
"""Runs of a row."""
_STEPS = ("localize.train", "localize.infer", "refine.crf", "segment.train")
_PARAMS = 40
_BATCH = 200


def write_runs(database: Path, count: int, metrics: int, dataset: str = "photos") -> list[str]:
    """Write finished runs of methods into a store that has its tables.

    Args:
        database: MLflow's SQLite file.
        count: of the runs.
        metrics: of each.
        dataset: its name.

    Returns:
        Their ids, the newest first.
    """
    keys = metric_keys(metrics)
    ids = [f"{number:032x}" for number in range(count)]
    now = int(1000 * time.time())
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")
        for begin in range(0, count, _BATCH):
            batch = list(enumerate(ids))[begin : begin + _BATCH]
            times = [now - 60_000 * (count - number) for number, _ in batch]
            connection.executemany(
                "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, "
                "start_time, end_time, source_version, lifecycle_stage, artifact_uri, experiment_id) "
                "VALUES (?, ?, 'LOCAL', '', '', 'bench', 'FINISHED', ?, ?, '', 'active', ?, 0)",
                [
                    (run, f"run-{number}", at, at + 50_000, f"mlruns/0/{run}/artifacts")
                    for (number, run), at in zip(batch, times, strict=True)
                ],
            )
            tags = [(key, value, run) for number, run in batch for key, value in _tags(number, dataset)]
            connection.executemany("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", tags)
            params = [(key, value, run) for number, run in batch for key, value in _params(number)]
            connection.executemany("INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)", params)
            values = [
                (key, value, at, run)
                for (number, run), at in zip(batch, times, strict=True)
                for key, value in zip(keys, _values(number, keys), strict=True)
            ]
            for table in ("metrics", "latest_metrics"):
                connection.executemany(
                    f"INSERT INTO {table} (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, 0, 0)",
                    values,
                )
    return ids[::-1]


def metric_keys(count: int) -> list[str]:
    """So many keys of metrics: those of tables first, then those of classes."""
    keys = [metric_names.metric(split, what, metric_names.MIOU) for split, what in reported()]
    keys += [key for step in _STEPS for key in (metric_names.step_time(step), metric_names.step_memory(step))]
    of_classes = (
        metric_names.metric(split, what, name, cls)
        for what, scored in SCORED.items()
        for split in scored.splits
        for name in (metric_names.IOU, metric_names.FALSE_POSITIVES, metric_names.FALSE_NEGATIVES)
        for cls in VOC
    )
    return [*keys, *of_classes][:count]


def _tags(number: int, dataset: str) -> Iterator[tuple[str, str]]:
    method = METHODS[number // RNGS % len(METHODS)]
    yield names.KIND, names.METHOD_RUN
    yield names.METHOD, method
    yield names.PRESET, "small"
    yield names.DATASET, dataset
    yield names.RNG, str(number % RNGS)
    yield names.GROUP, f"{number // RNGS:064x}"
    yield names.SUPERVISION, "masks" if method == "bound" else ""
    yield names.BACKBONE, "mobilenet_v2"
    yield names.PRETRAINING, "imagenet"
    yield "mlflow.runName", f"run-{number}"


def _params(number: int) -> Iterator[tuple[str, str]]:
    yield from ((f"localize.train.setting_{index}", str(index)) for index in range(_PARAMS))
    yield "refine.walk.beta", str(number // RNGS)


def _values(number: int, keys: list[str]) -> list[float]:
    values = np.random.default_rng(number).uniform(0.2, 0.8, len(keys)).round(4)
    return [float(value) for value in values]


def newest_of_rows(count: int, rows: int) -> list[str]:
    """The newest runs of so many rows of the table, of the last `count` runs that were written, by id."""
    last_of_rows = [number for number in range(count) if number % RNGS == RNGS - 1]
    return [f"{number:032x}" for number in last_of_rows[::-1][:rows]]
