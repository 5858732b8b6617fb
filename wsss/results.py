"""The results page of a dataset: every finished run with its intervals, made from the logged confusion matrices."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from wsss.classes import Classes
from wsss.data import Dataset
from wsss.errors import UserError
from wsss.evaluation import Scores, bootstrap
from wsss.tracking import names
from wsss.tracking.connection import mlflow_client
from wsss.tracking.query import RunRecord, runs

FIGURES = (
    ("train", "cam"),
    ("train", "labels"),
    ("train", "labels_crf"),
    ("dev", "pred"),
    ("dev", "pred_crf"),
    ("val", "pred"),
    ("val", "pred_crf"),
)
_HEAD = ("method", "rng", "split", "what", "mIoU", "mIoU of the chosen classes", "mean FP", "mean FN", "images")


def results_page(dataset: Dataset, preset: str, chosen: Sequence[str]) -> str:
    """Markdown: the data's identity, a row for each figure of each method's newest run per rng, seconds of the steps.

    Args:
        dataset: whose runs.
        preset: of the runs.
        chosen: class names, "background" among them if wanted, for a second mean.

    Raises:
        UserError: no finished run, or an unknown class.
    """
    classes = Classes(dataset.classes.names)
    indices = [classes.with_background.index(n) if n in classes.with_background else classes.index(n) for n in chosen]
    found = _newest(run for run in runs(dataset.name) if run.preset == preset)
    if not found:
        raise UserError(f"there is no finished run with preset {preset} on {dataset.name}; start one with `wsss run`")
    lines = [_row(_HEAD), _row(["---"] * len(_HEAD))]
    for run in found:
        lines += [_row(cells) for split, what in FIGURES if (cells := _figure(run, split, what, indices))]
    seconds = [_row(("method", "rng", "run", "commit", "seconds of each step")), _row(["---"] * 5)]
    seconds += [_row(_seconds(run)) for run in found]
    return "\n".join([_identity(dataset), "", *lines, "", f"Chosen classes: {', '.join(chosen)}.", "", *seconds, ""])


def _newest(records: Iterable[RunRecord]) -> list[RunRecord]:
    """The newest run of each method, settings and rng, trials of searches left out; bound last."""
    newest = {
        (record.method, record.group, record.rng): record
        for record in sorted(records, key=lambda record: record.start)
        if names.MLFLOW_PARENT not in record.tags
    }
    order = {"cam": 0, "bound": 2}
    return sorted(newest.values(), key=lambda r: (order.get(r.method, 1), r.method, r.rng))


def _identity(dataset: Dataset) -> str:
    splits = ", ".join(f"{split} {len(ids)} (ids `{_hash(ids)}`)" for split, ids in dataset.splits.items())
    return (
        f"Images: {splits}, the hash being the first 16 digits of the sha256 of the sorted ids, one a line; tags from "
        f"{dataset.tags_source}; {len(dataset.classes)} classes and background."
    )


def _hash(ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]


def _figure(run: RunRecord, split: str, what: str, indices: Sequence[int]) -> tuple[str, ...] | None:
    if names.metric(split, what, names.MIOU) not in run.metrics:
        return None
    path = mlflow_client().download_artifacts(run.id, names.confusion_file(split, what))
    with np.load(Path(path), allow_pickle=False) as content:
        matrices = content["matrices"]
    scores = Scores.of(matrices.sum(0, dtype=np.int64))
    few = float(np.nanmean(scores.iou[list(indices)])) if indices else float("nan")
    return (
        run.method,
        str(run.rng),
        split,
        what,
        _percent(scores.miou, bootstrap(matrices)),
        _percent(few, bootstrap(matrices, classes=indices)) if indices else "-",
        f"{scores.mean_fp:.2f}",
        f"{scores.mean_fn:.2f}",
        str(len(matrices)),
    )


def _seconds(run: RunRecord) -> tuple[str, ...]:
    steps = {
        k.removeprefix(names.TIME).removesuffix("_s"): v for k, v in run.metrics.items() if k.startswith(names.TIME)
    }
    text = ", ".join(f"{step} {value:.0f}" for step, value in sorted(steps.items()))
    return run.method, str(run.rng), f"`{run.id[:8]}`", f"`{run.tags.get(names.GIT_COMMIT, '')[:8]}`", text


def _percent(value: float, interval: tuple[float, float]) -> str:
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
