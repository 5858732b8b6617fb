"""The results page: made from logged matrices, intervals beside every mean."""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, Workspace
from typer.testing import CliRunner

from wsss import methods
from wsss.cli import app
from wsss.data import Dataset, open_dataset
from wsss.data.layout import MASKS
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.labels.exchange import pull_labels
from wsss.run.method import group_of
from wsss.run.plan import make_plan
from wsss.scores import Evaluation, levels_of
from wsss.tables.measure import measure
from wsss.tables.percent import percent
from wsss.tables.results import _Row, results_of
from wsss.tables.rows import entries
from wsss.tracking.query import RunRecord, find_run, runs


@pytest.fixture
def inside(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(workspace.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return workspace


def shown(workspace: Workspace) -> RunRecord:
    """The run that a table shows for the workspace's: the newest whole one of its settings; other tests make more."""
    its = find_run(workspace.run_id)
    alike = [run for run in runs(its.dataset) if run.group == its.group and "val/pred_crf/miou" in run.metrics]
    return max(alike, key=lambda run: run.start)


def test_a_method_has_one_row_with_an_interval_for_every_figure(inside: Workspace) -> None:
    dataset = open_dataset("shapes")
    page = results_of(dataset, "demo", ["background", dataset.classes.names[0]]).markdown()
    run = shown(inside)
    rows = [line for line in page.splitlines() if line.startswith("| affinity ")]
    for figure in ("train/cam", "train/labels_crf", "val/pred_crf"):
        assert f"| {100 * run.metrics[f'{figure}/miou']:.1f} [" in rows[0]
    assert rows[0].count("[") == rows[1].count("[") == 7
    assert "localize.train.epochs=6" in rows[0]
    assert f"train {len(dataset.splits['train'])} (ids `" in page
    assert "refine.walk" in rows[3]
    seconds = sum(value for name, value in run.metrics.items() if name.startswith("time/"))
    assert f"| {seconds:.0f} |" in rows[2]
    assert f"`{run.id[:8]}`" in rows[2]


def test_over_several_rngs_the_mean_its_deviation_and_the_interval_of_the_summed_matrices(inside: Workspace) -> None:
    right, wrong = np.array([[3, 0], [0, 1]]), np.array([[3, 0], [1, 0]])
    rngs = [np.array([right, right]), np.array([right, wrong])]
    # IoU of the second: background 6 / 7, the class 1 / 2; mean 67.9 %. The first is all right.
    assert str(percent(rngs, None)).startswith("83.9 ± 22.7 [")
    assert str(percent(rngs, [1])).startswith("75.0 ± 35.4 [")
    assert str(percent(rngs[:1], None)) == "100.0 [100.0, 100.0]"


def test_cam_comes_first_and_bound_last_and_a_row_may_have_its_own_settings() -> None:
    rows = entries(["bound", "affinity", "cam"], ["affinity refine.walk.beta=2 refine.walk.steps=8"])
    assert [row.method for row in rows] == ["cam", "affinity", "affinity", "bound"]
    assert rows[2].overrides == {"refine.walk.beta": "2", "refine.walk.steps": "8"}
    assert [row.method for row in entries(["all"], [])] == sorted(
        set(methods.names()) - {"imported"}, key=lambda name: ((name == "bound") - (name == "cam"), name)
    )
    with pytest.raises(UserError, match="is not METHOD KEY=VALUE"):
        entries([], ["affinity beta"])
    for text in ("", " ", "beta=1"):
        with pytest.raises(UserError, match=f"{text!r} is not METHOD KEY=VALUE"):
            entries([], [text])


def test_what_is_finished_is_not_run_again(inside: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = open_dataset("shapes")
    measure(dataset, "demo", [0], entries(["affinity"], []), SMALL)
    assert capsys.readouterr().out == ""


def test_what_is_not_there_is_named(inside: Workspace) -> None:
    dataset = open_dataset("shapes")
    with pytest.raises(UserError, match="no finished run with preset paper on shapes"):
        results_of(dataset, "paper", []).markdown()
    with pytest.raises(UserError, match="unknown class 'dog'"):
        results_of(dataset, "demo", ["dog"]).markdown()


def test_what_is_read_back_leaves_no_copy(inside: Workspace, remote_artifacts: list[str], tmp_path: Path) -> None:
    results_of(open_dataset("shapes"), "demo", []).markdown()
    pull_labels(inside.run_id, tmp_path / "labels")
    assert "dvc/labels.json" in remote_artifacts
    assert not [path for path in Path(tempfile.gettempdir()).iterdir() if path.is_dir()]


def test_what_an_older_version_of_a_step_made_is_another_row(tiny_shapes: Dataset) -> None:
    plan = make_plan("cam", "demo")
    *before, last = plan.steps
    newer = replace(plan, steps=(*before, replace(last, step=replace(last.step, version=last.step.version + 1))))
    assert group_of(plan, tiny_shapes) == group_of(make_plan("cam", "demo"), tiny_shapes)
    assert group_of(plan, tiny_shapes) != group_of(newer, tiny_shapes)


def test_a_group_hangs_on_the_content_of_files_and_not_on_their_names(tiny_shapes: Dataset, tmp_path: Path) -> None:
    def group(path: Path) -> str:
        return group_of(make_plan("cam", "demo", {"localize.train.weights": str(path)}), tiny_shapes)

    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"first")
    first = group(weights)
    assert group(weights.rename(tmp_path / "moved.safetensors")) == first
    weights.write_bytes(b"second")
    assert group(weights) != first


def test_a_group_hangs_on_the_content_of_a_folder(tiny_shapes: Dataset, tmp_path: Path) -> None:
    def group(path: Path) -> str:
        return group_of(make_plan("imported", "demo", {"refine.read.folder": str(path)}), tiny_shapes)

    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"first")
    first = group(folder)
    moved = folder.rename(tmp_path / "moved")
    assert group(moved) == first
    (moved / "a.png").write_bytes(b"second")
    assert group(moved) != first


def test_a_group_hangs_on_the_content_of_extra_images_and_of_masks(tiny_shapes: Dataset, tmp_path: Path) -> None:
    def group(extra: Path, dataset: Dataset = tiny_shapes) -> str:
        return group_of(make_plan("mcis", "demo", {"localize.train.extra": str(extra)}), dataset)

    shutil.copytree(tiny_shapes.root, tmp_path / "one/extra")
    shutil.copytree(tiny_shapes.root, tmp_path / "two/another")
    make_shapes(tmp_path / "three/extra", images=12, val_images=4, size=64, classes=3, rng=1)
    first = group(tmp_path / "one/extra")
    assert group(tmp_path / "two/another") == first
    assert group(tmp_path / "three/extra") != first

    shutil.rmtree(tmp_path / "two/another" / MASKS)
    assert group(tmp_path / "one/extra", open_dataset(tmp_path / "two/another")) != first


@pytest.mark.parametrize("width", [80, 200])
def test_in_a_terminal_it_is_a_table_that_fits(inside: Workspace, width: int) -> None:
    dataset = open_dataset("shapes")
    text = results_of(dataset, "demo", ["background", dataset.classes.names[0]]).text(width=width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text and "| ---" not in text
    run = shown(inside)
    score = run.metrics["val/pred_crf/miou"]
    assert (f"{100 * score:.1f}" in text and "labels_crf" in text and run.id[:8] in text) or width == 80
    assert "localize.train.epochs" in text.replace("\n", "")


def test_csv_has_a_line_for_each_figure_and_set_of_classes(inside: Workspace) -> None:
    dataset = open_dataset("shapes")
    page = results_of(dataset, "demo", [dataset.classes.names[0]])
    lines = list(csv.DictReader(io.StringIO(page.csv())))
    assert {line["classes"] for line in lines} == {"all 4 classes", dataset.classes.names[0]}
    for line in [line for line in lines if line["classes"].startswith("all")]:
        run = find_run(line["runs"])
        key = f"{line['split']}/{line['what']}/miou"
        assert float(line["miou"]) == pytest.approx(run.metrics[key], abs=1e-5)
        assert float(line["low"]) <= float(line["miou"]) <= float(line["high"]) and line["deviation"] == ""
        assert line["runs"] == run.id


def test_the_command_prints_a_table_and_writes_a_page(inside: Workspace, tmp_path: Path) -> None:
    words = ["results", "--data", "shapes", "--preset", "demo"]
    shown = CliRunner().invoke(app, words).output
    assert "affinity" in shown and "| ---" not in shown
    assert CliRunner().invoke(app, [*words, "--to", str(tmp_path / "page.md")]).exit_code == 0
    assert (tmp_path / "page.md").read_text() == results_of(open_dataset("shapes"), "demo", []).markdown() + "\n"


def test_a_mean_over_some_classes_has_the_threshold_that_is_its_best_on_dev() -> None:
    """Class 1 wants a high threshold and class 2 a low one: over class 2 alone, the one of all classes is not used."""
    mask = np.array([[0, 0, 0, 1, 1, 2]], np.uint8)
    best = np.array([[1, 1, 1, 1, 1, 2]], np.uint8)
    score = np.array([[0.55, 0.5, 0.45, 0.9, 0.8, 0.3]])
    levels = np.insert(levels_of(mask, best, score, 2), 0, 0, axis=1)
    empty = np.zeros((1, 3, 3), np.int32)
    dev, train = (
        Evaluation(split, "cam", ("a",), ("background", "x", "y"), empty, levels=levels) for split in ("dev", "train")
    )
    at_all = train.at(dev.best_threshold()).matrices
    figure = ("train", "cam")
    row = _Row("cam", [], {figure: [at_all]}, {figure: ()}, [(dev, train)])
    assert row.percent(figure, None).mean == pytest.approx(100 * train.at(dev.best_threshold()).scores.miou)
    assert at_all[0, 2, 2] == 0  # at the threshold of all classes, class 2 is lost
    assert row.percent(figure, [2]).mean == 100
    without = _Row("cam", [], {figure: [at_all]}, {figure: ()}, [])
    assert without.percent(figure, [2]).mean == 0
