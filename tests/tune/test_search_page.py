"""The page of a search: what is on it, with one trial and with a thousand, with failed and pruned ones."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

import tune.study
from tune.objective import Objective
from tune.search import Candidate, MethodSearch, SearchPlan
from tune.search_page import SEARCH_PAGE, search_page, write_search_page
from tune.study import FACTS, Study
from tune.verdict import Measure, Verdict
from wsss.settings import Search, choice

SPACE = {"refine.walk.alpha": Search("loguniform", 1.0, 32.0), "refine.walk.beta": choice(2.0, 4.0, 8.0)}
FIRST = {"refine.walk.alpha": 10.0, "refine.walk.beta": 8.0}
STATES = (TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
FACT = {
    "steps": [
        {"key": "refine.walk", "how": "computed", "seconds": 3.0, "fingerprints": ["a"]},
        {"key": "refine.train", "how": "reused", "seconds": 40.0, "fingerprints": ["b"]},
        {"key": "localize.train", "how": "waited", "seconds": 20.0, "fingerprints": ["c"]},
    ],
    "seconds": 63.0, "saved": 60.0, "images": 9, "of": 9,
}  # fmt: skip


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """From a number of trials, states and methods to a study with them, in memory."""

    def make(trials: int, states=STATES, methods=("affinity",), seconds: bool = False, value=random.random) -> Study:
        kept = optuna.storages.InMemoryStorage()
        monkeypatch.setattr(tune.study, "storage", lambda work: kept)
        goal = Objective("dev/labels_crf/miou", "evaluate.labels_crf", "refine")
        parts = tuple(MethodSearch(method, goal, SPACE, FIRST, {}) for method in methods)
        search = SearchPlan(parts, "demo", "<i>data", "", 0, {}, "cpu", seconds, "random", given="a<b>_$x^$")
        made = Study(search, tmp_path, trials=trials)
        random.seed(0)
        for number in range(trials):
            method = methods[number % len(methods)]
            prefix = f"{method} " if len(methods) > 1 else ""
            params = {f"{prefix}refine.walk.alpha": random.uniform(1, 32), f"{prefix}refine.walk.beta": 4.0}
            kinds = {
                f"{prefix}refine.walk.alpha": FloatDistribution(1.0, 32.0, log=True),
                f"{prefix}refine.walk.beta": CategoricalDistribution((2.0, 4.0, 8.0)),
            }
            if prefix:
                params["method"], kinds["method"] = method, CategoricalDistribution(methods)
            state = states[number % len(states)]
            facts = FACT | ({"error": "<script>out of memory"} if state == TrialState.FAIL else {})
            values = [value(), 63.0][: 1 + seconds] if state == TrialState.COMPLETE else None
            made.optuna.add_trial(
                create_trial(
                    state=state,
                    params=params,
                    distributions=kinds,
                    values=values,
                    user_attrs={FACTS: json.dumps(facts)},
                )
            )
        return made

    return make


def figures(page: str) -> list[str]:
    found = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    for svg in found:
        ElementTree.fromstring(svg)
    return ["".join(ElementTree.fromstring(svg).itertext()) for svg in found]


def test_importance_parallel_coordinates_history_and_the_table_are_on_one_page(study) -> None:
    page = search_page(study(12), None)
    history, importance, parallel = figures(page)
    assert "dev/labels_crf/miou" in history and "Importance" in importance and "refine.walk.alpha" in parallel
    rows = re.findall("<tr><td>.*?</tr>", page)
    assert len(rows) == 12
    assert "<td>refine.walk</td><td>localize.train</td><td>refine.train</td><td>63.0</td><td>60.0</td>" in rows[0]
    assert "6 complete, 3 given up, 3 failed" in page and "756 s, of which 720 s were not computed anew" in page


def test_names_and_errors_are_text_never_markup_or_formulas(study) -> None:
    page = search_page(study(8), None)
    assert "<b>" not in page and "<i>" not in page and "<script" not in page
    assert "a&lt;b&gt;_$x^$" in page and "&lt;script&gt;out of memory" in page
    assert not re.search(r'(?:src|href)="(?!#|data:)', page), "nothing is fetched"
    assert not any("$" in text for text in figures(page)), "an axis's numbers are no formulas either"


@pytest.mark.parametrize("methods", [("affinity",), ("affinity", "cam", "fcn_mil")])
@pytest.mark.parametrize("states", [STATES, STATES[2:], STATES[:1], (TrialState.FAIL, TrialState.COMPLETE)])
@pytest.mark.parametrize("trials", [0, 1, 5])
def test_few_failed_and_pruned_trials_of_several_methods_still_make_a_page(study, trials, states, methods) -> None:
    page = search_page(study(trials, states, methods), None)
    assert len(re.findall("<tr><td>", page)) == trials
    assert figures(page) or "nothing to draw" in page


def test_equal_values_make_a_page(study) -> None:
    assert figures(search_page(study(6, value=lambda: 0.5), None))


def test_each_method_has_its_own_pictures_with_its_own_settings(study) -> None:
    page = search_page(study(24, methods=("affinity", "cam")), None)
    assert len(figures(page)) == 5 and "Settings and values of cam" in page
    assert not any("cam refine.walk" in text for text in figures(page)[1:])


def test_where_seconds_count_the_front_is_drawn(study) -> None:
    page = search_page(study(8, seconds=True), None)
    assert "Quality against seconds" in page and len(figures(page)) == 4


def test_a_thousand_trials_make_a_page_that_a_browser_opens(study) -> None:
    page = search_page(study(1000), None)
    assert len(re.findall("<tr><td>", page)) == 1000 and len(page) < 3_000_000
    assert len(figures(page)) == 3


def test_the_verdict_stands_above_with_dev_and_val(study) -> None:
    best = Measure(3, Candidate("affinity", FIRST), 0.6, (0.6, 0.62), {"val/pred_crf/miou": 0.51}, "run-of-best")
    default = Measure(0, Candidate("affinity", FIRST), 0.5, (0.5,), {"dev/pred_crf/miou": 0.48}, "run-of-default")
    page = search_page(study(4), Verdict(best, default, 0.1, (0.02, 0.18), True))
    assert "+0.1000, 95 % [+0.0200, +0.1800]; the best trial is taken" in page
    assert "0.6100 ± 0.0141" in page and "run-of-best" in page and "0.5100" in page and "0.4800" in page


def test_the_leaderboard_has_each_method_with_its_preset_and_its_best_trial(study) -> None:
    final = {"dev/pred_crf/miou": 0.481, "val/pred_crf/miou": 0.512}
    own = [
        Measure(number, Candidate(name, {"refine.walk.beta": float(number)}), value, (value,), final, f"run{number}")
        for number, (name, value) in enumerate([("affinity", 0.5), ("affinity", 0.6), ("cam", 0.4), ("cam", 0.5)])
    ]
    affinity, cam = (Verdict(own[n + 1], own[n], 0.1, (0.02, 0.18), better) for n, better in ((0, True), (2, False)))
    page = search_page(study(4), replace(affinity, methods=(affinity, cam)))
    assert "Method by method" in page
    rows = [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr>(<td>.*?)</tr>", page)][2:4]
    assert rows == [
        ["affinity", "0.5000", "0.6000", "+0.1000 [+0.0200, +0.1800]", "the trial", "48.1, 51.2", "48.1, 51.2"],
        ["cam", "0.4000", "0.5000", "+0.1000 [+0.0200, +0.1800]", "the preset", "48.1, 51.2", "-"],
    ]


class Client:
    """A tracking store that answers or does not."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.logged = error, {}

    def log_text(self, run: str, text: str, name: str) -> None:
        if self.error:
            raise self.error
        self.logged[run, name] = text


def test_the_page_is_written_and_logged(study, tmp_path: Path) -> None:
    client = Client()
    path = write_search_page(study(2), None, tmp_path / "search", client, "run")
    assert path == tmp_path / "search" / "a<b>_$x^$.html"
    assert client.logged == {("run", SEARCH_PAGE): path.read_text()}


def test_a_server_that_is_away_leaves_the_page_on_disk(study, tmp_path: Path, capsys) -> None:
    path = write_search_page(study(2), None, tmp_path / "search", Client(OSError("refused")), "run")
    assert path.exists() and "could not be logged" in "".join(capsys.readouterr())
