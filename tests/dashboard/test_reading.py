"""Runs are read once, then what changed of them; the store may go away and come back."""

import time
from math import nan

import pytest
from dashboard_examples import until
from tracking_examples import INFO

from benchmarks.dashboard_store import write_runs
from wsss.dashboard import reading as dashboard_reading
from wsss.dashboard.reading import Reading
from wsss.errors import UserError
from wsss.scores import metric_names
from wsss.tracking import listing, names, query
from wsss.tracking.runs import method_run

MIOU = metric_names.metric("val", "pred_crf", metric_names.MIOU)


def run_of(client, end="FINISHED", tags=None, **metrics):
    """A run with the tags that every run of a method has."""
    told = {
        names.KIND: names.METHOD_RUN, names.METHOD: "cam", names.PRESET: "demo", names.DATASET: "shapes",
        names.RNG: "0", names.GROUP: "g", names.SUPERVISION: "",
    }  # fmt: skip
    run = client.create_run("0", tags=told | (tags or {})).info.run_id
    for key, value in metrics.items():
        client.log_metric(run, metric_names.metric("val", key, metric_names.MIOU), value)
    if end:
        client.set_terminated(run, end)
    return run


@pytest.fixture
def reading(store):
    it = Reading(every=0.1)
    yield it
    it.close()


def read_whole(reading):
    until(lambda: bool(reading.listing().whole))
    return {run.id: run for run in reading.runs()}


def test_of_a_real_run_it_keeps_miou_times_and_memory_and_the_params_whole(store):
    with method_run(INFO) as run:
        run.metrics({MIOU: 0.5, "val/pred_crf/iou/cat": 0.5, "time/segment.train_s": 3.0}, 0)
    (page,) = listing.pages()
    assert page[run.id].metrics == {MIOU: 0.5, "time/segment.train_s": 3.0}
    assert page[run.id].params == query.find_run(run.id).params and page[run.id].params


def test_runs_of_an_older_schema_are_left_out_and_asking_for_one_is_a_sentence(store, reading):
    old = run_of(store, tags={names.RNG: "none"})
    new = run_of(store, pred_crf=0.5)
    assert list(read_whole(reading)) == [new]
    assert [run.id for run in query.runs()] == [new]
    with pytest.raises(UserError, match="an older version made it"):
        query.find_run(old)


def test_what_begins_ends_and_is_deleted_is_seen(store, reading):
    first = run_of(store, pred_crf=0.5)
    assert list(read_whole(reading)) == [first]
    second = run_of(store, end=None)
    until(lambda: {run.id: run.status for run in reading.runs()} == {first: "FINISHED", second: "RUNNING"})
    store.log_metric(second, MIOU, 0.7)
    store.set_terminated(second, end_time=1000)  # by a clock that stands still
    until(
        lambda: [(run.status, run.metrics) for run in reading.runs() if run.id == second] == [("FINISHED", {MIOU: 0.7})]
    )
    store.delete_run(first)
    until(lambda: [run.id for run in reading.runs()] == [second])
    long_ago = store.create_run("0", start_time=1000, tags=store.get_run(second).data.tags).info.run_id
    until(lambda: [run.id for run in reading.runs()] == [second, long_ago])


def test_a_heartbeat_is_no_news(store, reading):
    run = run_of(store, end=None)
    read_whole(reading)
    version = reading.version
    store.set_tag(run, names.HEARTBEAT, "5")
    time.sleep(0.4)
    assert reading.version == version


def test_a_store_that_goes_away_is_a_sentence_and_the_runs_stay(store, reading, tmp_path):
    run = run_of(store, pred_crf=0.5)
    read_whole(reading)
    (tmp_path / "mlflow.db").rename(tmp_path / "elsewhere.db")
    until(lambda: "is gone; bring it back. What stands here was read before." in reading.said)
    assert [run.id for run in reading.runs()] == [run] and not (tmp_path / "mlflow.db").exists()
    (tmp_path / "elsewhere.db").rename(tmp_path / "mlflow.db")
    until(lambda: not reading.said)


def test_a_server_that_never_answered_is_an_error_until_it_does(store, tmp_path, monkeypatch):
    run = run_of(store, pred_crf=0.5)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    reading = Reading(every=0.1)
    with pytest.raises(UserError, match="does not answer"):
        reading.runs()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    until(lambda: not reading.said)
    assert [run.id for run in reading.runs()] == [run]
    reading.close()


def test_where_there_is_no_store_there_are_no_runs_and_none_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    reading = Reading()
    assert reading.runs() == [] and not list(tmp_path.iterdir())
    reading.close()


def test_ten_thousand_runs_come_into_memory_and_are_told_meanwhile(store, tmp_path, monkeypatch):
    monkeypatch.setattr(dashboard_reading, "FIRST_S", 0)
    write_runs(tmp_path / "mlflow.db", 10_000, 12)
    reading, seen = Reading(every=60), set()
    while not reading.listing().whole:
        seen.add(reading.said)
        time.sleep(0.02)
    assert len(reading.runs()) == 10_000 and len(reading.table()) == 3334
    assert any(said.startswith("reading runs: ") for said in seen)
    reading.close()


def test_the_number_of_runs_is_told_without_reading_them(store, tmp_path, monkeypatch):
    assert listing.are(0)
    write_runs(tmp_path / "mlflow.db", 7, 10)
    assert [count for count in range(12) if listing.are(count)] == [7]
    monkeypatch.setattr(listing, "_database", lambda: "")
    assert [count for count in range(12) if listing.are(count)] == [7]


def test_a_server_is_asked_for_what_a_database_has_in_its_tables(store, monkeypatch):
    run_of(store, pred_crf=0.5, pred=nan)
    going, old = run_of(store, end=None), run_of(store, tags={names.GROUP: "h"}, cam=0.25)
    store.delete_run(run_of(store))
    now = time.time()
    by_tables = list(listing.pages()), listing.changed(now - 60, []), listing.changed(now + 60, [old])
    monkeypatch.setattr(listing, "_database", lambda: "")
    assert by_tables == (list(listing.pages()), listing.changed(now - 60, []), listing.changed(now + 60, [old]))
    assert len(by_tables[0][0]) == len(by_tables[1]) == 3 and set(by_tables[2]) == {going, old}
