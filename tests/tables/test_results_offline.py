"""`wsss results --offline`: rows in order of worth within hours, each call goes on where the last one stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wsss.cli import app
from wsss.data import Dataset
from wsss.errors import UserError
from wsss.tables import offline
from wsss.tables.offline import measure_offline
from wsss.tables.rows import by_worth, entries

QUICK = {
    "localize.train.epochs": "1",
    "localize.train.crop": "33",
    "segment.train.epochs": "1",
    "segment.train.crop": "33",
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, int]]:
    """The runs that would be made: methods and rngs."""
    monkeypatch.chdir(tmp_path)
    made: list[tuple[str, int]] = []
    monkeypatch.setattr(offline, "run_method", lambda method, preset, data, rng, **_: made.append((method, rng)))
    return made


def records(out: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in out.glob("runs/*/run.json")]


def test_the_floor_comes_first_then_affinity_the_bound_and_the_others() -> None:
    order = [row.method for row in by_worth(entries(["all"], []))]
    assert order == [
        "cam", "affinity", "bound", "deep_clustering", "ial", "fcn_mil", "dcsm", "wildcat", "mcis"
    ]  # fmt: skip


def test_all_rows_of_an_rng_come_before_the_next(calls: list[tuple[str, int]], tiny_shapes: Dataset) -> None:
    rows = entries(["bound", "cam", "affinity"], [])
    assert measure_offline(tiny_shapes, "demo", [0, 1], rows, {}, Path("out")) == []
    assert calls == [(method, rng) for rng in (0, 1) for method in ("cam", "affinity", "bound")]


def test_without_masks_the_bound_is_left_out(
    calls: list[tuple[str, int]],
    tiny_shapes: Dataset,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(offline.Masks, "ids", lambda self, split: ())
    measure_offline(tiny_shapes, "demo", [0, 1], entries(["cam", "bound"], []), {}, Path("out"))
    assert calls == [("cam", 0), ("cam", 1)]
    printed = capsys.readouterr()
    assert printed.err.count("bound is left out") == 1 and "0 of 7" in printed.out, "evaluations are no steps to come"


def test_a_call_goes_on_where_the_last_one_stopped(
    tiny_shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    out, rows = Path("out"), entries(["bound"], [])
    settings = {key: value for key, value in QUICK.items() if key.startswith("segment.")}

    left = measure_offline(tiny_shapes, "demo", [0], rows, settings, out, 1e-9)
    assert left == ["bound, rng 0"]
    assert "no time left to begin step segment.train" in capsys.readouterr().out
    (stopped,) = records(out)
    assert stopped["status"] == "KILLED"

    assert measure_offline(tiny_shapes, "demo", [0], rows, settings, out) == []
    (finished,) = records(out)
    assert finished["id"] == stopped["id"] and finished["status"] == "FINISHED"
    capsys.readouterr()

    assert measure_offline(tiny_shapes, "demo", [0], rows, settings, out) == []
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "bound, rng 0" in line)
    assert line.split()[3:] == ["5", "of", "5", "-", "-", "done"]
    assert records(out) == [finished], "nothing ran"

    words = ["results", "--data", str(tiny_shapes.root), "--preset", "demo", "--offline", "out", "--run", "bound"]
    sets = [part for pair in settings.items() for part in ("--set", "=".join(pair))]
    shown = CliRunner().invoke(app, [*words, *sets, "--hours", "1e-9", "--rngs", "0,1"])
    assert shown.exit_code == 0, shown.output
    assert "1e-09 hours are too short for segment.train of bound, rng 1, which took" in shown.output
    assert "left: bound, rng 1; this goes on:" in shown.output


def test_hours_are_above_zero_and_belong_to_offline(tiny_shapes: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--hours 0 is no time"):
        measure_offline(tiny_shapes, "demo", [0], [], {}, tmp_path, 0.0)
    words = ["results", "--data", str(tiny_shapes.root), "--hours", "1"]
    assert "--hours belongs to --offline" in str(CliRunner().invoke(app, words).exception)
