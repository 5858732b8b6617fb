"""What could not be sent to MLflow: kept in order, sent by the next command, never in anyone's way."""

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from tracking_examples import INFO

from wsss.tracking import outbox, query
from wsss.tracking.outbox import Outbox
from wsss.tracking.runs import method_run
from wsss.tracking.writes import Write, batch

SPOOL = Path("work/tracking-spool")


@pytest.fixture
def run(store):
    """The id of a finished run."""
    with method_run(INFO) as run:
        pass
    return run.id


@pytest.fixture
def away(store, monkeypatch):
    """Makes the server answer no more (True), and again (False)."""
    monkeypatch.setattr(outbox, "SEND_EVERY_S", 0.05)
    monkeypatch.setattr(outbox, "RETRY_EVERY_S", 0.05)

    def no_answer(*_, **__):
        raise ConnectionError("http://me:geheim@there does not answer")

    with pytest.MonkeyPatch.context() as patch:

        def set_away(is_away):
            patch.undo()
            for call in ("log_batch", "log_artifacts", "create_run") if is_away else ():
                patch.setattr(type(store), call, no_answer)

        yield set_away


def next_command():
    with method_run(replace(INFO, fingerprint="2" * 64)):
        pass


def kept(folder):
    """The writes that wait in a folder."""
    with sqlite3.connect(folder / "unsent.db") as database:
        return [json.loads(text) for (text,) in database.execute("SELECT write FROM writes ORDER BY number")]


def test_a_torn_line_of_an_earlier_version_costs_that_line_alone(store, run):
    """A torn line in the middle, from a full disk or two writers, and a torn last one, from a killed process."""
    folder = SPOOL / run
    folder.mkdir(parents=True)
    good = [batch(run, [("before", 1.0, 1, 0)]), batch(run, [("after", 2.0, 1, 0)])]
    lines = [good[0].to_json(), '{"kind": "batch", "run": "' + run, "[1, 2]", good[1].to_json(), '{"kind": "torn']
    (folder / "writes.jsonl").write_text("\n".join(lines))
    next_command()
    assert store.get_run(run).data.metrics == {"before": 1.0, "after": 2.0}
    assert not (folder / "writes.jsonl").exists()
    with sqlite3.connect(folder / "unsent.db") as database:
        assert [text for (text,) in database.execute("SELECT write FROM refused")] == lines[1:3]
    assert kept(folder) == []


def test_what_an_earlier_version_had_sent_is_not_sent_again(store, run):
    folder = SPOOL / run
    folder.mkdir(parents=True)
    stage = store.create_run("0").info.run_id
    writes = [
        Write("start", "new", {"experiment": "0", "stage": "refine", "user": "me", "time": 1}),
        batch("new", [("train/loss", 0.5, 2, 7)]),
    ]
    (folder / "writes.jsonl").write_text("".join(write.to_json() + "\n" for write in writes))
    (folder / "sent.json").write_text(json.dumps({"sent": 1, "ids": {"new": stage}}))
    next_command()
    assert query.stage_runs(store, "0", run) == {}
    assert store.get_run(stage).data.metrics == {"train/loss": 0.5}
    assert not folder.exists()


def test_a_damaged_file_is_put_aside_and_tracking_goes_on(store, run, caplog):
    folder = SPOOL / run
    folder.mkdir(parents=True)
    (folder / "unsent.db").write_bytes(b"this is not a database, it is a sentence" * 40)
    next_command()
    assert "is damaged" in caplog.text and "goes on" in caplog.text
    assert [path.read_bytes()[:7] for path in folder.glob("damaged-*")] == [b"this is"]
    caplog.clear()
    next_command()
    assert not caplog.records


def test_what_is_damaged_while_the_run_goes_on_costs_no_later_write(store, run, away):
    box = Outbox(store, SPOOL / run, run)
    away(True)
    box.put(batch(run, [("first", 1.0, 1, 0)]))
    box.flush()
    (SPOOL / run / "unsent.db").write_bytes(b"x" * 5000)
    box.put(batch(run, [("second", 2.0, 1, 0)]))
    box.flush()
    away(False)
    box.close()
    assert store.get_run(run).data.metrics == {"second": 2.0}


def test_what_a_stage_wrote_before_its_process_was_killed_reaches_it(store, run, away, caplog, monkeypatch):
    """The stage's run was made while the server answered; what came later waits under the run's own id."""
    monkeypatch.setattr(outbox, "RETRY_EVERY_S", 1000)
    box = Outbox(store, SPOOL / run, run)
    box.put(Write("start", "new", {"experiment": "0", "stage": "refine", "user": "me", "time": 1}))
    box.flush()
    away(True)
    box.put(batch("new", [("train/loss", 0.5, 2, 7)]))
    box.flush()
    assert len(kept(SPOOL / run)) == 1
    assert "geheim" not in caplog.text and "does not answer" in caplog.text
    box._lock.release()
    away(False)
    next_command()
    assert query.stage_runs(store, "0", run)["refine"].data.metrics == {"train/loss": 0.5}
    assert not (SPOOL / run).exists()


def test_a_write_that_nobody_understands_holds_up_no_other(store, run, caplog):
    box = Outbox(store, SPOOL / run, run)
    box.put(Write("song", run, {}))
    box.put(Write("status", run, {}))
    box.put(batch(run, [("x", 1.0, 1, 0)]))
    box.flush()
    box.close()
    assert store.get_run(run).data.metrics == {"x": 1.0}
    assert caplog.text.count("refuses") == 2


def test_what_a_killed_process_left_half_made_is_cleared_away(store, run):
    (SPOOL / run / "files/box").mkdir(parents=True)
    (SPOOL / run / "files/box/half.txt").write_text("never announced")
    next_command()
    assert not (SPOOL / run).exists()


def test_a_disk_without_room_loses_the_write_and_not_the_run(store, run, away, caplog):
    box = Outbox(store, SPOOL / run, run)
    away(True)

    def full(*_, **__):
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", full)
        box.put(batch(run, [("x", 1.0, 1, 0)]))
        box.flush()
    away(False)
    box.put(batch(run, [("y", 1.0, 1, 0)]))
    box.close()
    assert "is lost" in caplog.text
    assert store.get_run(run).data.metrics == {"y": 1.0}
