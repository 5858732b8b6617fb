"""How long the dashboard's pages take, from click to painted, in a headless Chromium: the limit over the time.

The store has 2,000 runs with 500 metrics each, and 200 images with maps for 8 of them. What each row says of MLflow is
its own page of the same store for the same list, comparison or picture, in the same browser, without an aim.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import numpy as np

from benchmarks.common import Row
from benchmarks.dashboard_maps import write_maps
from benchmarks.dashboard_store import newest_of_rows, write_runs
from wsss.errors import UserError
from wsss.serving.connections import listen
from wsss.tracking.connection import mlflow_client

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Seconds = list[float]
RUNS, METRICS, SHOWN, IMAGES = 2000, 500, 8, 200
ROUNDS, THEIR_ROUNDS = 7, 3
LIMITS_S = {"leaderboard": 1.0, "compare-8": 1.5, "next-image": 0.15, "first-load": 2.0}
SCRIPT_BYTES = 1_000_000
_START_S, _PAINTED_S = 240, 60

# What has to stand on a page before it counts as painted.
TABLE = 'document.querySelector(\'.ag-row[row-index="10"] [col-id="val/pred_crf"]\')?.textContent'
COMPARED = (
    "document.querySelector('#compare .drawn') && "
    "[...document.querySelectorAll('#compare .drawn')].every((part) => part.childElementCount)"
)
IMAGE = "document.querySelector('#masks-view[data-image]')"


def rows() -> Iterator[Row]:
    """A row for each limit."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        mlflow_client()
        write_runs(Path("mlflow.db"), RUNS, METRICS)
        ids = newest_of_rows(RUNS, SHOWN)
        write_maps(Path(folder), ids, IMAGES)
        with _browser() as browser, _dashboard() as (url, begun):
            cold = _cold(browser, url, begun)
            with _mlflow(Path(folder)) as peer:
                yield from _measured(browser, url, peer, ids, cold)


def _measured(browser: Browser, url: str, peer: str, ids: list[str], cold: float) -> Iterator[Row]:
    theirs = _Theirs(browser, peer, ids)
    first = [_first(browser, url, TABLE) for _ in range(ROUNDS)]
    what = f"an empty browser's first page; MLflow's. Cold start of the server, until all runs are there: {cold:.1f} s"
    yield _row("first-load", what, [seconds for seconds, _ in first], theirs.first())
    size = first[0][1]
    yield Row(
        "first-script", "script of that page, compressed; the limit", size / 1e3, SCRIPT_BYTES / 1e3, "kB",
        SCRIPT_BYTES / size, None, 1.0,
    )  # fmt: skip
    page = _opened(browser)
    listed, compared = [], []
    for _ in range(ROUNDS):
        page.goto(f"{url}/compare?runs={ids[0]}")
        _painted(page, COMPARED)
        listed.append(_painted(page, TABLE, "document.querySelector('a.page-link').click()"))
        page.goto(f"{url}/?runs={','.join(ids)}")
        _painted(page, TABLE)
        compared.append(_painted(page, COMPARED, "document.getElementById('leaderboard-compare').click()"))
    yield _row("leaderboard", f"click to rows, {RUNS:,} runs of {METRICS} metrics; MLflow's", listed, theirs.list())
    yield _row("compare-8", f"click to comparison of {SHOWN} runs; MLflow's", compared, theirs.comparison())
    page.goto(f"{url}/masks?dataset=photos&split=val&runs={','.join(ids)}&what=pred_crf&sort=name")
    _painted(page, IMAGE)
    shown = []
    for _ in range(3 * ROUNDS):
        page.wait_for_load_state("networkidle")
        before = page.evaluate(f"{IMAGE}.dataset.image")
        press = "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'n', bubbles: true}))"
        shown.append(_painted(page, f"{IMAGE}.dataset.image !== {json.dumps(before)}", press))
    what = f"key to next image under {SHOWN} runs; MLflow's, one picture"
    yield _row("next-image", what, shown, theirs.picture())


class _Theirs:
    """MLflow's own pages; a list without seconds where one does not come."""

    def __init__(self, browser: Browser, url: str, ids: list[str]) -> None:
        self._browser, self._url, self._ids = browser, url, ids
        self._page = _opened(browser)

    def first(self) -> Seconds:
        address = f"{self._url}/#/experiments/0/runs"
        return self._each(lambda: _first(self._browser, address, self._named(RUNS - 1))[0])

    def list(self) -> Seconds:
        self._page.goto(f"{self._url}/#/models")
        return self._shown("#/experiments/0/runs", self._named(RUNS - 1))

    def comparison(self) -> Seconds:
        runs = json.dumps(self._ids, separators=(",", ":"))
        return self._shown(f'#/compare-runs?runs={runs}&experiments=["0"]', self._named(int(self._ids[-1], 16)))

    def picture(self) -> Seconds:
        address = f"#/experiments/0/runs/{self._ids[0]}/artifacts/pictures/0.png"
        return self._shown(address, "[...document.images].some((image) => image.naturalWidth === 500)")

    @staticmethod
    def _named(number: int) -> str:
        return f"document.body?.innerText.includes('run-{number}')"

    def _shown(self, address: str, ready: str) -> Seconds:
        def once() -> float:
            _painted(self._page, f"!({ready})", "location.hash = '#/models'")
            return _painted(self._page, ready, f"location.hash = {json.dumps(address)}")

        return self._each(once)

    def _each(self, once: Callable[[], float]) -> Seconds:
        from playwright.sync_api import Error

        try:
            return [once() for _ in range(THEIR_ROUNDS)]
        except Error as error:
            print(f"MLflow's page did not come: {str(error).splitlines()[0]}", file=sys.stderr)
            return []


def _painted(page: Page, ready: str, act: str = "") -> float:
    """Seconds from what is done on a page until what has to stand there has been drawn."""
    program = f"""async () => {{
        const frame = () => new Promise((then) => requestAnimationFrame(then));
        const start = performance.now();
        {act};
        while (!({ready})) {{
            if (performance.now() - start > {1000 * _PAINTED_S}) throw new Error("not painted within {_PAINTED_S} s");
            await frame();
        }}
        await frame();
        await frame();
        return (performance.now() - start) / 1000;
    }}"""
    return float(page.evaluate(program))


def _first(browser: Browser, url: str, ready: str) -> tuple[float, int]:
    """Seconds of a first page in a browser without a cache, and the bytes of its scripts."""
    page = _opened(browser)
    sizes: list[int] = []

    def count(request: Any) -> None:
        if request.resource_type == "script":
            sizes.append(request.sizes()["responseBodySize"])

    page.on("requestfinished", count)
    begun = time.perf_counter()
    page.goto(url, wait_until="commit")
    _painted(page, ready)
    seconds = time.perf_counter() - begun
    page.context.close()
    return seconds, sum(sizes)


def _cold(browser: Browser, url: str, begun: float) -> float:
    """Seconds from the command until a page shows all runs."""
    page = _opened(browser)
    page.goto(url, wait_until="commit")
    _painted(page, f"document.getElementById('leaderboard-count')?.textContent.includes('of {RUNS:,} runs')")
    page.context.close()
    return time.perf_counter() - begun


def _row(key: str, what: str, ours: list[float], theirs: list[float]) -> Row:
    """The row of a limit: the ratio is the limit over our time, with its quartiles."""
    ratios = LIMITS_S[key] / np.array(ours)
    low, high = np.quantile(ratios, [0.25, 0.75])
    own, peer = statistics.median(ours), statistics.median(theirs) if theirs else None
    what = f"{what} (limit {LIMITS_S[key]:g} s)"
    return Row(key, what, own, peer, "s", float(np.median(ratios)), (float(low), float(high)), 1.0)


def _opened(browser: Browser) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.set_default_timeout(1000 * _PAINTED_S)
    return page


@contextmanager
def _browser() -> Iterator[Browser]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise UserError("this needs playwright and a Chromium: pip install playwright, apt install chromium") from None
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@contextmanager
def _dashboard() -> Iterator[tuple[str, float]]:
    """`wsss dashboard` of the current folder: its address, and when it was begun."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "wsss.cli", "dashboard", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().split()[-1], begun
        finally:
            process.terminate()


@contextmanager
def _mlflow(folder: Path) -> Iterator[str]:
    """`mlflow server` of the store in a folder, without its jobs; its address."""
    listener, url = listen("127.0.0.1", 0)
    listener.close()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--default-artifact-root", str(folder / "mlruns"), "--workers", "1", "--port", url.rpartition(":")[2]]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            end = time.monotonic() + _START_S
            while time.monotonic() < end and process.poll() is None:
                try:
                    urlopen(f"{url}/health", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield url
        finally:
            os.killpg(process.pid, 15)
