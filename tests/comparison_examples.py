"""Runs and evaluations of known figures, without a store."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np

from wsss.scores import metric_names
from wsss.scores.evaluation import Evaluation
from wsss.tables.comparison import Comparison, compare
from wsss.tracking.query import RunRecord

CLASSES = ("background", "cat", "dog")
Found = Mapping[str, Evaluation]


def evaluation(rng: int, images: int = 12, classes: Sequence[str] = CLASSES, better: int = 0) -> Evaluation:
    """Masks that are the same for every rng, predictions that are not; `better` pixels of each class more are right."""
    number = len(classes)
    truth = np.random.default_rng(0).integers(200, 900, (images, number))
    shares = np.random.default_rng(rng).dirichlet([1] * number, (images, number))
    wrong = np.floor(shares * (truth[..., None] - 100)).astype(int)
    matrices = wrong.copy()
    diagonal = np.arange(number)
    matrices[:, diagonal, diagonal] += truth - wrong.sum(2)
    for index in range(number):
        moved = np.minimum(matrices[:, index, (index + 1) % number], better)
        matrices[:, index, (index + 1) % number] -= moved
        matrices[:, index, index] += moved
    ids = tuple(f"image {place}" for place in range(images))
    return Evaluation("val", "pred_crf", ids, tuple(classes), matrices.astype(np.int32))


def record(
    run_id: str, *, method: str = "cam", figures: Mapping[str, float] | None = None, **more: object
) -> RunRecord:
    """A finished run on the shapes, with mIoUs by "<split>/<what>"."""
    metrics = {f"{key}/{metric_names.MIOU}": value for key, value in (figures or {"val/pred_crf": 0.5}).items()}
    said = dict(
        id=run_id, status="FINISHED", method=method, preset="demo", dataset="shapes", rng=0, group="g",
        supervision=frozenset(), start=datetime(2026, 1, 1, tzinfo=UTC), tags={}, params={}, metrics=metrics,
    )  # fmt: skip
    return RunRecord(**(said | more))  # type: ignore[arg-type]


def compared(found: Found, runs: Sequence[RunRecord] | None = None) -> Comparison:
    """The comparison of evaluations by run."""
    return compare(runs or [record(run_id) for run_id in found], "val", "pred_crf", lambda run, *_: found.get(run.id))
