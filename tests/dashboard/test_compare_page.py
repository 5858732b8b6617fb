"""The Compare page: what its sections say, and that a browser shows it, follows it and copies it."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from comparison_examples import compared, evaluation, record
from playwright.sync_api import expect

from wsss.classes import BACKGROUND, VOC
from wsss.dashboard.compare import charts, scored, ways
from wsss.dashboard.compare.elements import Names
from wsss.dashboard.compare.nodes import el, markup
from wsss.dashboard.page import address
from wsss.tables.published import published
from wsss.tracking import query

pytest_plugins = ("dashboard_examples",)

HOSTILE = "<img src=x onerror=alert(1)>\"'&"


def link(runs, **where):
    return address("/masks", runs=[run.id for run in runs], **where)


def all_of(node, tag):
    """The elements of a tree with a tag."""
    if isinstance(node, str):
        return []
    return [node] * (node.tag == tag) + [found for child in node.children for found in all_of(child, tag)]


def text(node):
    return node if isinstance(node, str) else "".join(map(text, node.children))


def rows(node):
    return [[text(cell) for cell in row.children] for row in all_of(node, "tr")]


def test_the_heat_map_has_each_figure_worst_class_first_and_leads_to_the_images() -> None:
    comparison = compared({"a": evaluation(1), "b": evaluation(2)})
    section = scored.heat(comparison, Names.of(comparison.runs), "iou", "worst", link)
    head, mean, *classes = rows(section)
    assert head[1:] == ["A cama", "B camb"]
    assert mean == ["mean", *(f"{100 * comparison.mean(run, 'iou'):.1f}" for run in "ab")]
    for name, *figures in classes:
        index = comparison.classes.index(name)
        assert figures == [f"{100 * comparison.figures(run, 'iou')[index]:.1f}" for run in "ab"]
    means = [sum(map(float, figures)) for _, *figures in classes]
    assert means == sorted(means)
    first = all_of(section, "a")[0]
    assert first.attributes["href"] == f"/masks?runs=a,b&sort={text(first)}&split=val&what=pred_crf"


def test_published_columns_say_their_source() -> None:
    run = record("a", method="affinity")
    comparison = compared({"a": evaluation(1, classes=(BACKGROUND, *VOC))}, [run])
    section = scored.heat(comparison, Names.of([run]), "iou", "index", link)
    other = next(each for each in published() if each.method == "affinity" and each.split == "val")
    table = rows(section)
    assert any(other.title in head and other.source in head for head in table[0])
    assert f"{other.iou['cow']:.1f}" in next(row for row in table if row[0] == "cow")
    assert len(rows(scored.heat(comparison, Names.of([run]), "fp", "index", link))[0]) == 2


def test_a_confusion_leads_to_the_images_where_it_happens() -> None:
    comparison = compared({"a": evaluation(1), "b": evaluation(2)})
    section = scored.confusion(comparison, Names.of(comparison.runs), "b", link)
    matrix = comparison.evaluations["b"].matrices.sum(0)
    cat = next(row for row in all_of(section, "tr") if text(row).startswith("cat"))
    cells = [cell for cell in cat.children if cell.tag == "td"][:3]
    assert [cell.attributes["data-value"] for cell in cells] == [str(pixels) for pixels in matrix[1]]
    assert [text(cell) for cell in cells] == [f"{100 * share:.0f}" for share in matrix[1] / matrix[1].sum()]
    hrefs = [found.attributes["href"] for found in all_of(cat, "a")]
    assert hrefs == [f"/masks?runs=b&split=val&what=pred_crf&confused=cat:{other}" for other in ("background", "dog")]


def test_differences_have_the_sign_of_the_better_run() -> None:
    found = {"base": evaluation(1), "better": evaluation(1, better=60)}
    comparison = compared(found)
    names = Names.of(comparison.runs)
    (row,) = [row for row in rows(scored.means(comparison, names, "base")) if row[0].startswith("B")]
    assert row[4].startswith("+") and row[-1] == "better"
    (row,) = [row for row in rows(scored.means(comparison, names, "better")) if row[0].startswith("A")]
    assert row[4].startswith("−") and row[-1] == "worse"
    of_classes = rows(scored.differences(comparison, names, "better", "index"))[1:]
    assert all(cell.startswith("−") for _, cell in of_classes)


def test_the_ladder_says_what_each_step_added() -> None:
    run = record("a", figures={"train/cam": 0.4, "train/labels": 0.45, "train/labels_crf": 0.44, "val/pred_crf": 0.5})
    section = ways.rungs([run], Names.of([run]))
    assert [row[1] for row in rows(section)[1:]] == ["40.0", "45.0+5.0", "44.0−1.0", "50.0"]


def test_what_differs_is_said_above() -> None:
    runs = [record("a"), record("b", dataset="photos", status="RUNNING"), record("c", figures={"train/cam": 0.4})]
    found = {"a": evaluation(1), "b": evaluation(2, classes=("background", "cat"))}
    comparison = compared(found, runs)
    said = " ".join(map(text, scored.said(comparison, Names.of(runs))))
    assert "It has no pred_crf on val" in said
    assert "B cam, photos is still going" in said
    assert "different datasets: photos, shapes" in said
    assert "2 classes that all have; left out: dog" in said


def test_names_with_markup_are_text_in_trees_and_in_files() -> None:
    run = record("a", method=HOSTILE, params={HOSTILE: HOSTILE}, tags={})
    other = record("b", method="cam", params={HOSTILE: "1"})
    comparison = compared(
        {each.id: evaluation(1, classes=("background", HOSTILE)) for each in (run, other)}, [run, other]
    )
    names = Names.of([run, other])
    sections = [
        scored.heat(comparison, names, "iou", "worst", link),
        scored.confusion(comparison, names, "a", link),
        ways.texts("settings", "Settings", {HOSTILE: [HOSTILE, "1"]}, names, ""),
    ]
    for section in sections:
        written = markup(section)
        assert "<img" not in written and "onerror=alert(1)&gt;" in written
        assert all(found.attributes["href"].startswith("/masks?") for found in all_of(section, "a"))
    assert markup(el("p", HOSTILE, title=HOSTILE)) == (
        '<p title="&lt;img src=x onerror=alert(1)&gt;&quot;&#x27;&amp;">&lt;img src=x onerror=alert(1)&gt;"\'&amp;</p>'
    )


@pytest.mark.parametrize("logarithmic", [False, True])
def test_curves_draw_what_is_finite(logarithmic) -> None:
    values = [float("nan"), 4.0, 2.0, 0.0, 1.0]
    drawn = charts.curves("loss", [charts.Line(1, "1 cam", range(5), values)], logarithmic)
    (line,) = all_of(drawn, "polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attributes["points"].split()]
    assert len(points) == (3 if logarithmic else 4)
    assert points[0][1] == min(y for _, y in points), "the largest loss is on top"
    nothing = charts.curves("loss", [charts.Line(1, "1 cam", [0], [float("nan")])], logarithmic)
    assert text(nothing).startswith("No finite value")


def test_a_page_shows_chosen_runs_and_its_address_shows_the_same(dashboard, runs, page, console) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{dashboard.url}/compare?runs={runs['affinity']},{runs['cam']},{runs['bound']}")
    heat = page.locator("#section-heat")
    expect(heat.locator("thead th")).to_have_count(4)
    expect(heat.locator("tbody tr")).to_have_count(5)
    of_run = query.evaluation(query.find_run(runs["affinity"]), "val", "pred_crf")
    expect(heat.locator("tbody tr.mean td").first).to_have_text(f"{100 * of_run.scores.miou:.1f}")
    for key in ("means", "differences", "ladder", "confusion", "settings", "facts", "seconds", "losses"):
        expect(page.locator(f"#section-{key} h2")).to_be_visible()
    expect(page.locator("#section-losses polyline").first).to_be_visible()

    heat.get_by_role("button").click()
    expect(heat.get_by_role("button")).to_have_text("Copied")
    copied = [line.split("\t") for line in page.evaluate("navigator.clipboard.readText()").splitlines()]
    assert float(copied[1][1]) == pytest.approx(of_run.scores.miou, abs=1e-6)

    page.get_by_text("FN", exact=True).click()
    expect(heat.locator("h2")).to_contain_text("FN of each class")
    page.get_by_text("class order").click()
    expect(heat.locator("tbody tr").nth(1)).to_contain_text("background")
    page.locator("#compare-base").click()
    page.get_by_role("option", name="C bound").click()
    expect(page.locator("#section-differences h2")).to_contain_text("less C bound")
    expect(page).to_have_url(re.compile(f"measure=fn&order=index&base={runs['bound']}"))
    shown = page.locator("#section-differences table").inner_text(), heat.locator("table").inner_text()

    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator("#section-differences h2")).to_contain_text("less C bound")
    expect(other.locator("#section-heat h2")).to_contain_text("FN of each class")
    assert shown == (
        other.locator("#section-differences table").inner_text(),
        other.locator("#section-heat table").inner_text(),
    )


def test_a_class_and_a_confusion_lead_to_their_images(dashboard, runs, page, console) -> None:
    start = f"{dashboard.url}/compare?runs={runs['cam']},{runs['affinity']}"
    page.goto(start)
    found = page.locator("#section-heat tbody th a").first
    name = found.inner_text()
    found.click()
    asked = parse_qs(urlsplit(page.url).query)
    assert urlsplit(page.url).path == "/masks"
    assert asked == {
        "dataset": ["shapes"], "runs": [f"{runs['cam']},{runs['affinity']}"], "split": ["val"], "what": ["pred_crf"],
        "sort": [name],
    }  # fmt: skip
    page.go_back()
    cell = page.locator("#section-confusion td.wrong a").first
    tip = cell.get_attribute("title")
    cell.focus()
    page.keyboard.press("Enter")
    asked = parse_qs(urlsplit(page.url).query)
    truth, predicted = re.match("(.+) taken for (.+?):", tip).groups()
    assert asked["confused"] == [f"{truth}:{predicted}"]
    assert asked["runs"] == [runs["cam"]]
    page.go_back()
    expect(page.locator("#section-heat h2")).to_be_visible()


def test_runs_are_picked_by_words_and_what_is_wrong_is_said_beside_what_is_shown(
    dashboard, runs, page, console
) -> None:
    page.goto(f"{dashboard.url}/compare")
    expect(page.locator("#compare-heat-drawn")).to_contain_text("Choose runs above")
    page.locator("#compare-runs").click()
    page.keyboard.type("demo affin")
    page.get_by_role("option", name=re.compile("affinity demo shapes")).click()
    expect(page.locator("#section-heat tbody tr")).to_have_count(5)
    expect(page.locator("#compare-heat-drawn")).to_contain_text("This is one run")
    page.goto(f"{dashboard.url}/compare?runs={runs['affinity']},{'0' * 32}&split=val&what=direct")
    said = page.locator("#compare-heat-drawn")
    expect(said).to_contain_text(f"there is no run {'0' * 32}")
    expect(said).to_contain_text("It has no direct on val")
    expect(page.locator("#section-ladder table")).to_be_visible()
