"""Promotion end to end: candidates, rollback, challenger, and what faults leave behind."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path

import forks
import pytest
import torch
from mlflow import MlflowClient
from served_examples import save_one_answer
from typer.testing import CliRunner

from wsss.cli import app
from wsss.data import open_dataset
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.registry import gate, models, standing
from wsss.registry.ledger import Ledger
from wsss.registry.lineage import keep_lineage
from wsss.registry.rollback import roll_back
from wsss.serving.package import log_model
from wsss.tracking import names

NAME = "wsss-shapes"
STEPS = ("candidate", "evaluations", "copy", "record", "previous", "champion", "tag")


@pytest.fixture(scope="module")
def workspace(template, tmp_path_factory):
    """A folder of its own with an empty tracking store and a dataset."""
    from conftest import empty_store

    folder = tmp_path_factory.mktemp("workspace")
    empty_store(template, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        torch.set_num_threads(1)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.delenv("WSSS_LEDGER", raising=False)
        patch.delenv("WSSS_STORE", raising=False)
        make_shapes(folder / "data" / "shapes", images=12, val_images=12, size=40, classes=2)
        yield folder


@pytest.fixture(scope="module")
def dataset(workspace):
    return open_dataset("shapes")


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory) -> list[str]:
    """A run whose model answers one class everywhere, and two equal ones that answer background, which is better."""
    made = []
    for answer in (1, 0, 0):
        folder = tmp_path_factory.mktemp("step")
        save_one_answer(folder, answer)
        tags = {names.DATASET: "shapes", names.SUPERVISION: ""}
        made.append(MlflowClient().create_run("0", tags=tags).info.run_id)
        log_model(made[-1], folder, dataset.classes, "# card\n")
        keep_lineage(made[-1], dataset)
    return made


def aliases(name: str) -> dict[str, str]:
    return {alias: str(number) for alias, number in MlflowClient().get_registered_model(name).aliases.items()}


def wsss(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    said = result.output + str(result.exception if isinstance(result.exception, UserError) else "")
    assert (result.exit_code == status) != isinstance(result.exception, UserError), said
    return said


def without_ledger(patch: pytest.MonkeyPatch) -> None:
    """The ledger lies in a bucket that nobody answers for."""
    patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    patch.setenv("AWS_MAX_ATTEMPTS", "1")
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(key, "test")
    patch.setenv("WSSS_LEDGER", "s3://bucket/ledger")


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


def test_a_damaged_or_lost_package_is_refused_and_the_old_model_stays(workspace, dataset, runs) -> None:
    name = "wsss-damaged"
    gate.promote(runs[1], name, dataset)
    gate.promote(runs[0], name, dataset, force="to be rolled back")
    client = MlflowClient()
    weights = Path(client.get_model_version_download_uri(name, "1").removeprefix("file://"), "model.safetensors")
    whole = weights.read_bytes()
    changed = bytearray(whole)
    changed[-1] ^= 1
    for content, sentence in [(bytes(changed), "are not those that were promoted"), (whole[:-50], "does not hold")]:
        weights.write_bytes(content)
        with pytest.raises(UserError, match=f"is not rolled back to version 1, version 2 stays champion: .*{sentence}"):
            roll_back(name)
        assert aliases(name)["champion"] == "2"
    with pytest.raises(UserError, match="no model can be loaded"):
        gate.promote(f"models:/{name}/1", name, dataset, force="whatever")
    assert aliases(name) == {"champion": "2", "previous": "1"} and len(Ledger(name).records()) == 2
    weights.write_bytes(whole)
    assert roll_back(name).to == "1"


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


def _promote_until(step: str, name: str, candidate: str) -> None:
    """In a process of its own: begin a promotion, and die as by kill -9 just before a step of it."""

    def die(*arguments, **options):
        os.kill(os.getpid(), signal.SIGKILL)

    if step == "candidate":
        models.register = die
    elif step == "evaluations":
        Ledger.keep = die
    elif step == "copy":
        gate._entered = die
    elif step == "record":
        Ledger.append = die
    else:
        setting = "set_registered_model_tag" if step == "tag" else "set_registered_model_alias"
        plain = getattr(MlflowClient, setting)

        def until(self, model, key, value):
            return die() if key in (step, standing.HEAD) else plain(self, model, key, value)

        setattr(MlflowClient, setting, until)
    torch.set_num_threads(1)
    gate.promote(candidate, name, open_dataset("shapes"), force="to be killed")


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_the_ledger_decides_and_the_next_command_repairs(step: str, dataset, runs) -> None:
    name = f"wsss-killed-{step}"
    gate.promote(runs[0], name, dataset)
    before = aliases(name)
    process = forks.CONTEXT.Process(target=_promote_until, args=(step, name, runs[1]))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    decided = step in STEPS[4:]
    assert len(Ledger(name).records()) == 1 + decided
    if step in ("previous", "copy", "record"):
        assert aliases(name) == before
    wsss("history", name)
    assert aliases(name) == ({"champion": "2", "previous": "1"} if decided else {"champion": "1"})
    if not decided:
        assert gate.promote(runs[1], name, dataset).record.to == "2"
        assert aliases(name) == {"champion": "2", "previous": "1"}


def test_two_promoters_at_once_fifty_times(dataset, runs, monkeypatch) -> None:
    """One wins, the other is told; no record is lost and the aliases are those of the last."""
    name = "wsss-fifty"
    gate.promote(runs[2], name, dataset)

    def unmeasured(*about):
        raise UserError("not measured")

    for slow in ("find_version", "load_package", "package_files"):
        monkeypatch.setattr(gate, slow, cache(getattr(gate, slow)))
    for module in (models, standing):
        monkeypatch.setattr(module, "mlflow_client", cache(module.mlflow_client))
    monkeypatch.setattr(gate, "_conditions", lambda *about: ([], []))
    monkeypatch.setattr(gate, "_measure", unmeasured)

    def ask(run: str) -> str:
        try:
            return gate.promote(run, name, dataset, force="at once").record.to
        except UserError as error:
            told.append(str(error))
            return ""

    told: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(50):
            present = Ledger(name).records()[-1].to
            pair = [run for run in runs if _number(name, run) != present][:2]
            assert any(list(pool.map(ask, pair)))
            acts = [record for record in Ledger(name).records() if record.promoted]
            assert aliases(name)["champion"] == acts[-1].to
    assert told and all("meanwhile" in text and "nothing was changed" in text for text in told)
    assert all(later.from_ == earlier.to for earlier, later in pairwise(acts))
    assert len(acts) + len(told) == len(standing.history(name)) == 101


def _number(name: str, run: str) -> str:
    found = models.promoted_copy(models.find_version(run, name), name, enter=False)
    return found.number if found else ""


def test_where_the_ledger_is_away_nothing_moves(dataset, runs, monkeypatch) -> None:
    name = "wsss-away"
    gate.promote(runs[0], name, dataset)
    with monkeypatch.context() as patch:
        without_ledger(patch)
        with pytest.raises(UserError, match="s3://bucket/ledger.* can't be used"):
            gate.promote(runs[1], name, dataset)
        with pytest.raises(UserError, match="can't be used"):
            roll_back(name)
    assert aliases(name) == {"champion": "1"} and len(Ledger(name).records()) == 1


def test_a_second_person_is_told_where_the_ledger_is(dataset, runs, tmp_path, monkeypatch) -> None:
    name = "wsss-team"
    gate.promote(runs[0], name, dataset)
    monkeypatch.setenv("WSSS_LEDGER", str(tmp_path / "mine"))
    with pytest.raises(UserError, match=r"use it with: export WSSS_LEDGER=/.*/ledger$"):
        gate.promote(runs[1], name, dataset)
    monkeypatch.setattr(standing.platform, "node", lambda: "another-machine")
    with pytest.raises(UserError, match="copy it to a bucket or a folder that all .*set WSSS_LEDGER to it on both"):
        gate.promote(runs[1], name, dataset)
