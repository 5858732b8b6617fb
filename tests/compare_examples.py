"""Runs as MLflow's records say them, for the tables of `wsss compare` and of the leaderboard."""

from datetime import UTC, datetime, timedelta

from wsss.tracking import names
from wsss.tracking.query import RunRecord

START = datetime(2026, 1, 1, tzinfo=UTC)


def record(id, rng=0, group="g", method="affinity", minutes=0, tags=None, supervision=(), **metrics):
    return RunRecord(
        id=id,
        status="FINISHED",
        method=method,
        preset="demo",
        dataset="shapes",
        rng=rng,
        group=group,
        supervision=frozenset(supervision),
        start=START + timedelta(minutes=minutes),
        tags={names.BACKBONE: "tiny", **(tags or {})},
        params={},
        metrics={f"{key.replace('__', '/')}/miou": value for key, value in metrics.items()},
    )
