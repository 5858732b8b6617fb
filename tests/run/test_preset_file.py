"""Preset files: `--preset FILE` wherever a preset's name is taken, with one clear sentence for every bad file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL

import wsss
from pipelines.stage import run_stage
from tune.report import preset_file
from tune.search import Candidate, plan_search
from wsss import methods
from wsss.cli import main
from wsss.data import Dataset
from wsss.errors import UserError
from wsss.run.plan import make_plan, stands_alone
from wsss.run.preset import PRESETS, read_preset

GOOD = {"method": "affinity", "preset": "demo", "settings": {"refine.walk.beta": 4, "refine.crf.iterations": "3"}}


def written(folder: Path, content: Any, name: str = "found.json") -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_its_settings_lie_between_the_preset_and_set(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD)
    plan = make_plan("affinity", file, {"refine.walk.beta": "16"})
    assert plan.preset == "demo" and read_preset(file).name == "demo"
    assert plan.settings == make_plan("affinity", "demo", {"refine.walk.beta": 16, "refine.crf.iterations": 3}).settings
    assert make_plan("affinity", file).settings["refine.walk.beta"] == 4


@pytest.mark.parametrize("method", [name for name in methods.names() if stands_alone(name)])
def test_every_setting_of_every_method_may_stand_in_one(method: str, tmp_path: Path) -> None:
    for preset in PRESETS:
        settings = make_plan(method, preset).settings
        file = written(tmp_path, {"method": method, "preset": "demo", "settings": settings})
        assert make_plan(method, file).settings == settings


def test_an_implementation_and_weights_may_stand_in_one(tmp_path: Path) -> None:
    file = written(tmp_path, {"method": "affinity", "preset": "small", "settings": {"refine.name": "cam"}})
    assert [p.key for p in make_plan("affinity", file).steps if p.stage == "refine"] == [
        "refine.background",
        "refine.crf",
    ]
    file = written(tmp_path, {"method": "affinity", "preset": "small", "settings": {"weights": "none"}})
    assert make_plan("affinity", file).settings["localize.train.weights"] == "none"
    chosen = make_plan("affinity", file, {"weights": "imagenet"}).settings
    assert chosen["localize.train.weights"] == "imagenet"
    walk = written(tmp_path, GOOD)
    with pytest.raises(UserError, match=r"found\.json does not fit the other settings: .*refine\.walk"):
        make_plan("affinity", walk, {"refine.name": "cam"})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", r"found\.json can't be read as JSON"),
        (b"\xff\xfe".decode("latin-1"), r"found\.json can't be read as JSON"),
        (
            "[1]",
            r'found\.json is no preset file \(no object\); it is \{"method": NAME, "preset": NAME, "settings": \{',
        ),
        ({"method": "affinity", "preset": "demo"}, r"found\.json is no preset file \(settings is missing\)"),
        ({**GOOD, "rng": 1, "x": 2}, r"found\.json is no preset file \(rng, x is unknown\)"),
        ({**GOOD, "settings": [1]}, r"found\.json is no preset file \(settings is no object\)"),
        (
            {**GOOD, "preset": "other.json"},
            r"found\.json: unknown preset 'other\.json'; choose from demo, medium, paper",
        ),
        ({**GOOD, "preset": ["demo"]}, r"found\.json: unknown preset"),
        ({**GOOD, "method": "cam"}, r"found\.json is of method cam, not of affinity; name --method cam"),
        ({**GOOD, "method": "afinity"}, r"found\.json: unknown method 'afinity'; choose from"),
        ({**GOOD, "settings": {"refine.walk.betta": 4}}, r"found\.json: unknown setting in refine\.walk: 'betta'"),
        ({**GOOD, "settings": {"walk": 4}}, r"found\.json: unknown step in setting 'walk'"),
        ({**GOOD, "settings": {"refine.name": "magic"}}, r"found\.json: unknown refine implementation 'magic'"),
        (
            {**GOOD, "settings": {"refine.walk.beta": 1e9, "refine.crf.iterations": "x", "localize.train.lr": 0.01}},
            r"found\.json: refine\.walk\.beta = 1000000000\.0 is out of range; allowed: 1 to 64; refine\.crf\."
            r"iterations = 'x' is not a valid int; allowed: [^;]*$",
        ),
        ({**GOOD, "settings": {"refine.walk.beta": {"low": 1}}}, r"refine\.walk\.beta is \{\"low\": 1\}; a value is"),
        (
            {**GOOD, "settings": {f"refine.walk.x{i}": 1 for i in range(7)}},
            r"found\.json: .*x0.*x1.*x2.* and 4 more like these",
        ),
    ],
)
def test_a_bad_file_is_one_sentence_that_names_it(content: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence) as raised:
        make_plan("affinity", written(tmp_path, content))
    assert "\n" not in str(raised.value)


def test_a_path_that_is_no_file_and_a_name_that_is_no_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("gone.json", "work/search/gone", str(tmp_path)):
        with pytest.raises(
            UserError, match=f"there is no preset file {path}; presets by name are demo, small, medium, paper"
        ):
            make_plan("affinity", path)
    with pytest.raises(
        UserError, match="unknown preset 'tiny'; choose from demo, medium, paper, small, or name a preset file"
    ):
        make_plan("affinity", "tiny")
    written(tmp_path, "not JSON", "demo")
    assert make_plan("affinity", "demo").preset == "demo"
    written(tmp_path, GOOD, "mine")
    assert make_plan("affinity", "mine").settings["refine.walk.beta"] == 4


def test_a_search_begins_at_its_settings_and_goes_on_without_the_file(
    tmp_path: Path, tiny_shapes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"refine.walk.beta": 4.0, "localize.train.epochs": 3, "segment.train.epochs": 2}
    file = written(tmp_path, {"method": "affinity", "preset": "demo", "settings": settings})
    search = plan_search(
        "affinity", file, str(tiny_shapes.root), keys=("refine.walk",), fixed={"refine.walk.steps": "4"}
    )
    Path(file).unlink()
    (part,) = search.methods
    assert search.preset == "demo" and part.first["refine.walk.beta"] == 4.0
    plan = search.plan(part.default)
    assert plan.settings == make_plan("affinity", "demo", settings | {"refine.walk.steps": 4}).settings
    # What the search writes is such a file, and it says all that the search's trials had.
    again = written(tmp_path, preset_file(search, Candidate("affinity", {**part.first, "refine.walk.beta": 9.0})))
    assert (
        make_plan("affinity", again).settings
        == make_plan("affinity", "demo", settings | {"refine.walk.steps": 4, "refine.walk.beta": 9}).settings
    )
    with pytest.raises(UserError, match="is of method affinity, not of cam"):
        plan_search("affinity,cam", again, str(tiny_shapes.root))


def test_commands_and_the_api_take_one(
    tiny_shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The runs are grouped by the preset that the file stands on."""
    shutil.copytree(tiny_shapes.root, tmp_path / "data" / "shapes")
    monkeypatch.chdir(tmp_path)

    def wsss_says(*arguments: str, status: int = 0) -> str:
        monkeypatch.setattr("sys.argv", ["wsss", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert (ended.value.code or 0) == status, said
        return said.err if status else said.out

    small = {k: v for k, v in SMALL.items() if not k.startswith("refine.train")}
    small |= {"localize.train.epochs": "1", "segment.train.epochs": "1", "refine.crf.iterations": 2}
    written(tmp_path, {"method": "cam", "preset": "demo", "settings": small})
    result = wsss.run("cam", preset="found.json", until="refine")
    assert result.preset == "demo"
    wsss.run("cam", preset="demo", settings=small, until="refine")
    assert {run.preset for run in wsss.runs("shapes")} == {"demo"} and len({r.group for r in wsss.runs("shapes")}) == 1
    assert "preset found.json" in wsss_says("run", "--method", "cam", "--preset", "found.json", "--until", "refine")
    assert "label maps" in wsss_says("labels", "make", "--preset", "found.json", "--to", "labels-of-cam")
    assert "crf.iterations=2" in wsss_says("results", "--data", "shapes", "--preset", "found.json", "--csv")
    assert wsss_says("run", "--method", "affinity", "--preset", "found.json", status=2) == (
        "wsss: preset file found.json is of method cam, not of affinity; name --method cam, or another file\n"
    )


def test_the_stages_of_dvc_take_names_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders are named after the preset, and every method has the same."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path, GOOD)
    Path("params.yaml").write_text("{dataset: shapes, preset: found.json, rng: 0, set: {affinity: {}}}")
    with pytest.raises(
        UserError, match=r"params\.yaml: preset is 'found\.json'; here it is one of demo, small, medium, paper"
    ):
        run_stage("refine", "affinity")
