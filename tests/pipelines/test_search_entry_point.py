"""`mlflow run . -e search`: every parameter is an option of the search, and an empty one is its default."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
from mlflow.projects._project_spec import load_project

from pipelines import search
from tune.__main__ import app

ENTRY = load_project(str(Path(search.__file__).parents[1])).get_entry_point("search")
COMMAND = typer.main.get_command(app)


def taken(parameters: dict[str, str]) -> dict[str, Any]:
    """The values that the search is called with where MLflow is given `-P` parameters."""
    words = shlex.split(ENTRY.compute_command(parameters, None))
    assert words[:3] == ["python", "-m", "pipelines.search"]
    return COMMAND.make_context("tune", search.words(words[3:])).params


def test_without_parameters_it_is_the_search_without_options() -> None:
    assert taken({}) == COMMAND.make_context("tune", []).params


def test_every_parameter_arrives() -> None:
    given = {
        "method": "cam,affinity",
        "preset": "my presets/found.json",
        "data": "photos",
        "trials": "7",
        "hours": "1.5",
        "objective": "dev/labels_crf/miou,seconds",
        "keys": "refine",
        "space": "my space.json",
        "sampler": "tpe",
        "rng": "3",
        "seeds": "2",
        "top": "4",
        "cpus": "0.5",
        "gpus": "0.25",
        "retries": "0",
        "device": "cpu",
        "name": "mine",
        "resume": "other",
        "warm": "third",
        "set": "refine.walk.beta=8 refine.walk.steps=64",
    }
    values = taken({**given, "refine.crf.iterations": "5"})
    expected: dict[str, Any] = {**given, "trials": 7, "hours": 1.5, "rng": 3, "seeds": 2, "top": 4, "cpus": 0.5}
    expected |= {"gpus": 0.25, "retries": 0, "space": Path("my space.json")}
    settings = values["settings"]
    assert list(settings) == [expected.pop("set"), "refine.crf.iterations=5"]
    assert {key: values[key] for key in expected} == expected
    assert set(given) == set(ENTRY.parameters)


def test_what_is_no_list_of_parameters_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--method"], ["method", "cam"]):
        assert search.main(arguments) == 2
        assert "is not a list of parameters; give them as -P trials=8" in capsys.readouterr().err
