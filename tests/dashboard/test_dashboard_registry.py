"""The page of registered models: what the ledger says, promotion and rollback where they are allowed, nothing else."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import torch
from conftest import empty_store
from dashboard_examples import served, standing_in
from mlflow import MlflowClient
from plotly.utils import PlotlyJSONEncoder
from served_examples import save_one_answer

from wsss.dashboard.jobs import Jobs
from wsss.dashboard.page import Context
from wsss.dashboard.reading import Reading
from wsss.dashboard.registry import page as registry
from wsss.data import open_dataset
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.registry import gate
from wsss.registry.checks import checks_of
from wsss.registry.ledger import Ledger
from wsss.registry.lineage import keep_lineage
from wsss.registry.models import candidates
from wsss.registry.overview import overview
from wsss.registry.rollback import roll_back
from wsss.serving.package import log_model
from wsss.tracking import names

pytest_plugins = ("dashboard_examples",)

NAME, OTHER = "wsss-shapes", "wsss-other"
MEASURED_MS = 60_000
"""How long a test waits for the gate, which measures."""
MARKUP = '<img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def root(template, tmp_path_factory):
    """A workspace with two registered runs: one model answers a class everywhere, one background, which is better.

    Of NAME there is a ledger: a promotion, a better one, a refusal, a rollback. OTHER has candidates alone.
    """
    root = tmp_path_factory.mktemp("registry")
    empty_store(template, root / "mlflow.db")
    with standing_in(root):
        torch.set_num_threads(1)
        make_shapes(root / "data" / "shapes", images=12, val_images=12, size=40, classes=2)
        dataset, runs = open_dataset("shapes"), []
        for answer in (1, 0):
            folder = tmp_path_factory.mktemp("step")
            save_one_answer(folder, answer)
            tags = {names.DATASET: "shapes", names.SUPERVISION: ""}
            runs.append(MlflowClient().create_run("0", tags=tags).info.run_id)
            log_model(runs[-1], folder, dataset.classes, "# card\n")
            keep_lineage(runs[-1], dataset)
        asked = ((runs[0], ""), (runs[1], MARKUP), (runs[0], ""))
        looks = [gate.promote(run, NAME, dataset, why=why) for run, why in asked]
        roll_back(NAME, "it is slow on Mondays", "the dashboard")
        for run in runs:
            gate.find_version(run, OTHER)
        (root / "checks.json").write_text(json.dumps([look.checks for look in looks]), encoding="utf-8")
    return root


@pytest.fixture
def here(root) -> Iterator[None]:
    with standing_in(root):
        yield


@pytest.fixture(scope="module")
def promoting(root):
    """A dashboard that may promote."""
    with served(root, Context(Reading(), promotes=True)) as dashboard:
        yield dashboard


def said(component) -> str:
    return json.dumps(component, cls=PlotlyJSONEncoder, ensure_ascii=False)


def test_versions_aliases_and_records_are_those_of_the_ledger(root, here) -> None:
    found, records = overview(NAME), Ledger(NAME).records()
    assert [record.kind for record in found.records] == ["rollback", "refusal", "promotion", "promotion"]
    assert found.records == records[::-1] and tuple(found.decided) == ("1", "", "") and not found.broken
    assert found.aliases == {"champion": "1"} and found.looks == 3
    assert [each.copied_into for each in found.candidates] == ["2", "1"]
    page = said(registry.layout(Context(Reading()), {"model": NAME}))
    for text in ("it is slow on Mondays", "rollback", "(through the dashboard)", "The chain of 4 records is whole"):
        assert text in page
    assert "looked 3 times at the evaluation set shapes/val" in page and records[-1].sha256[:16] in page
    assert "/lineage?model=wsss-shapes/2" in page


def test_what_the_gate_asked_is_told_from_the_ledger_as_it_was_printed(root, here) -> None:
    printed = json.loads((root / "checks.json").read_text(encoding="utf-8"))
    for record, checks in zip(Ledger(NAME).records(), printed, strict=False):
        # What is asked before anybody looks is in the record where it speaks against the candidate.
        assert [list(check) for check in checks_of(record, Ledger(NAME))] == checks[2:]
    page = said(registry.layout(Context(Reading()), {"model": NAME, "record": "3"}))
    assert "Record 3: refusal" in page and "it is not shown to be better" in page and "lower bound (95%)" in page
    shutil.rmtree(root / "work" / "ledger" / NAME / "evaluations")
    whats = [check.what for check in checks_of(Ledger(NAME).records()[2], Ledger(NAME))]
    assert whats == ["mIoU", "difference", "time for an image, ms", "weights, MB"]
    with pytest.raises(UserError, match="has no record 9"):
        registry.layout(Context(Reading()), {"model": NAME, "record": "9"})


def test_a_broken_chain_is_a_sentence_with_the_records_before_the_break(root, here, tmp_path, monkeypatch) -> None:
    shutil.copytree(root / "work" / "ledger", tmp_path / "ledger")
    monkeypatch.setenv("WSSS_LEDGER", str(tmp_path / "ledger"))
    record = tmp_path / "ledger" / NAME / "000003.json"
    record.write_text(record.read_text(encoding="utf-8").replace("refusal", "promotion"), encoding="utf-8")
    page = said(registry.layout(Context(Reading()), {"model": NAME}))
    assert "does not follow from the record before it" in page and "records before the break" in page
    assert "promotion" in page and "it is slow on Mondays" not in page


def test_reading_writes_nothing(root, here) -> None:
    def state() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in (root / "work").rglob("*") if path.is_file()}

    before = state(), MlflowClient().get_registered_model(NAME).tags
    registry.layout(Context(Reading(), promotes=True), {"model": NAME})
    registry.layout(Context(Reading(), promotes=True), {"model": OTHER})
    assert before == (state(), MlflowClient().get_registered_model(NAME).tags)
    assert not MlflowClient().search_registered_models(f"name = '{OTHER}'")


def test_an_empty_registry_and_an_unknown_name_say_what_to_do(store, root) -> None:
    assert "wsss run" in said(registry.layout(Context(Reading()), {}))
    with standing_in(root), pytest.raises(UserError, match=f"unknown registered model 'x'; choose from .*{NAME}"):
        registry.layout(Context(Reading()), {"model": "x"})


def asked(url: str, trigger: str, origin: str = "", **values: object) -> dict:
    """What the callback of the forms answers, as a browser asks it."""
    with urlopen(f"{url}/_dash-dependencies") as answer:
        known = next(each for each in json.load(answer) if each["output"].startswith("..registry-said"))
    inputs, states = known["inputs"], known["state"]
    outputs = [
        dict(zip(("id", "property"), part.rsplit(".", 1), strict=True))
        for part in known["output"].strip(".").split("...")
    ]
    content = {
        "output": known["output"],
        "outputs": outputs,
        "inputs": [{**each, "value": values.get(each["id"])} for each in inputs],
        "state": [{**each, "value": values.get(each["id"])} for each in states],
        "changedPropIds": [trigger],
    }
    headers = {"Content-Type": "application/json", **({"Origin": origin} if origin else {})}
    with urlopen(Request(f"{url}/_dash-update-component", json.dumps(content).encode(), headers)) as answer:
        return json.load(answer)


def test_without_permission_there_are_no_forms_and_the_callback_refuses(root) -> None:
    with served(root) as dashboard:
        page = said(registry.layout(dashboard.context, {"model": NAME}))
        assert "registry-confirm" not in page and "wsss promote RUN --name wsss-shapes" in page
        before = len(Ledger(NAME).records())
        for trigger in ("registry-back.n_clicks", "registry-confirm.n_clicks"):
            values = {
                "registry-name": NAME,
                "registry-back-why": "why",
                "registry-why": "why",
                "registry-champion": "1",
            }
            assert "--allow-promote --api-keys FILE" in said(asked(dashboard.url, trigger, **values))
        assert len(Ledger(NAME).records()) == before


def test_another_origin_may_not_ask(promoting) -> None:
    for origin in ("http://evil.example", "null"):
        with pytest.raises(HTTPError) as refused:
            asked(promoting.url, "registry-back.n_clicks", origin, **{"registry-name": NAME})
        assert refused.value.code == 403 and b"only the dashboard's own pages" in refused.value.read()


def test_every_act_asks_for_a_reason_a_dry_run_and_a_page_that_is_not_old(promoting) -> None:
    url, back = promoting.url, "registry-back.n_clicks"
    assert "give a reason" in said(asked(url, back, **{"registry-name": NAME, "registry-back-why": "  "}))
    assert "allowed: 500" in said(asked(url, back, **{"registry-name": NAME, "registry-back-why": 501 * "x"}))
    values = {"registry-name": NAME, "registry-why": "why", "registry-candidate": f"models:/{NAME}/2"}
    assert "look at a dry run of this candidate first" in said(asked(url, "registry-confirm.n_clicks", **values))
    old = {"registry-name": NAME, "registry-back-why": "why", "registry-champion": "2"}
    asked(url, back, **old)
    end = time.monotonic() + 10
    while "meanwhile version 1 became champion" not in (text := said(asked(url, "registry-poll.n_intervals", **old))):
        assert time.monotonic() < end, text
    assert len(Ledger(NAME).records()) == 4


def test_one_act_at_a_time_and_its_end_is_remembered() -> None:
    jobs, go = Jobs(), threading.Event()
    job = jobs.begin("act", "a promotion is measured", lambda: go.wait(5))
    with pytest.raises(UserError, match="a promotion is measured since .* wait until that has ended"):
        jobs.begin("act", "another", lambda: None)
    go.set()
    end = time.monotonic() + 5
    while job.working and time.monotonic() < end:
        time.sleep(0.01)
    assert jobs.of("act") is job and job.result is True
    failed = jobs.begin("act", "another", lambda: Path("/nowhere/at/all").stat())
    while failed.working and time.monotonic() < end:
        time.sleep(0.01)
    assert "/nowhere/at/all can't be used" in failed.problem


def test_promotion_and_rollback_in_a_browser(promoting, window) -> None:
    page = window()
    page.goto(f"{promoting.url}/registry?model={NAME}&record=2")
    # The store's markup is text.
    page.get_by_role("cell", name=MARKUP).wait_for()
    assert page.locator("main img").count() == 0 and page.locator("h3").inner_text().startswith("Record 2: promotion")

    page.goto(f"{promoting.url}/registry?model={NAME}&candidate=models:/{candidates(NAME)}/2")
    page.locator("#registry-candidate", has_text=f"{candidates(NAME)} 2").wait_for()
    assert page.locator("#registry-confirm").is_disabled()
    page.locator("#registry-try").click()
    page.get_by_text("nothing was written").wait_for(timeout=MEASURED_MS)
    table = page.locator("#registry-look")
    assert "lower bound (95%) above 0" in table.inner_text() and "evaluation images seen" in table.inner_text()
    assert len(Ledger(NAME).records()) == 4
    page.locator("#registry-confirm").click()
    page.get_by_text("give a reason").wait_for()
    page.locator("#registry-why").fill("Monday's model")
    page.locator("#registry-confirm").click()
    page.get_by_text("Working: the promotion").wait_for()
    assert page.locator("#registry-confirm").is_disabled() and page.locator("#registry-back").is_disabled()
    page.close()

    # It went on; whoever opens the page sees what came of it, and the ledger has it.
    page = window()
    page.goto(f"{promoting.url}/registry?model={NAME}")
    page.get_by_text(f"{NAME} version 2 is champion").wait_for(timeout=MEASURED_MS)
    page.get_by_text("The chain of 5 records is whole").wait_for()
    record = Ledger(NAME).records()[-1]
    assert record.kind == "promotion" and record.why.endswith("asked for because: Monday's model")
    assert record.who.endswith("(through the dashboard)")

    page.locator("#registry-back-why").fill("Tuesday")
    page.locator("#registry-back").click()
    page.get_by_text("version 1 is champion again").wait_for(timeout=MEASURED_MS)
    page.get_by_text("The chain of 6 records is whole").wait_for()
    assert page.locator("#registry-back-why").input_value() == ""
    page.get_by_role("link", name="5", exact=True).click()
    page.get_by_role("heading", name="Record 5: promotion").wait_for()
    assert "record=5" in page.url
