"""A browser, a dashboard on a store of finished runs, and windows whose consoles must stay empty.

A file of tests has them by `pytest_plugins = ("dashboard_examples",)`.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from conftest import SMALL, Workspace, same_surroundings
from playwright.sync_api import Browser, Page, expect, sync_playwright
from typer.testing import CliRunner

from wsss.cli import app as wsss
from wsss.dashboard.app import make_app
from wsss.dashboard.page import Context
from wsss.dashboard.reading import Reading
from wsss.serving.connections import listen
from wsss.tracking import query

METHODS = {"cam": ("localize.", "segment."), "bound": ("segment.",)}
"""What is run beside AffinityNet, with the stages that have settings: from the same localizer, and from masks."""
QUICK = {"segment.train.epochs": "1"}
DEADLINE_MS = 10_000
"""How long a test waits for what the page should show."""
expect.set_options(timeout=DEADLINE_MS)


@dataclass(frozen=True)
class Dashboard:
    """A dashboard that answers.

    Attributes:
        url: without a slash at the end.
        root: the workspace that it shows; the process stands in it.
        context: what its pages read.
    """

    url: str
    root: Path
    context: Context


@pytest.fixture(scope="session")
def filled(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with finished runs of AffinityNet and of `METHODS`, once for the whole session; not to be changed."""
    root = tmp_path_factory.mktemp("filled") / "workspace"
    shutil.copytree(workspace.root, root)
    with standing_in(root):
        for method, stages in METHODS.items():
            settings = [f"--set={key}={value}" for key, value in (SMALL | QUICK).items() if key.startswith(stages)]
            done = CliRunner().invoke(wsss, ["run", "--method", method, "--preset", "demo", *settings])
            assert done.exit_code == 0, done.exception
    return root


@contextmanager
def standing_in(root: Path) -> Iterator[None]:
    """The process stands in a workspace, and MLflow looks there."""
    with same_surroundings(), chdir(root):
        for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
            os.environ.pop(variable, None)
        yield


@contextmanager
def served(root: Path, context: Context | None = None, **options: Any) -> Iterator[Dashboard]:
    """The dashboard of a workspace, in this process, which stands in the workspace meanwhile: one at a time.

    A page that is open when it ends misses it, and says so in its console: close the page before.

    Args:
        root: the workspace.
        context: what its pages read; the workspace's store by default.
        options: of `wsss.dashboard.app.make_app`.
    """
    with standing_in(root):
        shown = context or Context(Reading())
        listener, url = listen("127.0.0.1", 0)
        server = uvicorn.Server(
            uvicorn.Config(make_app(shown, **options), log_level="warning", ws="none", lifespan="off")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield Dashboard(url, root, shown)
        finally:
            server.should_exit = True
            thread.join()
            shown.reading.close()


@pytest.fixture(scope="module")
def dashboard(filled: Path) -> Iterator[Dashboard]:
    """The dashboard of the workspace `filled`."""
    with served(filled) as it:
        yield it


@pytest.fixture(scope="module")
def runs(dashboard: Dashboard) -> dict[str, str]:
    """Of each method of the workspace the id of its run."""
    return {run.method: run.id for run in query.runs()}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium: Debian's, or else Playwright's own."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        if not program and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("there is no Chromium: apt install chromium, or playwright install chromium")
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def console() -> Iterator[list[str]]:
    """The errors of the consoles of a test's windows. Any that is left in the end fails the test."""
    errors: list[str] = []
    yield errors
    assert not errors


@pytest.fixture
def window(browser: Browser, console: list[str]) -> Iterator[Callable[..., Page]]:
    """Opens a window: `window(width=1280, height=800, scale=1, scheme="light")`; each has a profile of its own."""
    contexts = []

    def open_window(width: int = 1280, height: int = 800, scale: float = 1, scheme: str = "light") -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            device_scale_factor=scale,
            color_scheme=scheme,  # type: ignore[arg-type]
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(DEADLINE_MS)
        page.on("console", lambda message: console.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: console.append(str(error)))
        return page

    yield open_window
    for context in contexts:
        context.close()


@pytest.fixture
def page(window: Callable[..., Page]) -> Page:
    """A window of 1280 x 800."""
    return window()


def until(said: Callable[[], bool], seconds: float = DEADLINE_MS / 1000) -> None:
    """Wait until something is so, of which no window tells."""
    end = time.monotonic() + seconds
    while not said():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def column(page: Page, key: str) -> list[str]:
    """What stands in a column of a grid, from the top."""
    cells = f"[...document.querySelectorAll('.ag-cell[col-id=\"{key}\"]')]"
    top = "(cell) => cell.getBoundingClientRect().y"
    return page.evaluate(f"{cells}.sort((a, b) => ({top})(a) - ({top})(b)).map((cell) => cell.textContent)")  # type: ignore[no-any-return]


def filled_rows(page: Page, count: int = 1) -> None:
    """Wait until the grid of the leaderboard has so many rows, and the first of them stands there."""
    has = f"dash_ag_grid.getApi('leaderboard-grid').getDisplayedRowCount() >= {count}"
    first = "document.querySelector('.ag-row[row-index=\"0\"] [col-id=method]').textContent"
    page.wait_for_function(f"() => {{ try {{ return {has} && {first}; }} catch {{ return false; }} }}")
