"""Records that are damaged, unfinished or foreign: one sentence each, and nothing of them in MLflow."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from record_examples import brought, die, edit, record
from tracking_examples import INFO

from wsss.data import Dataset
from wsss.errors import UserError
from wsss.tracking import names, query
from wsss.tracking.importing import bring_in, load_record
from wsss.tracking.packing import pack
from wsss.tracking.record import PROCESS, RUN, RUNS, RunFile
from wsss.tracking.runs import method_run
from wsss.tracking.unsent import DATABASE


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_a_run_ends_in_mlflow_as_it_ended(store, tmp_path: Path, error, status: str) -> None:
    folder = record(tmp_path / "out", ends=error)
    assert RunFile.read(folder).status == status
    time.sleep(0.01)
    assert brought(tmp_path / "out") == ["new"]
    run = query.run_of(store, folder.name)
    assert run.info.status == status
    assert run.info.start_time == RunFile.read(folder).start <= run.info.end_time < time.time_ns() // 1_000_000
    assert run.data.tags[names.PID] == str(os.getpid())
    assert (names.ERROR in run.data.tags) == (error is not None)
    stage = query.stage_runs(store, "0", run.info.run_id)["localize"]
    assert [m.value for m in store.get_metric_history(stage.info.run_id, "train/loss")] == [1.0, 1 / 2, 1 / 3]


def test_a_run_that_failed_goes_on_under_its_id_and_another_does_not(store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = record(out, ends=ValueError)
    assert brought(out) == ["new"]
    assert record(out) == first
    assert record(out) != first
    assert record(out, replace(INFO, fingerprint="0" * 64)) != first
    assert brought(out) == ["new"] * 3
    assert brought(out) == ["old"] * 3
    run = query.run_of(store, first.name)
    assert run.info.status == "FINISHED" and names.ERROR not in run.data.tags
    assert len(query.stage_runs(store, "0", run.info.run_id)) == 1


def test_a_run_whose_process_died_has_failed_at_its_last_heartbeat(store, tmp_path: Path) -> None:
    folder = record(tmp_path / "out")
    die(folder)
    edit(folder / PROCESS, process="elsewhere-1-2", heartbeat="1700000000")
    assert brought(tmp_path / "out") == ["new"]
    run = query.run_of(store, folder.name)
    assert (run.info.status, run.info.end_time) == ("FAILED", 1700000000_000)


def test_an_import_that_was_interrupted_goes_on(store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = record(tmp_path / "out")
    loaded = load_record(folder)
    for call in ("create_run", "log_batch", "log_inputs", "log_artifacts", "set_terminated"):
        done = getattr(type(store), call)

        def once(self, *arguments, done=done, **named):
            done(self, *arguments, **named)
            raise ConnectionError("gone")

        with monkeypatch.context() as patch:
            patch.setattr(type(store), call, once)
            with pytest.raises(ConnectionError):
                bring_in(store, loaded, Path("work"))
    assert brought(tmp_path / "out") == ["new"]
    assert brought(tmp_path / "out") == ["old"]
    (run,) = query.search(store, f"tags.`{names.KIND}` = 'method'")
    stages = query.stage_runs(store, "0", run.info.run_id)
    assert len(stages) == 1
    assert len(store.get_metric_history(stages["localize"].info.run_id, "train/loss")) == 3
    assert run.info.status == "FINISHED"


def cut_database(folder: Path) -> None:
    content = (folder / DATABASE).read_bytes()
    (folder / DATABASE).write_bytes(content[: len(content) // 2])


def lose_writes(folder: Path) -> None:
    with sqlite3.connect(folder / DATABASE) as database:
        database.execute("DELETE FROM writes WHERE number > 4")


def change_a_write(folder: Path, old: str, new: str) -> None:
    with sqlite3.connect(folder / DATABASE) as database:
        database.execute("UPDATE writes SET write = replace(write, ?, ?)", (old, new))


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def note(folder: Path) -> Path:
    return next(folder.glob("files/*/note.txt"))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "database cut": (cut_database, "damaged or cut off"),
    "database missing": (lambda folder: (folder / DATABASE).unlink(), "damaged or cut off"),
    "writes lost": (lose_writes, r"damaged or cut off \(4 of \d+ writes\); copy it again, whole"),
    "file missing": (lambda folder: note(folder).unlink(), r"note.txt is missing\)"),
    "file cut": (lambda folder: note(folder).write_bytes(b"a n"), r"note.txt is not what was written\)"),
    "file added": (lambda folder: (note(folder).parent / "more").write_text(""), "more is none of its files"),
    "file linked": (lambda folder: link(note(folder)), "note.txt is missing"),
    "run.json missing": (lambda folder: (folder / RUN).unlink(), "is no record of a run: it has no run.json"),
    "run.json cut": (lambda folder: (folder / RUN).write_text('{"id": '), "run.json can't be read"),
    "run.json another's": (lambda folder: edit(folder / RUN, id="../../x"), "is not what a run writes"),
    "process missing": (lambda folder: (folder / PROCESS).unlink(), "process.json can't be read"),
    "newer": (lambda f: edit(f / RUN, format=2), r"newer version \(format 2, this one knows 1\); update this one"),
    "still going": (
        lambda folder: edit(folder / RUN, status="RUNNING"),
        r"run [0-9a-f]{32} \(affinity-demo-shapes-3\) still goes on, .* import it when it has ended",
    ),
    "name that leaves": (lambda f: change_a_write(f, "note.txt", "../../../run.json"), "does not stay inside"),
    "folder that leaves": (
        lambda f: change_a_write(f, f'"folder": "{note(f).parent.name}"', '"folder": "../.."'), "does not stay inside"
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_record_that_can_not_be_trusted_is_refused(tmp_path: Path, damage: str) -> None:
    folder = record(tmp_path / "out")
    spoil, sentence = DAMAGES[damage]
    spoil(folder)
    with pytest.raises(UserError, match=sentence) as refusal:
        load_record(folder)
    assert "\n" not in str(refusal.value)


def test_what_is_wrong_with_one_record_keeps_none_of_the_others(store, tmp_path: Path) -> None:
    folder = record(tmp_path / "out")
    other = record(tmp_path / "out", replace(INFO, fingerprint="0" * 64))
    note(folder).write_bytes(b"a n")
    results = brought(tmp_path / "out")
    assert "new" in results and len(results) == 2
    assert [run.tags[names.RUN_ID] for run in query.runs(finished=False)] == [other.name]


def test_a_record_of_other_data_than_is_here_is_refused(store, tiny_shapes: Dataset, tmp_path: Path) -> None:
    folder = record(tmp_path / "out")
    shutil.copytree(tiny_shapes.root, tmp_path / "data/shapes")
    (problem,) = brought(tmp_path / "out")
    assert problem.startswith(
        f"run {folder.name} (affinity-demo-shapes-3) is of a dataset shapes with digest dddddddddddd"
    )
    assert tiny_shapes.digest[:12] in problem and problem.endswith("or import in another folder")
    assert query.runs(finished=False) == []


def test_what_is_no_record_is_said(store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError, match="empty holds no record of a run; name the folder of `.*wsss run --offline OUT`, or its packs"
    ):
        brought(tmp_path / "empty")
    with pytest.raises(UserError, match=r"empty holds no record of a run"):
        pack(tmp_path / "empty", tmp_path / "to", 1 << 20, 2)


def test_a_record_that_can_not_be_written_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_, **__):
        raise sqlite3.OperationalError("database or disk is full")

    with (
        pytest.raises(UserError, match="the disk that holds .* is full"),
        method_run(INFO, offline=tmp_path / "out") as run,
        monkeypatch.context() as patch,
    ):
        patch.setattr(sqlite3, "connect", full)
        run.metrics({"x": 1.0})
    assert RunFile.read(tmp_path / "out" / RUNS / run.id).status == "FAILED"
