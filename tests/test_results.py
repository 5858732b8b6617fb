"""The results page: made from logged matrices, intervals beside every mean."""

from __future__ import annotations

import pytest
from conftest import Workspace

from wsss.data import open_dataset
from wsss.errors import UserError
from wsss.results import results_page
from wsss.tracking.query import find


@pytest.fixture
def inside(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(workspace.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return workspace


def test_every_figure_has_its_interval_and_the_chosen_classes_beside_it(inside: Workspace) -> None:
    dataset = open_dataset("shapes")
    page = results_page(dataset, "demo", ["background", dataset.classes.names[0]])
    run = find(inside.run_id)
    for split, what in (("train", "cam"), ("train", "labels_crf"), ("val", "pred_crf")):
        row = next(line for line in page.splitlines() if line.startswith(f"| affinity | 0 | {split} | {what} |"))
        assert f"{100 * run.metrics[f'{split}/{what}/miou']:.1f} [" in row
        assert row.count("[") == 2
    assert f"train {len(dataset.splits['train'])} (ids `" in page
    assert "refine.walk" in page


def test_what_is_not_there_is_named(inside: Workspace) -> None:
    dataset = open_dataset("shapes")
    with pytest.raises(UserError, match="no finished run with preset paper on shapes"):
        results_page(dataset, "paper", [])
    with pytest.raises(UserError, match="unknown class 'dog'"):
        results_page(dataset, "demo", ["dog"])
