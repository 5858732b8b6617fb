"""The dashboard's frame: addresses, who may ask, what a browser may load, what stays in it."""

import gzip
import re

import httpx
import pytest
from dash import html
from dashboard_examples import filled_rows, served
from playwright.sync_api import expect
from typer.testing import CliRunner

from wsss.cli import app
from wsss.dashboard import server
from wsss.dashboard.app import PAGES
from wsss.dashboard.page import Page
from wsss.dashboard.sessions import Sessions
from wsss.errors import UserError
from wsss.serving.keys import ApiKeys

pytest_plugins = ("dashboard_examples",)

KEY = "0123456789abcdef"


def _refuse(context, state):
    raise UserError(f"there is no run {state.get('run')}; `wsss compare` lists them")


REFUSING = Page("/refusing", "Refusing", _refuse)
OTHER = Page("/other", "Other", lambda context, state: html.P("another page"))


def test_pages_have_titles_addresses_and_a_way_past_the_navigation(dashboard, page):
    page.goto(dashboard.url)
    expect(page).to_have_title("Leaderboard · wsss")
    assert page.get_by_role("link", name="Leaderboard").get_attribute("aria-current") == "page"
    assert page.locator("html").get_attribute("lang") == "en"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the page"


def test_the_first_load_is_at_most_one_megabyte_of_script_and_none_of_it_from_elsewhere(dashboard, page):
    requests = []
    page.on("requestfinished", lambda request: requests.append(request))
    page.goto(dashboard.url)
    filled_rows(page)
    scripts = {request.url: request.sizes()["responseBodySize"] for request in requests if ".js" in request.url}
    assert sum(scripts.values()) <= 1_000_000 and len(scripts) > 5
    assert all(request.url.startswith((dashboard.url, "data:")) for request in requests)
    assert not [url for url in scripts if "dash_table" in url or "plotly.min" in url]


def test_scripts_are_compressed_once_and_kept_by_browsers(dashboard):
    index = httpx.get(dashboard.url).text
    script = re.findall(r'src="(/_dash-component-suites/[^"]+renderer[^"]+)"', index)[0]
    with httpx.stream("GET", dashboard.url + script) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert gzip.decompress(raw) == httpx.get(dashboard.url + script, headers={"accept-encoding": "identity"}).content
    assert httpx.get(f"{dashboard.url}/_dash-component-suites/dash/nothing.js").status_code == 404
    later = f"{dashboard.url}/_dash-component-suites/dash/dcc/async-graph.js"  # without a version in its address
    first = httpx.get(later)
    assert first.headers["cache-control"] == "no-cache"
    again = httpx.get(later, headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304 and not again.content


def test_the_policy_allows_no_foreign_script(dashboard):
    answer = httpx.get(dashboard.url)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
    allowed = policy["script-src"].split()
    assert "'self'" in allowed and all(part == "'self'" or part.startswith("'sha256-") for part in allowed)
    assert "unsafe" not in policy["script-src"] and policy["connect-src"] == "'self'"


@pytest.mark.parametrize(
    "path", ["/nothing", "/..%2f..%2fetc/passwd", "/assets/../app.py", "/assets/..%2fapp.py", "/admin"]
)
def test_an_address_that_there_is_not_gets_404(dashboard, path):
    answer = httpx.get(dashboard.url + path)
    assert answer.status_code == 404 and "content-security-policy" in answer.headers


def test_another_host_and_another_site_are_refused(filled):
    with served(filled, hosts=frozenset({"127.0.0.1", "lab.example"})) as dashboard:
        refused = httpx.get(dashboard.url, headers={"host": "evil.example"})
        assert refused.status_code == 421 and "--host-name evil.example" in refused.text
        assert httpx.get(dashboard.url, headers={"host": "lab.example:8050"}).status_code == 200
        callback = f"{dashboard.url}/_dash-update-component"
        foreign = httpx.post(callback, json={}, headers={"origin": "https://evil.example"})
        assert foreign.status_code == 403


def test_the_script_of_figures_is_fetched_while_nobody_waits(dashboard, page):
    with page.expect_request_finished(lambda request: request.url.endswith("/plotly/package_data/plotly.min.js")):
        page.goto(dashboard.url)
        filled_rows(page)


def test_what_a_page_can_not_do_is_a_sentence_on_it(filled, page):
    with served(filled, pages=(*PAGES, REFUSING, OTHER)) as dashboard:
        page.goto(f"{dashboard.url}/refusing?run=%3Cb%3Ex")
        expect(page.get_by_role("alert")).to_have_text("there is no run <b>x; `wsss compare` lists them")
        page.get_by_role("link", name="Other").click()
        expect(page.get_by_text("another page")).to_be_visible()
        expect(page.get_by_role("alert")).to_have_count(0)
        page.get_by_role("link", name="Leaderboard").click()
        filled_rows(page)
        page.go_back()
        expect(page.get_by_text("another page")).to_be_visible()
        page.close()


def test_a_key_is_asked_for_once_and_stands_in_no_address(filled, window, console):
    sessions = Sessions(ApiKeys([KEY]))
    with served(filled, sessions=sessions) as dashboard:
        page = window()
        page.goto(f"{dashboard.url}/?split=val")
        page.get_by_label("key").fill("wrong")
        page.get_by_role("button", name="enter").click()
        expect(page.get_by_role("alert")).to_have_text("That is none of its keys.")
        page.get_by_label("key").fill(KEY)
        page.get_by_role("button", name="enter").click()
        filled_rows(page)
        assert "split=val" in page.url and KEY not in page.url
        (cookie,) = page.context.cookies()
        page.close()
        assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and KEY not in cookie["value"]
        forged = cookie["value"].replace(cookie["value"][:4], "9999", 1)
        for path in ("/", "/_dash-layout", "/files/leaderboard.csv"):
            assert httpx.get(dashboard.url + path).status_code == 401
            assert httpx.get(dashboard.url + path, cookies={"wsss": forged}).status_code == 401
            assert httpx.get(dashboard.url + path, headers={"authorization": f"Bearer {KEY}"}).status_code == 200
        entered = httpx.post(f"{dashboard.url}/enter", data={"key": KEY, "to": "//evil.example"})
        assert entered.status_code == 303 and entered.headers["location"] == "/"
        assert httpx.post(f"{dashboard.url}/enter", content=b"x" * 10_000).status_code == 413
    assert [error for error in console if "401" not in error] == []
    console.clear()


def test_theme_and_palette_are_kept_by_the_browser(dashboard, window):
    page = window(scheme="dark")
    page.goto(dashboard.url)
    ground = "getComputedStyle(document.body).backgroundColor"
    filled_rows(page)
    assert page.evaluate(ground) == "rgb(20, 23, 28)"
    assert page.evaluate("dash_clientside.wsss.colour(1)") == [128, 0, 0]
    page.get_by_text("Display").click()
    page.get_by_label("light").check()
    page.get_by_label("for all eyes").check()
    page.wait_for_function("() => document.documentElement.dataset.palette === 'distinct'")
    page.reload()
    filled_rows(page)
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    colours = page.evaluate("[...Array(21).keys()].map(dash_clientside.wsss.colour)")
    assert colours[1] == [230, 159, 0] and len({tuple(colour) for colour in colours}) == 21


def test_promotion_needs_keys_and_other_hosts_a_warning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["dashboard", "--allow-promote"])
    assert isinstance(done.exception, UserError) and "--allow-promote needs --api-keys FILE" in str(done.exception)
    monkeypatch.setattr(server.uvicorn.Server, "run", lambda self, sockets: None)
    done = CliRunner().invoke(app, ["dashboard", "--host", "0.0.0.0", "--port", "0"])
    assert "whoever reaches 0.0.0.0 may look at all runs and images; --api-keys FILE asks for a key" in done.output
    (tmp_path / "keys").write_text(f"{KEY}\n")
    done = CliRunner().invoke(app, ["dashboard", "--host", "0.0.0.0", "--port", "0", "--api-keys", "keys"])
    assert "whoever" not in done.output and "the dashboard is on http://0.0.0.0:" in done.output
