"""Lineage: back from a mask, a run or a model to labels, steps, settings, data and commit; forward from data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dashboard_examples import Dashboard, served, standing_in
from playwright.sync_api import Page, expect

from wsss.dashboard import lineage
from wsss.dashboard.page import Context
from wsss.dashboard.reading import Reading
from wsss.errors import UserError
from wsss.registry import ancestry
from wsss.registry.ancestry import Ancestry, Box
from wsss.registry.ledger import Ledger
from wsss.registry.models import CHAMPION, candidates
from wsss.registry.promotion import FORCED, PromotionRecord, signed
from wsss.tracking import names, query
from wsss.tracking.connection import mlflow_client

pytest_plugins = ("dashboard_examples",)
pytestmark = pytest.mark.usefixtures("surroundings")
MODEL = "wsss-shapes"


@pytest.fixture(scope="module")
def root(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace `filled`, where CAM reused AffinityNet's localizer, with AffinityNet's model promoted."""
    root = tmp_path_factory.mktemp("lineage") / "workspace"
    shutil.copytree(filled, root, ignore=shutil.ignore_patterns("store", "scratch", "cache"))
    with standing_in(root):
        run = next(run for run in query.runs() if run.method == "affinity")
        client = mlflow_client()
        [version] = client.search_model_versions(f"run_id = '{run.id}'")
        assert version.name == candidates(MODEL)
        copied = client.copy_model_version(f"models:/{version.name}/{version.version}", MODEL)
        client.set_registered_model_alias(MODEL, CHAMPION, copied.version)
        asked = f"{version.name}/{version.version}"
        why = "it is <b>good</b>"
        Ledger(MODEL).add(signed(PromotionRecord(MODEL, FORCED, asked, "", str(copied.version), why)), [])
        client.set_tag(run.id, names.GIT_COMMIT, "c" * 40)
        client.set_tag(run.id, names.GIT_DIRTY, "true")
    return root


@pytest.fixture
def inside(root: Path) -> Iterator[dict[str, query.RunRecord]]:
    """Standing in it; its runs by method."""
    with standing_in(root):
        yield {run.method: run for run in query.runs()}


@pytest.fixture(scope="module")
def dashboard(root: Path) -> Iterator[Dashboard]:
    with served(root) as it:
        yield it


def boxes(layers) -> dict[str, Box]:
    return {box.title: box for layer in layers for box in layer.boxes}


def test_a_run_goes_back_to_steps_of_others_labels_settings_data_and_commit(inside) -> None:
    found = boxes(ancestry.of_run(inside["cam"].id).back)
    for key in ("localize.train", "localize.infer"):
        assert found[key].facts["how"] == "reused" and len(found[key].facts["fingerprint"]) == 64
        assert [run.id for run in found[key].runs["computed by"]] == [inside["affinity"].id]
    assert found["refine.crf"].facts["how"] == "computed by this run"
    labels = inside["cam"].tags[names.LABELS_MD5]
    assert found[f"Label maps {labels[:8]}"].name == labels
    assert found["Dataset shapes"].name == inside["cam"].tags[names.DATA_MD5]
    assert "files" in found["Dataset shapes"].facts and "train" in found["Dataset shapes"].facts["images"]
    [changed] = [box for title, box in found.items() if "unlike preset demo" in title]
    assert changed.facts["localize.train.epochs"] == "6 (preset: 20)" and "localize.name" in changed.folded
    code = boxes(ancestry.of_run(inside["affinity"].id).back)["Code"].facts
    assert code["commit"] == "c" * 40 + ", with changes that were not committed" and "run" in code["command"]


def test_a_mask_goes_back_to_the_steps_that_it_was_made_by(inside) -> None:
    def steps(lineage_: Ancestry) -> set[str]:
        return {box.title for layer in lineage_.back for box in layer.boxes if box.kind == "step"}

    run = inside["affinity"].id
    assert steps(ancestry.of_run(run, "cam")) == {"localize.train", "localize.infer"}
    of_labels = steps(ancestry.of_run(run, "labels_crf"))
    assert {"localize.train", "refine.train", "refine.walk", "refine.crf"} <= of_labels
    assert not any(key.startswith("segment") for key in of_labels)
    assert "segment.train" in steps(ancestry.of_run(run, "pred_crf"))


def test_a_run_goes_forward_to_models_aliases_decisions_and_runs_that_reused_its_steps(inside) -> None:
    found = ancestry.of_run(inside["affinity"].id).forward
    titles = boxes(found)
    assert f"{MODEL} version 1, champion" in titles and f"{candidates(MODEL)} version 1" in titles
    [decision] = [box for box in titles.values() if box.kind == "act"]
    assert decision.facts["why"] == "it is <b>good</b>" and decision.facts["champion"] == "none to 1"
    assert inside["cam"].id in {run.id for run in titles["localize.train"].runs["reused by"]}


def test_a_model_goes_back_to_its_run_and_all_that_made_it(inside) -> None:
    lineage_ = ancestry.of_model(f"{MODEL}/1")
    assert lineage_.back[0].title == "Run" and lineage_.back[0].boxes[0].name == inside["affinity"].id
    assert {"segment.train", "refine.walk", "localize.train", "Dataset shapes"} <= boxes(lineage_.back).keys()
    assert [layer.title for layer in lineage_.forward] == ["Aliases", "Decisions of the ledger"]


def test_data_goes_forward_to_all_that_stands_on_it(inside, monkeypatch: pytest.MonkeyPatch) -> None:
    md5 = inside["cam"].tags[names.DATA_MD5]
    lineage_ = ancestry.of_data(md5)
    titles = boxes(lineage_.forward)
    assert {box.name for box in titles.values() if box.kind == "run"} == {run.id for run in inside.values()}
    assert f"{MODEL} version 1, champion" in titles
    assert {run.tags[names.LABELS_MD5] for run in inside.values() if names.LABELS_MD5 in run.tags} == {
        box.name for box in titles.values() if box.kind == "labels"
    }
    # A page of them; what serves is named all the same, and the next page goes on where this one ends.
    monkeypatch.setattr("wsss.tracking.descent.Look.runs_with.__defaults__", (None, 1))
    first = ancestry.of_data(md5)
    [runs] = [layer for layer in first.forward if layer.title == "Runs"]
    assert len(runs.boxes) == 1 and runs.older is not None
    assert f"{MODEL} version 1, champion" in boxes(first.forward)
    [rest] = [layer for layer in ancestry.of_data(md5, runs.older).forward if layer.title == "Runs"]
    assert rest.boxes[0].name != runs.boxes[0].name


def test_label_maps_go_back_to_their_steps_and_forward_to_what_learnt_from_them(inside) -> None:
    lineage_ = ancestry.of_labels(inside["affinity"].tags[names.LABELS_MD5])
    assert {"refine.walk", "localize.train", "Dataset shapes"} <= boxes(lineage_.back).keys()
    assert "segment.train" not in boxes(lineage_.back)
    assert f"{MODEL} version 1, champion" in boxes(lineage_.forward)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"run": "0" * 32}, "there is no run 000"),
        ({"run": "<script>"}, "there is no run <script>"),
        (
            {"model": "wsss-shapes/99"},
            "there is no version 99 of the registered model wsss-shapes; models are .*wsss",
        ),
        ({"model": "wsss-shapes"}, "a version of a model is NAME/VERSION"),
        ({"data": "f' or 1=1"}, "no run has data of the version f' or 1=1"),
        ({"labels": "\"'"}, "no run has label maps of the version"),
        ({"data": "a", "run": "b"}, "a lineage is of one thing, not of run and data at once"),
        ({"data": "a", "before": "then"}, "before = then is no time"),
    ],
)
def test_what_is_not_there_is_one_sentence(inside, asked: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        lineage.layout(Context(Reading()), asked)


def test_a_thing_that_a_method_does_not_draw_names_those_that_it_does(inside) -> None:
    with pytest.raises(UserError, match="unknown thing that cam draws 'nothing'; choose from .*labels_crf"):
        ancestry.of_run(inside["cam"].id, "nothing")


def test_a_damaged_ledger_is_a_sentence_among_the_rest(inside, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(ledger: Ledger) -> None:
        raise UserError("record 1 was changed")

    monkeypatch.setattr("wsss.registry.ancestry.forward.read", broken)
    found = boxes(ancestry.of_run(inside["affinity"].id).forward)
    assert found[f"The ledger of {MODEL} can't be read"].facts == {"why": "record 1 was changed"}
    assert f"{MODEL} version 1, champion" in found


def test_names_are_text_and_no_address(inside) -> None:
    page = lineage.layout(Context(Reading()), {"run": inside["affinity"].id}).to_plotly_json()
    assert "dangerously_allow_html" not in json.dumps(page, default=lambda part: part.to_plotly_json())


def test_clicks_go_from_a_run_to_its_data_and_on_to_another_run(
    dashboard: Dashboard, page: Page, window: Callable
) -> None:
    with standing_in(dashboard.root):
        runs = {run.method: run for run in query.runs()}
    page.goto(f"{dashboard.url}/lineage?run={runs['cam'].id}")
    expect(page.locator(".lineage-subject")).to_contain_text(f"wsss reproduce {runs['cam'].id}")
    page.get_by_role("link", name="Dataset shapes").click()
    expect(page.locator(".lineage-subject")).to_contain_text("Dataset shapes, version")
    page.wait_for_url("**data=**")
    expect(page.get_by_text("it is <b>good</b>").first).to_be_visible()
    page.get_by_role("link", name="affinity, demo, shapes, rng 0").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".lineage-subject")).to_contain_text("affinity, demo, shapes, rng 0")
    again = window(width=390, scheme="dark")
    again.goto(page.url)
    expect(again.locator(".lineage-subject")).to_contain_text("affinity, demo, shapes, rng 0")
    assert again.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
