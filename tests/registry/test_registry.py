"""The gate: which candidate becomes a version and champion, which is refused, and what only force promotes."""

import json
from pathlib import Path

import pytest
import typer
from mlflow import MlflowClient
from registry_examples import NAME, dataset, miou_of, run_of, runs, with_alias, workspace
from typer.testing import CliRunner

from wsss.cli import app as full
from wsss.cli import models as commands
from wsss.cli import registry as registry_commands
from wsss.data import open_dataset
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.registry import gate, models, standing
from wsss.registry.ledger import Ledger
from wsss.scores import Masks, Scores, evaluation
from wsss.serving.package import load_package

_FIXTURES = (dataset, runs, workspace)


@pytest.fixture(scope="module")
def looks(dataset, runs):
    """The worse model was promoted first, then the better one."""
    assert with_alias(NAME, models.CHAMPION) is None
    return [gate.promote(run, NAME, dataset).record for run in runs]


def test_first_candidate_and_better_candidate_are_promoted(dataset, looks):
    first, second = looks
    assert first.promoted and first.from_ == "" and "champion/miou" not in first.metrics
    assert first.metrics["candidate/miou"] == pytest.approx(miou_of(dataset, 1))
    assert second.promoted and (second.to, second.from_) == ("2", "1")
    assert second.metrics["candidate/miou"] == pytest.approx(miou_of(dataset, 0))
    assert second.metrics["champion/miou"] == first.metrics["candidate/miou"]
    assert with_alias(NAME, models.CHAMPION) == models.find_version(f"models:/{NAME}/2", NAME)
    assert with_alias(NAME, models.PREVIOUS) == models.find_version(f"models:/{NAME}/1", NAME)
    assert second.candidate == f"{NAME}-candidates/2" and second.looks == 2
    for again in ("2", f"models:/{NAME}/2", f"models:/{NAME}-candidates/2"):
        with pytest.raises(UserError, match="version 2 is the champion already"):
            gate.promote(again, NAME, dataset)


def test_a_record_names_the_confusion_matrices_of_both(dataset, looks):
    for who, answer in (("candidate", 0), ("champion", 1)):
        kept = evaluation.load(Path(Ledger(NAME).evaluation(looks[1].evaluations[who])))
        assert kept.ids == dataset.splits["val"]
        assert Scores.of(kept.matrices.sum(0)).miou == pytest.approx(miou_of(dataset, answer))


def test_champion_is_loaded_under_its_version(dataset, looks):
    model = load_package(f"models:/{NAME}@champion")
    assert model.version == f"models:/{NAME}/2" and model.classes == dataset.classes
    with pytest.raises(UserError, match=f"no model can be loaded from models:/{NAME}@challenger"):
        load_package(f"models:/{NAME}@challenger")


def test_worse_candidate_is_refused_then_forced(dataset, looks):
    """A refusal exits with 1 and moves nothing; every look is in the ledger, newest first."""
    app = typer.Typer()
    app.command()(registry_commands.promote)
    refused = CliRunner().invoke(app, ["1", "--name", NAME])
    assert refused.exit_code == 1 and "candidates/1 is not promoted, it is not shown to be better" in refused.output
    assert "look 3 of the gate at the evaluation set shapes/val" in refused.output and "up to 14%" in refused.output
    assert with_alias(NAME, models.CHAMPION).number == "2"

    forced = CliRunner().invoke(app, ["1", "--name", NAME, "--force", "the customer asked"])
    assert forced.exit_code == 0 and "is champion, by force (the customer asked)" in forced.output
    assert with_alias(NAME, models.CHAMPION).number == "1"
    assert with_alias(NAME, models.PREVIOUS).number == "2"

    kept = standing.history(NAME)
    assert [(record.candidate[-2:], record.from_, record.to, record.kind) for record in kept] == [
        ("/1", "2", "1", "forced"),
        ("/1", "2", "2", "refusal"),
        ("/2", "1", "2", "promotion"),
        ("/1", "", "1", "promotion"),
    ]
    whys = ("the customer asked", "it is not shown to be better", "it is better by", "there was no champion")
    assert all(record.why.startswith(why) for record, why in zip(kept, whys, strict=True))
    assert "not shown to be better" in kept[0].against[0] and kept[0].rule["confidence"] == 0.95
    assert all(record.masks == Masks(dataset).digest("val") and record.who and record.when for record in kept)
    shown = CliRunner().invoke(full, ["history", NAME, "--json"])
    assert [record["number"] for record in json.loads(shown.stdout)] == [4, 3, 2, 1]
    assert "the customer" in CliRunner().invoke(full, ["history", NAME], env={"COLUMNS": "200"}).output
    with pytest.raises(UserError, match=f"unknown registered model 'wsss-litle'; choose from .*{NAME}"):
        standing.history("wsss-litle")


def test_registering_again_gives_the_same_version(dataset, runs):
    first = models.find_version(runs[0], "wsss-again")
    assert models.find_version(runs[0], "wsss-again") == first == models.find_version("1", "wsss-again")
    assert models.dataset_of_run(first.run) == "little"


def test_without_masks_only_force_promotes(workspace, runs):
    root = workspace / "data" / "unmasked"
    make_shapes(root, images=10, val_images=10, size=40, classes=2)
    for mask in root.glob("SegmentationClass*/*.png"):
        mask.unlink()
    dataset = open_dataset(root)
    with pytest.raises(UserError, match="no masks for its split val.* --force WHY"):
        gate.promote(runs[0], "wsss-unmasked", dataset)
    assert Ledger("wsss-unmasked").records() == []
    record = gate.promote(runs[0], "wsss-unmasked", dataset, force="nothing to measure with").record
    assert record.promoted and record.metrics == {} and record.masks == ""
    assert standing.history("wsss-unmasked")[0].why == "nothing to measure with"


def test_other_classes_are_refused_and_move_nothing(workspace, runs):
    root = workspace / "data" / "other"
    make_shapes(root, images=10, val_images=10, size=40, classes=3)
    with pytest.raises(UserError, match="nothing says that .* knows the classes"):
        gate.promote(runs[0], "wsss-other", open_dataset(root))
    assert with_alias("wsss-other", models.CHAMPION) is None and Ledger("wsss-other").records() == []


def test_force_promotes_after_the_classes_changed(workspace, runs, monkeypatch):
    """Neither the champion of yesterday's classes nor masks of today's say anything of the other."""
    root = workspace / "data" / "grown"
    make_shapes(root, images=10, val_images=10, size=40, classes=3)
    dataset = open_dataset(root)
    for run in runs:
        record = gate.promote(run, "wsss-grown", dataset, force="the classes have changed").record
        assert record.kind == "forced" and record.metrics == {}
        assert "by force (the classes have changed)" in gate.sentence(record)
    assert (record.from_, record.to) == ("1", "2")
    with pytest.raises(UserError, match="nothing says that wsss-grown version 1 is better: .*--force WHY"):
        gate.promote("models:/wsss-grown/1", "wsss-grown", dataset)


def test_a_name_holds_models_of_one_supervision(dataset, runs, looks, tmp_path):
    bound = run_of(dataset, 0, tmp_path, supervision="masks")
    app = typer.Typer()
    app.command()(registry_commands.promote)
    own = CliRunner().invoke(app, [bound])
    assert own.exit_code == 0 and "wsss-shapes-masks version 1 is champion" in own.output
    for name in ("wsss-shapes", NAME, "a-new-name"):
        with pytest.raises(
            UserError, match=f"it saw tags, masks, and {name} allows .*; promote its run under .*-masks"
        ):
            gate.promote(bound, name, dataset)
    assert gate.promote(bound, "wsss-shapes", dataset, force="a demonstration").record.kind == "forced"
    with pytest.raises(UserError, match="it saw tags, and wsss-shapes-masks allows what the name says"):
        gate.promote(runs[0], "wsss-shapes-masks", dataset)


@pytest.mark.parametrize(
    ("candidate", "sentence"),
    [("7", "there is no version 7 of the registered model wsss-again"), ("0" * 31 + "f", "there is no run 0{31}f")],
)
def test_unknown_candidates(dataset, runs, candidate, sentence):
    models.find_version(runs[0], "wsss-again")
    with pytest.raises(UserError, match=sentence):
        gate.promote(candidate, "wsss-again", dataset)


def test_run_without_a_model_and_force_without_a_reason(dataset):
    run = MlflowClient().create_run("0").info.run_id
    with pytest.raises(UserError, match="has logged no model"):
        gate.promote(run, NAME, dataset)
    with pytest.raises(UserError, match="--force WHY"):
        gate.promote(run, NAME, dataset, force=" ")


def test_compare_without_a_run_of_a_method(dataset, runs):
    app = typer.Typer()
    app.command()(commands.compare)
    assert CliRunner().invoke(app, ["--json"]).stdout == "[]\n"
    assert "no finished run" in CliRunner().invoke(app, ["--data", "little"]).output
