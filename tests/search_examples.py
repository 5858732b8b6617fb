"""Searches for tests of pages: written as a search writes them, without a trial that computes anything."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import empty_store

from tune.mirror import Mirror
from tune.objective import Objective
from tune.parent import SearchRun, search_run
from tune.search import MethodSearch, SearchPlan
from tune.study import COMPLETE, FAILED, Study
from tune.verdict import Measure, Verdict
from wsss.data import Dataset
from wsss.settings import Search, choice
from wsss.tracking import names

METRIC = "dev/labels_crf/miou"
SPACE = {"refine.walk.alpha": Search("loguniform", 1.0, 32.0), "refine.walk.beta": choice(2.0, 4.0, 8.0)}
FIRST = {"refine.walk.alpha": 10.0, "refine.walk.beta": 8.0}
ERROR = "<img src=x onerror=alert(1)> out of memory"


def plan(name: str, *, seconds: bool = False) -> SearchPlan:
    """A search of AffinityNet's walk on dataset shapes."""
    part = MethodSearch("affinity", Objective(METRIC, "evaluate.labels_crf", "refine"), SPACE, FIRST, {})
    return SearchPlan((part,), "demo", "shapes", "", 0, {}, "cpu", seconds, "random", given=name)


class Running:
    """A search that runs, whose trials end as they are told."""

    def __init__(self, study: Study, parent: SearchRun, mirror: Mirror) -> None:
        self.id, self._study, self._parent, self._mirror = parent.id, study, parent, mirror

    def trial(self, state: str, value: float, how: str = "reused", seconds: float = 63.0) -> int:
        """Another trial, from its beginning to its end; its number."""
        number = self.begin(value)
        self.end(number, state, value, how, seconds)
        return number

    def begin(self, value: float) -> int:
        """A trial begins, and gives a value on a part of dev."""
        number, candidate = self._study.take()
        self._mirror.begin(number, candidate)
        self._mirror.report(number, {names.so_far(METRIC): value}, 4)
        return number

    def end(self, number: int, state: str, value: float, how: str = "reused", seconds: float = 63.0) -> None:
        """It ends; its walk was computed."""
        steps = [_step("localize.train", how, "shared"), _step("refine.walk", "computed", f"walk {number}")]
        self._study.note(number, steps=steps, seconds=seconds, saved=20.0, images=8, of=8)
        if state == FAILED:
            self._study.note(number, error=ERROR)
        self._study.end(number, state, value if state == COMPLETE else None, seconds)
        self._mirror.end(self._study.records[number])

    def written(self) -> None:
        """Everything so far is in MLflow."""
        assert self._mirror.close()

    def verdict(self) -> Verdict:
        """The best trial beside the preset's own settings, which were the first."""
        best = self._study.best
        assert best is not None and best.value is not None
        first = self._study.records[0]
        value, final = first.value or 0.0, {"val/pred_crf/miou": 0.4}
        default = Measure(0, first.candidate, value, (value,), final, "f" * 32)
        measure = Measure(best.number, best.candidate, best.value, (best.value,))
        return Verdict(measure, default, best.value - default.value, (-0.02, 0.18), False)


@contextmanager
def running(name: str, *, seconds: bool = False) -> Iterator[Running]:
    """A search that runs as long as the `with` block, in the workspace where the process stands."""
    search = plan(name, seconds=seconds)
    study = Study(search, Path("work"), trials=1000)
    with search_run(search, study) as parent:
        it = Running(study, parent, Mirror(parent.client, study, parent.id, parent.experiment))
        yield it
        it.written()
        parent.end(study, it.verdict() if study.best else None)


def fresh(root: Path, template: Path, shapes: Dataset) -> Path:
    """A workspace with the dataset shapes and an empty store."""
    shutil.copytree(shapes.root, root / "data" / "shapes")
    empty_store(template, root / "mlflow.db")
    return root


def _step(key: str, how: str, output: str) -> dict[str, object]:
    made = [output] if how == "computed" else []
    return {"key": key, "how": how, "seconds": 20.0, "fingerprints": [output], "computed": made}
