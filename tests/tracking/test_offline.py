"""A run where neither MLflow nor DVC nor Ray is: killed, continued, packed, and brought in as if it had been here."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from records import SETTINGS, bare

from wsss.cli import main
from wsss.data import Dataset
from wsss.git import VERSION
from wsss.labels.exchange import export_labels
from wsss.registry.models import model_of_run, publish, supervision_of_run
from wsss.run.method import run_method
from wsss.scores.evaluation import decode
from wsss.tracking import names, query
from wsss.tracking.artifacts import read_artifact
from wsss.tracking.record import RUNS

RUN = ("run", "--method", "cam", *(part for pair in SETTINGS.items() for part in ("--set", "=".join(pair))))

OF_THE_MACHINE = {
    names.COMMAND,
    names.GIT_COMMIT,
    names.GIT_DIRTY,
    names.PID,
    names.PROCESS,
    names.HEARTBEAT,
    names.RUN_ID,
    names.IMPORTED,
    names.DATA_MD5,
    names.MLFLOW_SOURCE_NAME,
    names.MLFLOW_SOURCE_COMMIT,
}
"""Tags in which a run on another machine differs."""


def killed(root: Path, when: Callable[[], bool]) -> None:
    """Begin the run and kill its process at a moment."""
    process = bare(root, *RUN, "--offline", "out")
    deadline = time.monotonic() + 60
    while not when():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()


def has_trained(root: Path) -> bool:
    """Whether an epoch of the localizer is in the record."""
    for path in root.glob("out/runs/*/unsent.db"):
        with sqlite3.connect(path) as database:
            query = "SELECT 1 FROM sqlite_master WHERE name = 'writes'"
            if database.execute(query).fetchone():
                return bool(database.execute("SELECT 1 FROM writes WHERE write LIKE '%train/loss%'").fetchone())
    return False


@pytest.fixture(scope="module")
def root(tiny_shapes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the record `out` of a run that was killed twice."""
    root = tmp_path_factory.mktemp("node")
    shutil.copytree(tiny_shapes.root, root / "data" / "shapes")
    killed(root, lambda: has_trained(root))
    killed(root, lambda: any(root.glob("work/scratch/segment.deeplab.train/*/checkpoint.pt")))
    process = bare(root, *RUN, "--offline", "out")
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "wsss import out" in out
    return root


@pytest.fixture
def here(store, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Runs `wsss ARGUMENTS` in a folder that has MLflow and the same dataset; its status and what it printed."""
    (tmp_path / "data").mkdir()
    shutil.copytree(root / "data/shapes", tmp_path / "data/shapes")
    monkeypatch.delenv("WSSS_STORE", raising=False)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["wsss", *map(str, arguments)])
        with pytest.raises(SystemExit) as end, pytest.MonkeyPatch.context() as patch:
            lines: list[str] = []
            patch.setattr("typer.echo", lambda text, **_: lines.append(str(text)))
            main()
        return int(end.value.code or 0), "\n".join(lines)

    return run


def artifacts(client, run_id: str, folder: str = "") -> set[str]:
    entries = client.list_artifacts(run_id, folder)
    return {p for e in entries for p in (artifacts(client, run_id, e.path) if e.is_dir else {e.path})}


def figures(metrics: dict[str, float]) -> dict[str, float]:
    """What does not depend on how fast and how large the machine was."""
    return {
        name: value
        for name, value in metrics.items()
        if not name.startswith(("time/", "memory/", "images_per_s", "loader_wait"))
    }


def test_a_record_is_the_run_that_would_have_been_made_here(store, here, root: Path) -> None:
    (folder,) = (root / "out" / RUNS).iterdir()
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["finished"], record["title"]) == ("FINISHED", True, "cam-demo-shapes-0")
    assert here("import", root / "out") == (
        0,
        f"run {folder.name}: cam-demo-shapes-0, finished, brought in, model models:/wsss-shapes-candidates/1\n"
        "12 step outputs entered the store",
    )
    code, text = here("import", root / "out")
    assert code == 0 and "nothing new" in text and "step outputs" not in text
    assert [run.tags[names.RUN_ID] for run in query.runs()] == [folder.name]
    (imported,) = query.runs()
    reused = run_method("cam", "demo", "shapes", overrides=SETTINGS)
    assert all(step.reused for step in reused.steps.values())
    store.delete_run(reused.run_id)

    shutil.rmtree("work/store")
    online = run_method("cam", "demo", "shapes", overrides=SETTINGS, publish=publish)
    made, run = query.find_run(online.run_id), query.find_run(folder.name)
    assert run == imported
    assert figures(run.metrics) == figures(made.metrics)
    assert run.metrics.keys() == made.metrics.keys()
    assert run.params == made.params
    left = [{k: v for k, v in each.tags.items() if k not in OF_THE_MACHINE} for each in (run, made)]
    assert left[0] == left[1]
    assert run.tags[names.LABELS_MD5] == made.tags[names.LABELS_MD5]
    assert run.tags[names.VERSION] == VERSION and run.tags[names.GIT_COMMIT] == ""
    assert artifacts(store, run.id) == artifacts(store, made.id)
    for path in artifacts(store, made.id) - {names.ENVIRONMENT}:
        contents = [read_artifact(each.id, path) for each in (run, made)]
        if path.endswith(".npz"):
            records = [decode(content, path) for content in contents]
            assert (records[0].matrices == records[1].matrices).all()
            assert (records[0].ids, records[0].labels, records[0].masks) == (
                records[1].ids, records[1].labels, records[1].masks
            )  # fmt: skip
        elif path == names.LINEAGE:  # a record has no hashes of images; they are found by the data's digest
            (brought,), (own,) = map(json.loads, contents)
            assert brought["digest"] == own["digest"] and brought["images"].keys() == own["images"].keys()
        else:
            assert contents[0] == contents[1], path
    stages = [query.stage_runs(store, "0", each.id) for each in (run, made)]
    assert stages[0].keys() == stages[1].keys() == {"localize", "refine", "segment"}
    for name, stage in stages[0].items():
        other = stages[1][name]
        assert stage.info.status == other.info.status == "FINISHED"
        assert figures(stage.data.metrics) == figures(other.data.metrics)
        for metric in figures(stage.data.metrics):
            history = [store.get_metric_history(each.info.run_id, metric) for each in (stage, other)]
            assert len({frozenset((m.step, m.value) for m in each) for each in history}) == 1, metric
        assert record["start"] <= stage.info.start_time <= stage.info.end_time
    assert store.get_run(run.id).info.start_time == record["start"]


def test_a_pack_is_read_like_the_folder_under_the_same_id(store, here, root: Path, tmp_path: Path) -> None:
    (folder,) = (root / "out" / RUNS).iterdir()
    process = bare(root, "pack", "out", "--limit", "400kB", "--files", "4", "--to", str(tmp_path / "pack"))
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    archives = sorted((tmp_path / "pack").iterdir())
    assert 2 <= len(archives) <= 4 and all(path.stat().st_size <= 400_000 for path in archives)
    assert "left out" in out and "/model/model.safetensors" in out and "confusion" not in out and "panels" not in out
    code, text = here("import", tmp_path / "pack")
    assert code == 0 and "brought in, 1 files were left out" in text
    assert "nothing new" in here("import", *archives)[1]
    run = query.find_run(folder.name)
    assert query.evaluation(run, "val", "pred_crf").scores.miou == run.metrics["val/pred_crf/miou"]
    assert supervision_of_run(folder.name) == frozenset()

    # The folder itself brings what was left out, to the same run.
    code, text = here("import", root / "out")
    assert code == 0 and "brought in, model models:/wsss-shapes-candidates/1" in text
    assert [each.id for each in query.runs()] == [run.id]
    assert model_of_run(folder.name) == model_of_run(run.id)
    assert export_labels(folder.name, tmp_path / "labels") == 36


def test_what_is_not_installed_is_said(root: Path) -> None:
    process = bare(root, "compare")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert errors.startswith("wsss: this needs mlflow, which is not installed here; what works without is `")
