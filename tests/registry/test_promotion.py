"""Promotion end to end: candidates, rollback, challenger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from promotion_examples import NAME, aliases, dataset, runs, without_ledger, workspace, wsss

from wsss.errors import UserError
from wsss.registry import gate, models, standing
from wsss.registry.ledger import Ledger
from wsss.registry.rollback import roll_back
from wsss.tracking import names

_FIXTURES = (dataset, runs, workspace)


def test_runs_register_as_candidates_and_a_dry_run_writes_nothing(workspace, dataset, runs) -> None:
    def everything() -> dict[str, bytes]:
        # What a dataset remembers of files that were compared is no part of a promotion.
        own = ("mlflow.db", ".checked")
        files = [path for path in workspace.rglob("*") if path.is_file() and not any(part in str(path) for part in own)]
        return {str(path.relative_to(workspace)): path.read_bytes() for path in files}

    dataset.check()
    before = everything()
    said = wsss("promote", runs[0], "--name", "wsss-dry", "--data", "shapes", "--dry-run")
    assert "would be promoted, there was no champion" in said and "nothing was written" in said
    after = everything()
    assert {path for path in after.keys() | before.keys() if after.get(path) != before.get(path)} == set()
    assert not MlflowClient().search_registered_models("name like 'wsss-dry%'")


def test_the_command_prints_the_table_and_the_verdict(runs) -> None:
    first = wsss("promote", runs[0])
    assert "wsss-shapes version 1 is champion, there was no champion" in first
    second = wsss("promote", runs[1])
    for text in ("supervision", "evaluation images seen", "difference", "lower bound (95%) above 0", "IoU background"):
        assert text in second
    assert "look 2 of the gate" in second and "version 2 is champion, it is better by +" in second
    refused = wsss("promote", runs[2], status=1)
    assert "it is not shown to be better: the difference is +0.0 points" in refused and " NO" in refused
    assert aliases(NAME) == {"champion": "2", "previous": "1"}
    assert {str(v.version) for v in MlflowClient().search_model_versions(f"name = '{NAME}'")} == {"1", "2"}


def test_rollback_in_one_step_and_further_back_each_time(dataset, runs) -> None:
    name = "wsss-back"
    for run in (runs[0], runs[1], runs[2]):
        gate.promote(run, name, dataset, force="to be rolled back")
    assert aliases(name) == {"champion": "3", "previous": "2"}
    said = wsss("rollback", name, "--why", "it is slow on Mondays")
    assert "version 2 is champion again; version 3 was until now" in said
    assert aliases(name) == {"champion": "2", "previous": "1"}
    roll_back(name)
    assert aliases(name) == {"champion": "1"}
    with pytest.raises(UserError, match="can't be rolled back: version 1 is the first champion there was"):
        roll_back(name)
    kept = standing.history(name)
    assert [(record.kind, record.from_, record.to, record.why) for record in kept[:2]] == [
        ("rollback", "2", "1", ""),
        ("rollback", "3", "2", "it is slow on Mondays"),
    ]
    assert "rollback: it is slow on Mondays" in wsss("history", name)
    assert "the chain of 5 records is whole" in wsss("history", name)
    gate.promote(runs[2], name, dataset, force="again")
    assert aliases(name) == {"champion": "3", "previous": "1"}


def test_before_a_rollback_writes_anything_the_registry_is_asked(dataset, runs, monkeypatch) -> None:
    name = "wsss-gone"
    for run in runs[:2]:
        gate.promote(run, name, dataset)
    MlflowClient().delete_model_version(name, "1")
    with pytest.raises(UserError, match="version 2 stays champion: no model can be loaded from models:/wsss-gone/1"):
        roll_back(name)
    assert aliases(name)["champion"] == "2" and len(Ledger(name).records()) == 2
    with monkeypatch.context() as patch:
        without_ledger(patch)
        with pytest.raises(UserError, match="unknown registered model 'wsss-gon'; choose from"):
            roll_back("wsss-gon")


def test_a_challenger_stands_beside_the_champion_until_it_is_one(dataset, runs) -> None:
    name = "wsss-challenged"
    gate.promote(runs[0], name, dataset)
    said = wsss("promote", runs[1], "--name", name, "--challenger")
    assert "version 2 is challenger of version 1" in said
    assert aliases(name) == {"champion": "1", "challenger": "2"}
    MlflowClient().delete_registered_model_alias(name, "challenger")
    assert "challenge (version 2)" in wsss("history", name)
    assert aliases(name) == {"champion": "1", "challenger": "2"}
    assert gate.promote(runs[1], name, dataset).record.to == "2"
    assert aliases(name) == {"champion": "2", "previous": "1"}
    with pytest.raises(UserError, match="is the champion already"):
        gate.challenge(runs[1], name, dataset)


def test_a_candidate_that_learnt_from_evaluation_images_is_refused(workspace, dataset, runs) -> None:
    """Under another name in its own dataset, by the bytes; in the same one by the id too."""
    val = dataset.splits["val"]
    lineage = json.loads(Path(MlflowClient().download_artifacts(runs[1], names.LINEAGE)).read_text(encoding="utf-8"))
    assert set(lineage[0]["images"]) == {*dataset.splits["train"], *dataset.splits["dev"]}
    entries = json.loads((dataset.root / "manifest.json").read_text(encoding="utf-8"))["files"]
    sha256 = entries[dataset.image_path(val[0]).relative_to(dataset.root).as_posix()]["sha256"]
    for dataset_name, images, saw in [
        ("another", {"img-1": sha256, "img-2": "0" * 64}, True),
        ("shapes", {val[1]: "0" * 64}, True),
        ("another", {val[1]: "0" * 64}, False),
    ]:
        tags = {names.DATASET: "shapes", names.SUPERVISION: ""}
        run = MlflowClient().create_run("0", tags=tags)
        MlflowClient().log_outputs(run.info.run_id, MlflowClient().get_run(runs[1]).outputs.model_outputs)
        content = json.dumps([{"dataset": dataset_name, "digest": "d", "images": images}])
        MlflowClient().log_text(run.info.run_id, content, names.LINEAGE)
        version = models.ModelVersion("wsss-seen-candidates", "1", run.info.run_id)
        if saw:
            with pytest.raises(UserError, match=r"learnt from 1 of the 12 evaluation images, .*train it without them"):
                gate.unseen(version.run, dataset, val)
        else:
            assert gate.unseen(version.run, dataset, val) == "none of 12 images"
    with pytest.raises(UserError, match="no candidate of wsss-seen: it is not known which images it learnt from"):
        bare = MlflowClient().create_run("0", tags={names.DATASET: "shapes", names.SUPERVISION: ""}).info.run_id
        MlflowClient().log_outputs(bare, MlflowClient().get_run(runs[1]).outputs.model_outputs)
        MlflowClient().create_registered_model("wsss-seen-candidates")
        MlflowClient().create_model_version("wsss-seen-candidates", models.model_of_run(bare), run_id=bare)
        gate.promote("1", "wsss-seen", dataset)
