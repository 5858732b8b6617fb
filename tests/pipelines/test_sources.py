"""No step changes what it computes without a new version: what counts as its source, and how a change is explained."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines import sources
from wsss import methods

PROJECT = Path(sources.__file__).parents[1]

STEP = '''
"""A module."""
from wsss import storage
from wsss.methods import little_helper
from wsss.methods.little_tools import LIMIT, Tool

def unused(): return 1

def make(name):
    """Make a step."""
    def run(context):
        # comment
        total: int = little_helper.double(LIMIT)
        storage.write_bytes(context.out / name, bytes(Tool().grow(total)))
    return run
'''
TOOLS = '''
from dataclasses import dataclass

LIMIT = 3

def factor() -> int:
    return 2

@dataclass
class Tool:
    """A tool."""
    size: int = 1

    def grow(self, by: int) -> int:
        return self.size * by * factor()
'''
HELPER = "def double(x):\n    return 2 * x\n"

Hash = Callable[..., str]


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hash]:
    """The hash of a step made of three small modules, with changes."""
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    names = ("little_step", "little_tools", "little_helper")

    def forget() -> None:
        importlib.invalidate_caches()
        for name in names:
            sys.modules.pop(f"wsss.methods.{name}", None)
            vars(methods).pop(name, None)
        for remembered in (sources._file, sources._module, sources._read):
            remembered.cache_clear()

    def hash_of(old: str = "", new: str = "") -> str:
        for name, source in zip(names, (STEP, TOOLS, HELPER), strict=True):
            (tmp_path / f"{name}.py").write_text(source.replace(old, new) if old else source)
        forget()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        return sources.source_hash(importlib.import_module("wsss.methods.little_step").make("a"))

    yield hash_of
    forget()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# comment", "# another"),
        ('"""Make a step."""', '"""Make some step."""'),
        ('"""A tool."""', ""),
        ("total: int =", "total ="),
        ("(self, by: int) -> int", "(self, by)"),
        ("def unused(): return 1", "def unused(): return 2"),
        ("2 * x", "(2  *  x)"),
    ],
)
def test_what_computes_the_same_is_the_same_source(hashed: Hash, old: str, new: str) -> None:
    assert hashed(old, new) == hashed()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Tool().grow(total)", "Tool().grow(total + 1)"),
        ("LIMIT = 3", "LIMIT = 4"),
        ("self.size * by", "self.size + by"),
        ("size: int = 1", "size: int = 2"),
        ("return 2\n", "return 3\n"),
        ("2 * x", "x * x"),
        ("@dataclass", "@dataclass(frozen=True)"),
    ],
)
def test_a_change_of_anything_that_is_used_is_a_change_of_the_source(hashed: Hash, old: str, new: str) -> None:
    assert hashed(old, new) != hashed()


def test_real_steps_reach_the_rooms_they_work_with() -> None:
    from wsss.methods.affinity.walk import walk
    from wsss.stages.localize import train_classifier

    for function, used in ((train_classifier, "wsss.training.fit"), (walk, "wsss.ops.walk.random_walk")):
        module, _, name = used.rpartition(".")
        assert (module, name) in reached(function)
        assert not any(module in sources.BESIDE for module, _ in reached(function))


def reached(function: Callable[..., object]) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    todo = [(function.__module__, function.__qualname__)]
    while todo:
        at = todo.pop()
        if at not in found:
            found.add(at)
            todo += sources._read(*at)[1]
    return found


@pytest.fixture
def two_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> sources.Record:
    """Two steps as they are now, and an empty workspace."""
    now = {"a.b.c": {"version": 1, "sha256": "new"}, "d.e.f": {"version": 2, "sha256": "same"}}
    monkeypatch.setattr(sources, "current", lambda: {key: dict(entry) for key, entry in now.items()})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines").mkdir()
    return now


def test_new_steps_and_new_versions_are_recorded_and_changed_sources_are_not(two_steps: sources.Record) -> None:
    assert sources.updated({}) == two_steps
    changed = {
        "a.b.c": {"version": 1, "sha256": "old"},
        "d.e.f": {"version": 1, "sha256": "old"},
        "gone": {"version": 1},
    }
    assert sources.updated(changed) == {"a.b.c": changed["a.b.c"], "d.e.f": two_steps["d.e.f"]}
    assert sources.unexplained(changed) == ["a.b.c"]


def test_a_change_without_effect_is_recorded_with_its_reason(
    two_steps: sources.Record, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(sources.FILE)
    old = two_steps | {"a.b.c": {"version": 1, "sha256": "old"}}
    path.write_text(sources.text(old))
    assert sources.main([]) == 1
    assert capsys.readouterr().out.startswith("the source of a.b.c changed, its version did not: if an output changes")
    assert sources.main(["--no-effect", "renamed", "d.e.f"]) == 2
    assert capsys.readouterr().err == "d.e.f did not change; changed: a.b.c\n"
    assert json.loads(path.read_text()) == old
    assert sources.main(["--no-effect", "renamed", "all"]) == 0
    assert json.loads(path.read_text())["a.b.c"] == {"version": 1, "sha256": "new", "no effect": "renamed"}
    assert sources.main([]) == 0


def test_one_name_is_one_step() -> None:
    found: dict[str, tuple[object, object]] = {}
    for name in methods.names():
        for kind, stage in methods.load(name).stages.items():
            for step in stage.steps:
                key = f"{kind}.{stage.name}.{step.name}"
                assert found.setdefault(key, (step.run, step.settings)) == (step.run, step.settings), key


def test_no_step_changed_its_source_and_kept_its_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(PROJECT)
    assert sources.main([]) == 0, capsys.readouterr().out
