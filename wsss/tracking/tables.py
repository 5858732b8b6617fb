"""The methods' runs of a database, read from its tables and nothing else done to it.

MLflow's own client makes an object of each of a million metrics first, and makes a database anew where it is gone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from wsss.scores import metric_names
from wsss.tracking import names
from wsss.tracking.beside import database
from wsss.tracking.query import PAGE, RunRecord, is_whole

if TYPE_CHECKING:
    from sqlalchemy import Connection, Select

_KEPT = (f"%/{metric_names.MIOU}", f"{metric_names.TIME}%", f"{metric_names.MEMORY}%")
_WAIT_S = 20
"""For who writes into a SQLite file."""


def pages(uri: str) -> Iterator[dict[str, RunRecord | None]]:
    """The methods' runs by id, the newest first, a page at a time; None for one of an older schema.

    Their metrics are mIoU, times and memory.

    Args:
        uri: of the tracking store, a database.
    """
    with _connected(uri) as connection:
        yield from _records(connection, _runs())


def changed(uri: str, since_ms: int, running: Sequence[str]) -> dict[str, RunRecord | None]:
    """Those of the runs that began or ended since, that are going, or that were when they were last read."""
    import sqlalchemy
    from mlflow.store.tracking.dbmodels.models import SqlRun

    run: Any = SqlRun
    news = sqlalchemy.or_(
        run.start_time > since_ms, run.end_time > since_ms, run.status == "RUNNING", run.run_uuid.in_(running)
    )
    with _connected(uri) as connection:
        return {run: record for page in _records(connection, _runs().where(news)) for run, record in page.items()}


def count(uri: str) -> int:
    """How many runs of methods there are."""
    import sqlalchemy

    with _connected(uri) as connection:
        counted = sqlalchemy.select(sqlalchemy.func.count()).select_from(_runs().order_by(None).subquery())
        return int(connection.execute(counted).scalar_one())


@contextmanager
def _connected(uri: str) -> Iterator[Connection]:
    """A connection that changes nothing, and makes no SQLite file."""
    import sqlalchemy

    file = database(uri)
    if file is None:
        engine = sqlalchemy.create_engine(uri)
    else:
        address = f"file:{quote(str(file))}?mode=ro"
        engine = sqlalchemy.create_engine("sqlite://", creator=lambda: sqlite3.connect(address, _WAIT_S, uri=True))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _runs() -> Select[Any]:
    """Id, status and start of the methods' runs, the newest first."""
    import sqlalchemy
    from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlRun, SqlTag

    runs: Any = (
        sqlalchemy.select(SqlRun.run_uuid, SqlRun.status, SqlRun.start_time)
        .join(SqlExperiment, SqlExperiment.experiment_id == SqlRun.experiment_id)
        .join(SqlTag, SqlTag.run_uuid == SqlRun.run_uuid)
        .where(SqlTag.key == names.KIND, SqlTag.value == names.METHOD_RUN)
        .where(SqlRun.lifecycle_stage == "active", SqlExperiment.lifecycle_stage == "active")
        .order_by(SqlRun.start_time.desc(), SqlRun.run_uuid)
    )
    return runs


def _records(connection: Connection, runs: Select[Any]) -> Iterator[dict[str, RunRecord | None]]:
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlParam, SqlTag

    every = connection.execute(runs).all()
    for begin in range(0, len(every), PAGE):
        page = every[begin : begin + PAGE]
        ids = [run for run, _, _ in page]
        tags, params, metrics = (_named(connection, table, ids) for table in (SqlTag, SqlParam, SqlLatestMetric))
        yield {
            run: RunRecord.made(run, status, start, tags[run], params[run], metrics[run])
            if is_whole(tags[run])
            else None
            for run, status, start in page
        }


def _named(connection: Connection, table: Any, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Tags, params or metrics of runs, by run and name."""
    import sqlalchemy

    rows = sqlalchemy.select(table.run_uuid, table.key, table.value).where(table.run_uuid.in_(ids))
    if table.__tablename__ == "latest_metrics":
        kept = sqlalchemy.or_(*(table.key.like(pattern) for pattern in _KEPT))
        rows = rows.where(kept, table.is_nan.is_(False))
    named: dict[str, dict[str, Any]] = {run: {} for run in ids}
    for run, name, value in connection.execute(rows):
        named[run][name] = value
    return named
