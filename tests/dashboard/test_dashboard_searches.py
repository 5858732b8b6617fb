"""The page of searches: what was tried, what it cost and reused, which settings mattered, live while one runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from dashboard_examples import Dashboard, served, standing_in, until
from playwright.sync_api import Page, expect
from search_examples import ERROR, METRIC, SPACE, fresh, running
from tracking_examples import INFO

from tune.grid import Cell, Grid
from tune.grid_rows import rows_of
from tune.grid_run import GridRun
from tune.search import Candidate, SearchPlan
from tune.study import COMPLETE, FAILED, PRUNED
from wsss.dashboard.searches import ablations, figures
from wsss.dashboard.searches import page as searches
from wsss.dashboard.searches.ablations import chosen
from wsss.dashboard.searches.trials import Watch, watch
from wsss.errors import UserError
from wsss.tables.ablation import kinds
from wsss.tracking import names, query
from wsss.tracking.connection import mlflow_client
from wsss.tracking.searches import find_search, trials

pytest_plugins = ("dashboard_examples",)
pytestmark = pytest.mark.usefixtures("surroundings")
TRAIN = "train/labels_crf/miou"
GRID = {"refine.walk.beta": [2.0, 8.0], "refine.walk.steps": [16, 64]}


@pytest.fixture(scope="module")
def root(tmp_path_factory, template, tiny_shapes) -> Path:
    """A workspace with one search of six trials and the runs of a grid."""
    root = fresh(tmp_path_factory.mktemp("searches"), template, tiny_shapes)
    with standing_in(root):
        with running("small <b>", seconds=True) as search:
            for state, value in ((COMPLETE, 0.50), (COMPLETE, 0.61), (PRUNED, 0.2), (FAILED, 0.1), (COMPLETE, 0.55)):
                search.trial(state, value, "computed" if value == 0.50 else "reused", 60 + 100 * value)
            search.trial(COMPLETE, 0.58, "waited")
        _write_grid()
    return root


def _write_grid() -> None:
    """Runs of AffinityNet over beta and steps, with two rngs; one with another alpha, one that failed."""
    client = mlflow_client()
    for beta in GRID["refine.walk.beta"]:
        for steps in GRID["refine.walk.steps"]:
            for rng in (0, 1):
                _write_run(
                    client, {"refine.walk.beta": beta, "refine.walk.steps": steps}, rng, _value(beta, steps, rng)
                )
    _write_run(client, {"refine.walk.beta": 2.0, "refine.walk.steps": 16, "refine.walk.alpha": 3.0}, 0, 0.9)
    _write_run(client, {"refine.walk.beta": 2.0, "refine.walk.steps": 256}, 0, 0.9, "FAILED")


def _write_run(client, settings: dict, rng: int, value: float, status: str = "FINISHED") -> None:
    settings = {"refine.walk.alpha": 10.0} | settings
    info = replace(INFO, rng=rng, settings=settings, group=json.dumps(settings), fingerprint=f"{settings} {rng}")
    run = client.create_run("0", tags=info.all_tags).info.run_id
    for key, text in info.params.items():
        client.log_param(run, key, text)
    client.log_metric(run, METRIC, value)
    client.log_metric(run, TRAIN, value + 0.05)
    client.set_terminated(run, status)


def _value(beta: float, steps: int, rng: int) -> float:
    return 0.4 + beta / 100 + steps / 1000 + rng / 50


@pytest.fixture(scope="module")
def dashboard(root: Path) -> Iterator[Dashboard]:
    with served(root) as it:
        yield it


@pytest.fixture
def inside(root: Path) -> Iterator[Path]:
    with standing_in(root):
        yield root


@pytest.fixture
def seen(inside: Path) -> Watch:
    """The search of the workspace, looked at."""
    [record] = [record for record in map(find_search, _searches()) if record.name == "small <b>"]
    found = Watch(record.id)
    found.look()
    return found


def _searches() -> list[str]:
    runs = query.search(mlflow_client(), f"tags.`{names.KIND}` = '{names.SEARCH_RUN}'")
    return [run.info.run_id for run in runs]


def test_a_search_is_read_back_with_its_states_errors_costs_and_what_each_trial_reused(seen: Watch) -> None:
    assert (seen.record.status, seen.record.objective, seen.record.best_trial) == ("FINISHED", METRIC, 1)
    rows = seen.rows()
    assert [row["state"] for row in rows] == ["complete", "complete", "given up", "failed", "complete", "complete"]
    assert [row["value"] for row in rows[:3]] == [50.0, 61.0, 20.0] and rows[3]["error"] == ERROR
    assert rows[0]["computed"] == "localize.train, refine.walk" and not rows[0]["reused"]
    assert rows[1]["reused"] == "localize.train (trial 1)" and rows[1]["computed"] == "refine.walk"
    assert rows[5]["waited"] == "localize.train (trial 1)" and rows[5]["saved"] == 20.0
    assert not seen.live


def test_trials_of_an_older_version_say_their_steps_by_their_artifact(inside: Path, seen: Watch) -> None:
    client = mlflow_client()
    for trial in seen.trials.values():
        client.delete_tag(trial.run, names.TRIAL_HOW)
    old = Watch(seen.record.id)
    old.look()
    while old.live:
        old.look()
    assert [row["reused"] for row in old.rows()] == [row["reused"] for row in seen.rows()]


def test_only_what_changed_is_asked_for_while_a_search_runs(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running("live") as search:
        search.trial(COMPLETE, 0.5)
        number = search.begin(0.3)
        found = Watch(search.id)
        until(lambda: found.look() or {t.state for t in found.trials.values()} == {"complete", "running"})
        version, asked = found.version, []

        def ask(record, condition=""):
            asked.append(condition)
            return trials(record, condition)

        monkeypatch.setattr("wsss.tracking.searches.trials", ask)
        found.look()
        assert found.version == version and found.rows(version) == [] and all(asked), "nothing new, nothing read whole"
        search.end(number, PRUNED, 0.3)
        search.trial(FAILED, 0.1)
        until(lambda: found.look() or (len(found.trials) == 3 and found.trials[1].state == "pruned"))
        assert {row["trial"] for row in found.rows(version)} == {2, 3} and all(asked)
    found.look()
    assert found.record.status == "FINISHED" and not found.live


def test_a_search_whose_process_is_gone_says_so_and_how_it_goes_on(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running("killed") as search:
        search.trial(COMPLETE, 0.5)
        monkeypatch.setattr("wsss.tracking.searches.process_gone", lambda tags: True)
        page = str(searches.layout(None, {"search": search.id}))
        assert "its process is gone" in page and "python -m tune --resume killed" in page


def test_the_figures_have_every_trial_and_say_its_number(seen: Watch) -> None:
    history = figures.history(seen, 2)
    dots = {trace["name"]: trace["customdata"] for trace in history["data"] if trace.get("customdata")}
    assert dots == {"complete": [1, 2, 5, 6], "given up": [3], "failed": [4]}
    assert history["data"][-1]["x"] == [2], "the ring is around the picked one"
    parallel = figures.parallel(seen, "affinity", SPACE, 2)
    assert {n for trace in parallel["data"] for n in trace["customdata"]} == {1, 2, 3, 4, 5, 6}
    assert parallel["data"][-1]["customdata"][0] == 2 and len(parallel["layout"]["xaxis"]["ticktext"]) == 3
    assert figures.front(seen, None)["data"][0]["x"] == [63.0, 121.0]
    assert not any(trace["type"].endswith("gl") or trace["type"] == "parcoords" for trace in parallel["data"])


def test_a_thousand_trials_are_drawn_in_a_moment(seen: Watch) -> None:
    seen.trials = {n: replace(seen.trials[n % 2], number=n, value=n / 1000) for n in range(1000)}
    figure = figures.parallel(seen, "affinity", SPACE, None)
    assert len(figure["data"]) <= 12 and len(json.dumps(figure)) < 1_500_000


@pytest.mark.parametrize(
    ("page", "asked", "sentence"),
    [
        (searches, {"search": "0" * 32}, "there is no search 0000.*the page /searches lists them"),
        (searches, {"trial": "9"}, "has no trial 9; its trials are 1 to 6"),
        (searches, {"trial": "<b>"}, "has no trial <b>"),
        (searches, {"method": "cam"}, "unknown method of search small <b> 'cam'; choose from affinity"),
    ],
)
def test_what_is_not_there_is_one_sentence(seen: Watch, page, asked, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        page.layout(None, {"search": seen.record.id} | asked)


def test_an_ablation_has_the_figures_that_a_grid_has(inside: Path) -> None:
    choice = chosen(query.runs(finished=False), {})
    assert choice is not None and choice.keys == ("refine.walk.beta", "refine.walk.steps")
    assert choice.metrics == (METRIC, TRAIN) and choice.bases[0].settings == {"refine.walk.alpha": "10.0"}
    cells = tuple(
        Cell(Candidate("affinity", own), own, frozenset())
        for beta in GRID["refine.walk.beta"]
        for steps in GRID["refine.walk.steps"]
        if (own := {"refine.walk.beta": beta, "refine.walk.steps": steps})
    )
    grid = Grid(
        SearchPlan((), "demo", "shapes", "", 0, {}, "cpu"),
        dict.fromkeys(GRID, ()),
        (0, 1),
        cells,
        None,
        (METRIC, TRAIN),
    )
    made = []
    for cell in cells:
        for rng in (0, 1):
            value = _value(*cell.values.values(), rng)
            made.append(GridRun(cell, rng, "run", {METRIC: value, TRAIN: value + 0.05}))
    for row, of_grid in zip(choice.rows, rows_of(grid, made), strict=True):
        assert row.settings == of_grid.settings and row.rngs == of_grid.rngs
        for metric in (METRIC, TRAIN):
            assert row.text(metric) == of_grid.text(metric) and "±" in row.text(metric)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"key": "refine.walk.radius"}, "unknown setting that varies 'refine.walk.radius'; choose from refine.walk.al"),
        ({"of": "nothing"}, "unknown kind of runs 'nothing'; choose from shapes · affinity · demo"),
        ({"metric": "val/pred/miou"}, "unknown objective 'val/pred/miou'; choose from dev/labels_crf/miou"),
        ({"base": "7"}, "there is no set 7 of runs that differ in refine.walk.beta and refine.walk.steps: 0 to 0"),
        ({"key": "refine.walk.beta", "against": "refine.walk.beta"}, "over one setting or two different ones"),
    ],
)
def test_an_ablation_that_is_not_there_is_one_sentence(inside: Path, asked, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        chosen(query.runs(finished=False), asked)


def test_without_runs_the_pages_say_what_to_run(tmp_path: Path, template, tiny_shapes) -> None:
    with standing_in(fresh(tmp_path, template, tiny_shapes)):
        from wsss.dashboard.page import Context
        from wsss.dashboard.reading import Reading

        assert "python -m tune --method affinity" in str(searches.layout(None, {}))
        assert "python -m tune --grid refine.walk.beta=2,8,32" in str(ablations.layout(Context(Reading()), {}))
        assert kinds([]) == {}


def test_clicks_pick_a_trial_and_the_address_shows_it_again(dashboard: Dashboard, page: Page, window: Callable) -> None:
    with standing_in(dashboard.root), running("newest"):
        pass
    page.goto(f"{dashboard.url}/searches")
    expect(page.get_by_text("No trial is complete yet.")).to_be_visible()
    page.get_by_role("link", name="small <b>").click()
    expect(page.get_by_role("heading", name="Search small <b>")).to_be_visible()
    expect(page.locator(".ag-center-cols-container .ag-row")).to_have_count(6)
    point = page.locator("#searches-history .scatterlayer .points path").nth(1)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#searches-history .hovertext")).to_contain_text("trial 2, complete, 61, affinity")
    page.mouse.down()
    page.mouse.up()
    expect(page.locator("#searches-trial h3")).to_have_text("Trial 2")
    expect(page.locator(".ag-row-selected").first).to_contain_text("2")
    page.wait_for_url("**trial=2**")
    page.locator(".ag-center-cols-container .ag-row").nth(3).click()
    expect(page.locator("#searches-trial .problem")).to_have_text(ERROR)
    page.wait_for_url("**trial=4**")
    again = window()
    again.goto(page.url)
    expect(again.locator("#searches-trial h3")).to_have_text("Trial 4")
    expect(again.locator("#searches-trial .problem")).to_have_text(ERROR)
    expect(again.locator(".ag-row-selected").first).to_contain_text("4")


def test_a_page_follows_a_search_that_runs_until_it_ends(dashboard: Dashboard, page: Page) -> None:
    with running("followed") as search:
        search.trial(COMPLETE, 0.5)
        page.goto(f"{dashboard.url}/searches?search={search.id}")
        expect(page.locator("#searches-state")).to_contain_text("Running.")
        expect(page.locator(".ag-center-cols-container .ag-row")).to_have_count(1)
        search.trial(PRUNED, 0.2)
        expect(page.locator(".ag-center-cols-container .ag-row")).to_have_count(2)
        expect(page.locator("#searches-state")).to_contain_text("1 complete, 1 given up")
    expect(page.locator("#searches-state")).to_contain_text("Finished.")
    expect(page.locator("#searches-outcome")).to_contain_text("the preset's own settings stay")
    assert not watch(search.id).live


def test_a_choice_of_an_ablation_is_drawn_and_stands_in_the_address(
    dashboard: Dashboard, page: Page, window: Callable
) -> None:
    page.goto(f"{dashboard.url}/ablations")
    rows = page.locator("#ablations-rows tbody tr")
    expect(rows).to_have_count(4)
    expect(page.locator("#ablations-map .heatmap-label text").first).to_be_visible()
    page.locator("#ablations-against").get_by_label("Clear").click()
    expect(rows).to_have_count(2)
    expect(page.locator("#ablations-over")).to_be_hidden()
    page.wait_for_url(lambda url: "against" not in url and "key=refine.walk.beta" in url)
    again = window()
    again.goto(page.url)
    expect(again.locator("#ablations-rows tbody tr")).to_have_count(2)
