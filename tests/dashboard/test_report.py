"""`wsss report`: one file that opens without a network, with the same figures as the page, and the viewer."""

from __future__ import annotations

import json
import re

import pytest
from conftest import command
from playwright.sync_api import expect

from wsss.dashboard.compare import report as of_file
from wsss.dashboard.compare.report import report
from wsss.errors import UserError
from wsss.tracking import query

pytest_plugins = ("dashboard_examples",)


@pytest.fixture(scope="module")
def written(dashboard, runs) -> str:
    return report(dashboard.context.reading, [runs["affinity"], runs["cam"]], images=3)


def test_the_command_writes_a_file_that_opens_without_a_network(dashboard, runs, tmp_path, page, console) -> None:
    out = tmp_path / "report.html"
    done = command(dashboard.root, "report", f"{runs['affinity']},{runs['cam']}", "--out", str(out), "--images", "3")
    assert str(out) in done.stdout
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(out.as_uri())
    expect(page.locator("#section-heat tbody tr")).to_have_count(5)
    of_run = query.evaluation(query.find_run(runs["affinity"]), "val", "pred_crf")
    expect(page.locator("#section-heat tr.mean td").first).to_have_text(f"{100 * of_run.scores.miou:.1f}")
    for key in ("means", "differences", "ladder", "confusion-1", "settings", "facts", "seconds", "losses"):
        expect(page.locator(f"#section-{key} h2")).to_be_visible()
    expect(page.locator("button[data-image]")).to_have_count(3)
    expect(page.locator("#viewer")).to_have_attribute("data-image", re.compile("."))
    expect(page.locator("#viewer canvas")).to_have_count(4)
    second = page.locator("button[data-image]").nth(1)
    second.click()
    expect(page.locator("#viewer")).to_have_attribute("data-image", second.inner_text())
    drawn = "canvas => new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size"
    assert all(canvas.evaluate(drawn) > 2 for canvas in page.locator("#viewer canvas").all())
    page.get_by_label("colours").select_option("distinct")
    assert [url for url in asked if not url.startswith(("file:", "blob:", "data:"))] == []


def test_the_file_allows_its_own_script_alone_and_has_no_address_in_it(written) -> None:
    policy = re.search('Content-Security-Policy" content="([^"]+)"', written).group(1)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.split("style-src")[0] and "unsafe-eval" not in policy
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", written)
    assert "<a " not in written.partition("<script")[0]


def test_names_with_markup_are_text_in_the_file(dashboard, runs, monkeypatch) -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    pictures = of_file._pictures
    monkeypatch.setattr(of_file, "_pictures", lambda *given: (pictures(*given)[0], {"viewer": {"names": [hostile]}}))
    monkeypatch.setattr(of_file.Names, "texts", [hostile], raising=False)
    page = report(dashboard.context.reading, [runs["cam"]], images=0)
    assert "<img" not in page and page.count("</script>") == 2
    held = re.search('<script type="application/json" id="data">(.*?)</script>', page).group(1)
    assert json.loads(held)["viewer"]["names"] == [hostile]


def test_without_images_or_with_too_many_runs_it_says_so(dashboard, runs) -> None:
    reading = dashboard.context.reading
    assert "No images were asked for" in report(reading, [runs["cam"]], images=0)
    with pytest.raises(UserError, match="1 to 8 runs, these are 9"):
        report(reading, [f"{number:032d}" for number in range(9)])
    with pytest.raises(UserError, match="there is no run 0000"):
        report(reading, ["0" * 32])
    with pytest.raises(UserError, match="is not among the runs"):
        report(reading, [runs["cam"]], base=runs["bound"])


def test_a_file_that_nobody_could_open_is_refused(dashboard, runs, monkeypatch) -> None:
    monkeypatch.setattr(of_file, "LARGEST_MB", 0)
    with pytest.raises(UserError, match="take fewer images with --images"):
        report(dashboard.context.reading, [runs["cam"]], images=1)
