"""The example of docs/adding-a-method.md is a method: found, planned, run, tested by its own tests."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipelines import generate, sources
from wsss import methods
from wsss.data import Dataset
from wsss.data.score_maps import ScoreMaps
from wsss.progress import ConsoleReporter
from wsss.run.plan import make_plan, stands_alone
from wsss.run.preset import PRESETS
from wsss.run.steps import StepRunner
from wsss.scores.scored import SCORED
from wsss.tables import catalogue
from wsss.tables.published import published

PROJECT = Path(generate.__file__).parents[1]
METHOD_FILE, TEST_FILE = re.findall(
    r"```python\n(.*?)```", (PROJECT / "docs" / "adding-a-method.md").read_text(), re.DOTALL
)
NAME = "hide_and_seek"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of the example, in a second folder of methods."""
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / f"{NAME}.py").write_text(METHOD_FILE)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    importlib.invalidate_caches()
    yield folder / f"{NAME}.py"
    sys.modules.pop(f"wsss.methods.{NAME}", None)
    for remembered in (sources._file, sources._module, sources._read):
        remembered.cache_clear()


def test_the_example_is_a_method_like_any_other(example: Path) -> None:
    assert NAME in methods.names()
    for preset in PRESETS:
        assert make_plan(NAME, preset).supervision == frozenset()
    assert make_plan(NAME, "demo", {"refine.name": "affinity", "localize.train.cells": "8"})
    assert stands_alone(NAME)
    assert methods.implementation("localize", NAME).name == NAME
    assert any(row["method"] == NAME for row in catalogue.catalogue())
    assert f"localize.{NAME}.train" in sources.current()
    assert f"{NAME}-refine" in generate.stages(NAME)


def test_the_example_runs(example: Path, tiny_shapes: Dataset, tmp_path: Path) -> None:
    runner = StepRunner(tiny_shapes, 0, torch.device("cpu"), tmp_path / "work")
    settings = {"localize.train.epochs": "1", "localize.train.crop": "65", "refine.crf.iterations": "1"}
    for planned in make_plan(NAME, "demo", settings).steps:
        if planned.stage in ("localize", "refine"):
            runner.run(planned, ConsoleReporter(planned.key))
    maps = ScoreMaps(runner.results["localize.infer"].folder / "cam")
    assert set(maps.ids) == {*tiny_shapes.splits["train"], *tiny_shapes.splits["dev"]}
    assert runner.results["localize.train"].metrics["train/loss"] > 0


def test_the_examples_own_tests_pass(example: Path) -> None:
    names: dict[str, object] = {}
    exec(TEST_FILE, names)
    tests = [found for name, found in names.items() if name.startswith("test_")]
    assert len(tests) == 3
    for test in tests:
        test()  # type: ignore[operator]


def test_the_list_of_methods_needs_no_network_library() -> None:
    program = (
        "import sys; from wsss.tables.catalogue import catalogue; catalogue(); "
        "print(*sorted({'torch', 'mlflow', 'ray', 'dvc', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert done.stdout.strip() == ""


def test_the_list_says_what_the_methods_say_and_what_was_published() -> None:
    rows = {row["method"]: row for row in catalogue.catalogue()}
    assert tuple(rows) == methods.names()
    assert json.loads(json.dumps(rows["bound"])) == rows["bound"]
    assert rows["bound"]["supervision"] == "masks" and rows["cam"]["supervision"] == "tags"
    for row in rows.values():
        assert row["title"] and row["citation"] and row["year"] > 2000 and row["stages"] and row["settings"]
        expected = [(p.miou, p.split, p.supervision) for p in published() if p.method == row["method"]]
        assert [(p["miou"], p["split"], p["supervision"]) for p in row["published"]] == expected
    assert (61.7, "val") in [(p["miou"], p["split"]) for p in rows["affinity"]["published"]]


def test_tables_runs_and_pages_name_no_method_and_no_step() -> None:
    """Words that are not a method's alone may stand there: roles, and what is scored.

    The networks that a package may hold are a format of their own, in two files.
    """
    words = {*methods.names()} - {*SCORED} - {method.role for method in map(methods.load, methods.names())}
    steps = {planned.key for name in methods.names() for planned in make_plan(name, "demo").steps}
    formats = {PROJECT / "wsss" / "serving" / f"{name}.py" for name in ("networks", "description")}
    named = []
    for room in ("tables", "run", "tracking", "registry", "serving"):
        for path in {*(PROJECT / "wsss" / room).rglob("*.py")} - formats:
            tree = ast.parse(path.read_text())
            docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docs]
            named += [f"{path}:{text.lineno}" for text in texts if text.value in words | steps]
    assert named == []
