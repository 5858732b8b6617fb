"""All methods' runs at a glance, and what of them changed since: for whoever keeps them in memory.

Of a run's metrics only what tables of runs need is kept, and equal texts stand in memory once: 10,000 runs with 500
metrics each would be gigabytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from math import isnan
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from wsss.errors import UserError
from wsss.scores import metric_names
from wsss.tracking import names, tables
from wsss.tracking.beside import database
from wsss.tracking.connection import mlflow_client, tracking_uri
from wsss.tracking.query import PAGE, RunRecord, experiments, is_whole, search

if TYPE_CHECKING:
    from mlflow.entities import Run

_METHOD_RUNS = f"tags.`{names.KIND}` = '{names.METHOD_RUN}'"
_LONGEST_TAG = 1000
"""Characters; longer tags are MLflow's own notes, such as the history of a model."""


def is_there() -> bool:
    """Whether there is a store to read: a database's file is made by who writes runs, not by who looks.

    Raises:
        UserError: it is a folder of files, which MLflow reads no more.
    """
    file = database(tracking_uri())
    return file is None or file.exists()


def pages() -> Iterator[dict[str, RunRecord | None]]:
    """The methods' runs by id, the newest first, a page of `PAGE` at a time; None for one of an older schema.

    Raises:
        UserError: the tracking store can't be used.
    """
    if uri := _database():
        yield from map(_all_light, tables.pages(uri))
        return
    client = mlflow_client()
    ids, order = experiments(client), ["attributes.start_time DESC"]
    token = None
    while ids:
        page = client.search_runs(ids, _METHOD_RUNS, max_results=PAGE, order_by=order, page_token=token)
        yield _of(page)
        token = page.token
        if not token:
            return


def changed(since: float, running: Iterable[str]) -> dict[str, RunRecord | None]:
    """The methods' runs that began or ended, those that are going, and what became of others that were.

    Args:
        since: seconds since 1970.
        running: ids of the runs that were going when they were last read.

    Raises:
        UserError: the tracking store can't be used.
    """
    when, before = int(1000 * since), list(running)
    if uri := _database():
        return _all_light(tables.changed(uri, when, before))
    client = mlflow_client()
    conditions = [f"attributes.start_time > {when}", f"attributes.end_time > {when}", "attributes.status = 'RUNNING'"]
    records: dict[str, RunRecord | None] = {}
    for condition in conditions:
        records |= _of(search(client, f"{_METHOD_RUNS} and {condition}"))
    if over := [run_id for run_id in before if run_id not in records]:
        listed = ", ".join(f"'{run_id}'" for run_id in over)
        records |= _of(search(client, f"{_METHOD_RUNS} and attributes.run_id IN ({listed})"))
    return records


def are(count: int) -> bool:
    """Whether there are so many runs of methods; a server tells by the place of the last one, and that alone is read.

    Raises:
        UserError: the tracking store can't be used.
    """
    if uri := _database():
        return tables.count(uri) == count
    from mlflow.utils.search_utils import SearchUtils

    client = mlflow_client()
    ids = experiments(client)
    last = SearchUtils.create_page_token(count - 1) if count > 1 else None
    if not ids:
        return count == 0
    page = client.search_runs(ids, _METHOD_RUNS, max_results=1, page_token=last)
    return len(page) == min(count, 1) and not page.token


def _database() -> str:
    """The address of a store that is a database and is there; empty for that of a server."""
    uri = tracking_uri()
    if not is_there():
        raise UserError(f"the tracking store {database(uri)} is gone; bring it back")
    return "" if urlsplit(uri).scheme in ("http", "https") else uri


def _of(runs: Iterable[Run]) -> dict[str, RunRecord | None]:
    return _all_light({run.info.run_id: RunRecord.of(run) if is_whole(run.data.tags) else None for run in runs})


def _all_light(records: Mapping[str, RunRecord | None]) -> dict[str, RunRecord | None]:
    return {run_id: record and light(record) for run_id, record in records.items()}


def light(record: RunRecord) -> RunRecord:
    """A run with those of its metrics that tables need: mIoU, times and memory."""
    tags = {key: value for key, value in record.tags.items() if len(value) <= _LONGEST_TAG}
    metrics = {sys.intern(key): value for key, value in record.metrics.items() if _is_kept(key) and not isnan(value)}
    shared = {name: sys.intern(getattr(record, name)) for name in ("method", "preset", "dataset", "status", "group")}
    return replace(record, tags=_interned(tags), params=_interned(record.params), metrics=metrics, **shared)  # type: ignore[arg-type]


def _is_kept(key: str) -> bool:
    return key.endswith(f"/{metric_names.MIOU}") or key.startswith((metric_names.TIME, metric_names.MEMORY))


def _interned(texts: Mapping[str, str]) -> dict[str, str]:
    return {sys.intern(key): sys.intern(value) for key, value in texts.items()}
