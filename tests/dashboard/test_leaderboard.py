"""The leaderboard in a browser: choices, filters, sorting, picks and exports, all of it in the address."""

import csv
import io

import httpx
import pytest
from dashboard_examples import column, filled_rows
from playwright.sync_api import expect

from wsss.dashboard.leaderboard.ranking import View
from wsss.tables.compare import render_markdown
from wsss.tables.render import as_latex

pytest_plugins = ("dashboard_examples",)

CELLS = ".ag-row [col-id='{}']"


def test_methods_stand_in_order_of_their_most_telling_figure_beside_what_is_published(dashboard, page):
    page.goto(dashboard.url)
    filled_rows(page)
    table = dashboard.context.reading.table()
    view = View.of({"dataset": "shapes"})
    assert column(page, "method") == [row.method for row in view.rows(table)]
    shown = {column.key: [column.shown(row) for row in view.rows(table)] for column in view.columns()}
    assert column(page, "val/pred_crf") == shown["val/pred_crf"] and column(page, "bound") == shown["bound"]
    assert "100" in shown["bound"]
    page.get_by_text("Columns, and who published what").click()
    expect(page.get_by_text("58.4 AffinityNet-DeepLab (Ahn & Kwak, CVPR 2018)")).to_be_visible()


def test_picked_rows_are_compared(dashboard, page, runs):
    page.goto(dashboard.url)
    filled_rows(page)
    expect(page.get_by_text("check rows to compare them")).to_be_visible()
    newest = [row.newest for row in View.of({"dataset": "shapes"}).rows(dashboard.context.reading.table())][:2]
    for number in range(2):
        page.locator(".ag-pinned-left-cols-container .ag-checkbox-input").nth(number).click()
    link = page.get_by_role("link", name="Compare", exact=True).last
    expect(link).to_have_attribute("href", f"/compare?runs={','.join(newest)}")
    expect(page.get_by_role("link", name="Masks").last).to_have_attribute(
        "href", f"/masks?dataset=shapes&runs={','.join(newest)}"
    )
    assert f"runs={','.join(newest)}" in page.url
    page.reload()
    filled_rows(page)
    expect(page.locator(".ag-pinned-left-cols-container .ag-row-selected")).to_have_count(2)


def test_exports_are_what_is_shown(dashboard):
    get = lambda kind, query="": httpx.get(f"{dashboard.url}/files/leaderboard.{kind}{query}")  # noqa: E731
    rows = View.of({"dataset": "shapes", "sort": "method:asc"}).rows(dashboard.context.reading.table())
    assert get("md", "?sort=method:asc").text == render_markdown(rows) + "\n"
    lines = list(csv.DictReader(io.StringIO(get("csv", "?method=cam").text)))
    assert [line["method"] for line in lines] == ["cam"]
    assert get("tex").text.startswith("\\begin{tabular}")
    refused = get("csv", "?sort=beauty:asc")
    assert refused.status_code == 400 and "can't sort by 'beauty:asc'" in refused.text
    assert get("xls").status_code == 400


def test_latex_prints_what_it_would_take_for_commands():
    text = as_latex(["50%"], [["a_b & c\\input{x} #1 ~^$ ±"]])
    assert r"50\% \\" in text
    assert r"a\_b \& c\textbackslash{}input\{x\} \#1 \textasciitilde{}\textasciicircum{}\$ $\pm$ \\" in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_at_390_pixels_the_page_stands_still_and_the_table_scrolls_in_its_box(dashboard, window, scheme):
    page = window(width=390, scheme=scheme)
    page.goto(dashboard.url)
    filled_rows(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    method = page.locator(CELLS.format("method")).first.bounding_box()
    figure = page.locator(CELLS.format("val/pred_crf")).first.bounding_box()
    assert method["x"] >= 0 and figure["x"] + figure["width"] <= 390


def test_an_address_that_can_not_be_read_says_so(dashboard, page):
    page.goto(f"{dashboard.url}/?split=test")
    expect(page.get_by_role("alert")).to_have_text("unknown split 'test'; choose from dev, train, val")
