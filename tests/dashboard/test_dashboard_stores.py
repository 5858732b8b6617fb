"""The dashboard on other stores: of 10,000 runs, of hostile names, and one that goes away."""

import shutil

import httpx
import pytest
from dashboard_examples import column, filled_rows, served
from playwright.sync_api import expect
from test_reading import run_of

from benchmarks.dashboard_store import RNGS, write_runs
from wsss.dashboard import app
from wsss.dashboard.leaderboard.ranking import View
from wsss.dashboard.page import Context
from wsss.dashboard.reading import Reading
from wsss.tracking import names
from wsss.tracking.connection import mlflow_client

pytest_plugins = ("dashboard_examples",)

ROWS = ".ag-row [col-id=method]"
MARKUP = '<img src=x onerror="document.title=1"><b>bold</b>'


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Open pages ask for news more often than every three seconds."""
    monkeypatch.setattr(app, "EVERY_S", 0.3)


def test_a_hostile_store_is_text(template, tmp_path, page):
    shutil.copy(template, tmp_path / "mlflow.db")
    with served(tmp_path, Context(Reading(every=0.2))) as dashboard:
        client = mlflow_client()
        page.goto(dashboard.url)
        expect(page.get_by_text("No run yet.")).to_be_visible()
        expect(page.locator("pre")).to_have_text("wsss run")
        tags = dict.fromkeys((names.METHOD, names.DATASET, names.PRESET, names.SUPERVISION, names.BACKBONE), MARKUP)
        run_of(client, tags=tags, pred_crf=0.5)
        expect(page.locator(ROWS)).to_have_text(MARKUP)
        assert page.locator("img").count() == 0 and page.locator("main b").count() == 0
        assert page.title() == "Leaderboard · wsss"
        for kind in ("csv", "md", "tex"):
            answer = httpx.get(f"{dashboard.url}/files/leaderboard.{kind}")
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "html" not in answer.headers["content-type"]
        page.close()


def test_a_store_that_goes_away_while_a_page_is_open_is_a_sentence_and_comes_back(template, tmp_path, page):
    shutil.copy(template, tmp_path / "mlflow.db")
    with served(tmp_path, Context(Reading(every=0.2))) as dashboard:
        client = mlflow_client()
        run_of(client, pred_crf=0.5)
        page.goto(dashboard.url)
        filled_rows(page)
        (tmp_path / "mlflow.db").rename(tmp_path / "away.db")
        expect(page.get_by_role("status")).to_contain_text("is gone; bring it back. What stands here was read before.")
        assert page.locator(ROWS).count() == 1
        (tmp_path / "away.db").rename(tmp_path / "mlflow.db")
        expect(page.locator("#standing")).to_be_empty()
        run_of(client, tags={names.GROUP: "h", names.METHOD: "new"}, pred_crf=0.6)
        expect(page.locator(ROWS)).to_have_count(2)
        page.close()


@pytest.fixture(scope="module")
def crowded(template, tmp_path_factory):
    """A dashboard of 10,000 runs of methods on photographs."""
    root = tmp_path_factory.mktemp("crowded")
    shutil.copy(template, root / "mlflow.db")
    write_runs(root / "mlflow.db", 10_000, 12)
    with served(root, Context(Reading(every=60))) as it:
        yield it


def test_a_page_that_is_opened_while_runs_are_read_ends_with_all_of_them(crowded, page):
    page.goto(crowded.url)
    expect(page.locator("#leaderboard-count")).to_contain_text("3,334 rows of 10,000 runs", timeout=60_000)
    assert crowded.context.reading.listing().whole


def test_the_address_reproduces_choice_filter_and_order(crowded, window):
    page = window()
    page.goto(crowded.url)
    filled_rows(page)
    page.locator(".ag-header-cell-text", has_text="time, s").click()
    page.wait_for_url("**sort=seconds:desc**")
    page.locator("#leaderboard-method").click()
    page.get_by_role("option", name="cam").click()
    page.keyboard.press("Escape")
    page.wait_for_url("**method=cam**")
    expect(page.locator("#leaderboard-count")).to_contain_text("476 rows")
    expected = [row.newest for row in View.of({"dataset": "photos", "method": "cam", "sort": "seconds:desc"}).rows(
        crowded.context.reading.table())]  # fmt: skip
    page.wait_for_function("() => document.querySelector('.ag-cell[col-id=method]').textContent === 'cam'")
    second = window()
    second.goto(page.url)
    second.locator(".ag-row[row-index='10'] [col-id=seconds]").wait_for()
    times = column(second, "seconds")
    assert len(times) > 10 and set(column(second, "method")) == {"cam"}
    by_id = {row.newest: row for row in crowded.context.reading.table()}
    assert times == [f"{by_id[run].seconds:,.0f}" for run in expected[: len(times)]]
    second.goto(f'{crowded.url}/?filter={{"val/pred_crf":{{"filterType":"number","type":"greaterThan","filter":70}}}}')
    many = [row for row in by_id.values() if row.figures["val/pred_crf"].mean > 0.7]
    expect(second.locator("#leaderboard-count")).to_contain_text(f"{len(many)} rows of {RNGS * len(many)} runs")


def test_ten_thousand_runs_are_paged_by_the_server(crowded, page):
    sizes = []
    page.on("response", lambda answer: sizes.append(len(answer.body())) if "update-component" in answer.url else None)
    page.goto(crowded.url)
    filled_rows(page)
    expect(page.locator("#leaderboard-count")).to_contain_text("3,334 rows of 10,000 runs")
    filled_rows(page, 3334)
    page.evaluate("dash_ag_grid.getApi('leaderboard-grid').ensureIndexVisible(3333)")
    last = View.of({"dataset": "photos"}).rows(crowded.context.reading.table())[-1]
    page.locator(f".ag-row[row-id='{last.newest}']").first.wait_for()
    assert max(sizes) < 300_000
