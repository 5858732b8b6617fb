"""The ledger: every look at val that a promotion took, and what came of it.

An entry is an MLflow run of the experiment `wsss-promotions`: it lies where the registry lies, so that a team has one
ledger and not a file on everybody's disk; MLflow adds the author and the time; it can hold the confusion matrices of
both models, from which any later test can be made. An entry is begun before an alias moves and finished after it, and
is never changed again: one that is still RUNNING is a promotion that was cut short.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from wsss.scores.evaluation import Evaluation, encode
from wsss.tracking import names
from wsss.tracking.connection import mlflow_client
from wsss.tracking.query import every

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "wsss-promotions"
PROMOTION = "promotion"
MODEL, CANDIDATE, CHAMPION = "promotion.model", "promotion.candidate", "promotion.champion"
PROMOTED, FORCED, SPLIT, MASKS = "promotion.promoted", "promotion.forced", "promotion.split", "promotion.masks"
CANDIDATE_MIOU, CHAMPION_MIOU = "candidate/miou", "champion/miou"


@dataclass(frozen=True)
class PromotionRecord:
    """One entry.

    Attributes:
        model: the registered model.
        candidate: the version that asked.
        champion: the version that was champion then; empty if there was none.
        promoted: whether the candidate became champion.
        forced: why it was promoted whatever the figures said; empty if it was not.
        dataset, split: what both were compared on.
        masks: sha256 over the split's ids and masks; empty without masks.
        candidate_miou, champion_miou: in [0, 1]; None where it could not be measured.
        time: when.
    """

    model: str
    candidate: str
    champion: str
    promoted: bool
    forced: str
    dataset: str
    split: str
    masks: str
    candidate_miou: float | None
    champion_miou: float | None
    time: datetime

    @classmethod
    def of(cls, run: Run) -> PromotionRecord:
        tags, metrics = run.data.tags, run.data.metrics
        return cls(
            tags[MODEL],
            tags[CANDIDATE],
            tags[CHAMPION],
            tags[PROMOTED] == "true",
            tags[FORCED],
            tags[names.DATASET],
            tags[SPLIT],
            tags[MASKS],
            metrics.get(CANDIDATE_MIOU),
            metrics.get(CHAMPION_MIOU),
            datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        )


@contextmanager
def entry(record: PromotionRecord, evaluations: dict[str, Evaluation]) -> Iterator[None]:
    """Write an entry; the block is where the alias moves.

    Args:
        record: what is written.
        evaluations: of "candidate" and "champion", as far as there are masks to evaluate them with.
    """
    from mlflow.entities import Metric

    client = mlflow_client()
    tags = {
        names.KIND: PROMOTION,
        MODEL: record.model,
        CANDIDATE: record.candidate,
        CHAMPION: record.champion,
        PROMOTED: "true" if record.promoted else "false",
        FORCED: record.forced,
        names.DATASET: record.dataset,
        SPLIT: record.split,
        MASKS: record.masks,
    }
    start = int(record.time.timestamp() * 1000)
    name = f"{record.model} version {record.candidate}"
    run_id = client.create_run(_experiment(client), start_time=start, tags=tags, run_name=name).info.run_id
    mious = {CANDIDATE_MIOU: record.candidate_miou, CHAMPION_MIOU: record.champion_miou}
    client.log_batch(run_id, [Metric(key, value, start, 0) for key, value in mious.items() if value is not None])
    with tempfile.TemporaryDirectory() as scratch:
        for who, evaluation in evaluations.items():
            Path(scratch, f"{who}.npz").write_bytes(encode(evaluation))
        client.log_artifacts(run_id, scratch)
    yield
    client.set_terminated(run_id)


def history(model: str) -> list[PromotionRecord]:
    """The entries of a registered model, newest first."""
    client = mlflow_client()
    condition = f"tags.`{names.KIND}` = '{PROMOTION}' and tags.`{MODEL}` = '{model}'"
    experiment, newest_first = _experiment(client), ["attributes.start_time DESC"]
    looks = every(lambda page: client.search_runs([experiment], condition, order_by=newest_first, page_token=page))
    return [PromotionRecord.of(run) for run in looks]


def _experiment(client: MlflowClient) -> str:
    known = client.get_experiment_by_name(EXPERIMENT)
    return str(known.experiment_id if known else client.create_experiment(EXPERIMENT))
