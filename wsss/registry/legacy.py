"""The ledger of the version before: a run of the MLflow experiment `wsss-promotions` for each look."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from wsss.registry.promotion import CANDIDATE_MIOU, CHAMPION_MIOU, FORCED, PROMOTION, REFUSAL, PromotionRecord
from wsss.tracking import names
from wsss.tracking.connection import mlflow_client
from wsss.tracking.query import search

if TYPE_CHECKING:
    from mlflow.entities import Run

_MODEL = "promotion.model"


def entries(model: str) -> list[PromotionRecord]:
    """The old entries of a registered model as records, oldest first.

    An entry still running is a promotion that was cut short: whether its alias moved, the alias itself has to say.
    """
    quoted = f'"{model}"' if "'" in model else f"'{model}'"
    condition = f"tags.`{names.KIND}` = 'promotion' and tags.`{_MODEL}` = {quoted}"
    runs = sorted(search(mlflow_client(), condition), key=lambda run: (run.info.start_time, run.info.run_id))
    return [_record(run) for run in runs]


def _record(run: Run) -> PromotionRecord:
    tags, metrics = run.data.tags, run.data.metrics
    candidate, champion, why = (tags[f"promotion.{key}"] for key in ("candidate", "champion", "forced"))
    promoted = tags["promotion.promoted"] == "true" and run.info.status == "FINISHED"
    return PromotionRecord(
        model=tags[_MODEL],
        kind=REFUSAL if not promoted else FORCED if why else PROMOTION,
        candidate=candidate,
        from_=champion,
        to=candidate if promoted else champion,
        why=why or ("" if run.info.status == "FINISHED" else "cut short"),
        dataset=tags[names.DATASET],
        split=tags["promotion.split"],
        masks=tags["promotion.masks"],
        metrics={key: metrics[key] for key in (CANDIDATE_MIOU, CHAMPION_MIOU) if key in metrics},
        who=tags.get(names.MLFLOW_USER, ""),
        when=datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(),
        source=f"mlflow:{run.info.run_id}",
    )
