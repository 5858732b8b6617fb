"""`wsss bench search`: its rows on a search and a step small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import SMALL

from benchmarks import common, search
from tune.search import plan_search
from wsss.data.shapes import make_shapes
from wsss.process import own_cores

pytestmark = pytest.mark.usefixtures("surroundings")

SETTINGS = {key: value for key, value in SMALL.items() if not key.startswith("refine.train")}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    def shapes(root: Path) -> None:
        make_shapes(root, images=24, val_images=4, size=64, classes=2)

    monkeypatch.setattr(search, "make_shapes", shapes)


@pytest.mark.usefixtures("small")
def test_a_search_is_held_against_its_trials_from_scratch_and_its_steps() -> None:
    with search._workspace():
        plan = plan_search(
            "cam", "demo", "shapes", keys=("refine.crf",), fixed=SETTINGS | {"localize.train.epochs": "2"}
        )
        reuse, share = search.reuse(plan, 2, 1)
        manifests = [json.loads(path.read_bytes()) for path in Path("work", "store").glob("*/*/manifest.json")]
    assert (reuse.key, reuse.aim, reuse.unit) == ("reuse-2-trials", 8.0, "s")
    assert reuse.peer and reuse.ours and reuse.ratio == pytest.approx(reuse.peer / reuse.ours)
    assert "from 1 of them" in reuse.what and "given up early" in reuse.what
    assert (share.key, share.aim, share.peer) == ("share-of-ideal", 0.85, reuse.ours)
    # The training is there once, with all the cores; each CRF with the core of its trial.
    assert [m["cores"] for m in manifests if m["step"] == "localize.cam.train"] == [own_cores()]
    assert {m["cores"] for m in manifests if m["step"] == "refine.cam.crf"} == {1}
    assert share.ours == pytest.approx(sum(m["seconds"] * m["cores"] for m in manifests) / own_cores())
    assert 0 < share.ratio < 1


@pytest.mark.usefixtures("small")
def test_a_step_alone_is_held_against_the_same_in_a_warm_trial() -> None:
    with search._workspace():
        row = search.overhead(0.5, None, rounds=1)
    assert row.key == "trial-overhead-0.5s" and row.aim is None and row.unit == "s"
    assert row.peer and row.ours and 0 < row.ratio < 2 and row.ratio == pytest.approx(row.peer / row.ours)


def test_it_is_one_of_the_benchmarks() -> None:
    assert "search" in common.names()
