"""What is derived from the methods is what `make generate` writes, and DVC can run it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from pipelines import generate
from wsss import methods
from wsss.errors import UserError
from wsss.run.plan import all_settings, make_plan, stands_alone

PROJECT = Path(generate.__file__).parents[1]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: empty."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc"))
    (tmp_path / "workspace" / "pipelines").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "workspace")
    return Path.cwd()


def test_nothing_in_the_project_is_out_of_date(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(PROJECT)
    assert generate.main(["--check"]) == 0, capsys.readouterr().out


def test_check_names_what_is_out_of_date_and_writes_nothing(workspace: Path, capsys: pytest.CaptureFixture) -> None:
    assert generate.main([]) == 0
    before = Path("dvc.yaml").read_text()
    Path("dvc.yaml").write_text(before + "# mine\n")
    capsys.readouterr()
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().out == "dvc.yaml is out of date; run: make generate\n"
    assert Path("dvc.yaml").read_text().endswith("# mine\n")
    assert generate.main([]) == 0 and Path("dvc.yaml").read_text() == before


def test_dvc_reads_the_pipeline_as_a_chain_for_each_method(workspace: Path) -> None:
    from dvc.repo import Repo

    generate.main([])
    with Repo.init(no_scm=True) as repo:
        stages = {stage.name: stage for stage in repo.index.stages}
        outs = {out.def_path for stage in stages.values() for out in stage.outs}
        edges = {(needs.name, stage.name) for stage, needs in repo.index.graph.edges()}
    assert {name.partition("-")[0] for name in stages} == {name for name in methods.names() if stands_alone(name)}
    assert not any(name.startswith("imported-") for name in stages)
    assert "labels/shapes/affinity-demo-0" in outs
    affinity = ["affinity-localize", "affinity-refine", "affinity-segment", "affinity-evaluate"]
    assert {(a, b) for a, b in edges if a.startswith("affinity")} == set(pairwise(affinity))
    assert ("bound-segment", "bound-evaluate") in edges and "bound-refine" not in stages


def test_every_stage_depends_on_data_settings_and_the_versions_of_its_steps() -> None:
    refine = generate.stages("affinity")["affinity-refine"]
    assert refine["deps"] == ["data/${dataset}", "work/pipeline/affinity/localize.json"]
    assert refine["params"][:4] == ["dataset", "preset", "rng", "set.affinity"]
    assert refine["params"][4] == {generate.STEPS: ["affinity.refine"]}
    versions = generate.step_versions("affinity")["refine"]
    assert versions == {step.name: step.version for step in methods.load("affinity").stages["refine"].steps}


def test_params_keep_what_a_person_wrote_and_learn_new_methods() -> None:
    mine = "# mine\ndataset: voc\npreset: small\nrng: 3\nset: {affinity: {refine.walk.beta: 8}}\n"
    assert generate.params_text(mine, ["affinity"]) == mine
    grown = yaml.safe_load(generate.params_text(mine, ["affinity", "cam"]))
    assert grown == {
        "dataset": "voc",
        "preset": "small",
        "rng": 3,
        "set": {"affinity": {"refine.walk.beta": 8}, "cam": {}},
    }


def test_tables_stand_between_their_markers(workspace: Path) -> None:
    page = Path("docs/methods.md")
    page.parent.mkdir()
    page.write_text("before\n<!-- table: methods -->\nold\n<!-- end of table -->\nafter\n")
    generate.main([])
    lines = page.read_text().splitlines()
    assert lines[:2] == ["before", "<!-- table: methods -->"] and lines[-2:] == ["<!-- end of table -->", "after"]
    rows = [line for line in lines if line.startswith("| [`")]
    assert sorted(row.split("`")[1] for row in rows) == sorted(methods.names()) and "old" not in lines


def test_the_settings_table_has_every_setting_and_each_presets_value() -> None:
    header, _, *rows = generate.table("settings affinity").splitlines()
    assert header.startswith("| setting | what it is | demo | small | medium | paper |")
    cells = {row.split(" | ")[0].strip("| `"): row.split(" | ") for row in rows}
    assert list(cells) == [setting.key for setting in all_settings(methods.load("affinity"))]
    paper = make_plan("affinity", "paper").settings
    assert cells["refine.walk.beta"][5] == f"{paper['refine.walk.beta']:g}"


@pytest.mark.parametrize("name", ["nonsense", "settings nonsense"])
def test_an_unknown_table_is_named_with_the_known_ones(name: str) -> None:
    with pytest.raises(UserError, match=r"unknown (table|method) .*nonsense.*choose from"):
        generate.table(name)
