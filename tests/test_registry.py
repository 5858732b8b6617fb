import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from mlflow import MlflowClient
from served_examples import save_one_answer
from typer.testing import CliRunner

from wsss.cli import app as full
from wsss.cli import models as commands
from wsss.cli import registry as registry_commands
from wsss.data import open_dataset
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.registry import gate, models, standing
from wsss.registry.ledger import Ledger
from wsss.registry.lineage import keep_lineage
from wsss.scores import Masks, Scores, evaluation
from wsss.serving.package import load_package, log_model
from wsss.tracking import names
from wsss.tracking.connection import mlflow_client

NAME = "wsss-little"


def with_alias(name, alias):
    """The version that an alias points to; None without such a model or alias."""
    known = mlflow_client().search_registered_models(f"name = '{name}'")
    number = known[0].aliases.get(alias) if known else None
    return models.find_version(f"models:/{name}/{number}", name) if number else None


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder of its own with an empty tracking store."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("workspace")
        patch.chdir(folder)
        torch.set_num_threads(1)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        yield folder


@pytest.fixture(scope="module")
def dataset(workspace):
    make_shapes(workspace / "data" / "little", images=10, val_images=10, size=40, classes=2)
    return open_dataset("little")


def run_of(dataset, answer, folder, supervision=""):
    """The id of a run whose model answers one class everywhere."""
    save_one_answer(folder, answer)
    run = MlflowClient().create_run("0", tags={names.DATASET: "little", names.SUPERVISION: supervision}).info.run_id
    log_model(run, folder, dataset.classes, "# card\n")
    keep_lineage(run, dataset)
    return run


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """Two runs; the background is most of every scene, so the second's model is better."""
    return [run_of(dataset, answer, tmp_path_factory.mktemp("step")) for answer in (1, 0)]


def miou_of(dataset, answer):
    """The mean IoU of one answer everywhere, from the definition."""
    pixels = np.concatenate([Masks(dataset).read(i).ravel() for i in dataset.splits["val"]])
    pixels = pixels[pixels != 255]
    return (pixels == answer).mean() / len(np.unique([*pixels, answer]))


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


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(dataset, runs, monkeypatch):
    """While the first is measured a second one is decided."""
    measure = gate.measure

    def interrupted(*arguments):
        monkeypatch.setattr(gate, "measure", measure)
        assert gate.promote(runs[1], "wsss-race", dataset).record.promoted
        return measure(*arguments)

    monkeypatch.setattr(gate, "measure", interrupted)
    with pytest.raises(UserError, match=r"made version 1 champion of wsss-race \(record 1\); nothing was changed"):
        gate.promote(runs[0], "wsss-race", dataset)
    assert with_alias("wsss-race", models.CHAMPION).number == "1"
    assert [(record.number, record.kind, record.to) for record in standing.history("wsss-race")] == [
        (2, "refusal", "1"),
        (1, "promotion", "1"),
    ]


def test_the_next_command_finishes_a_promotion_that_was_cut_short(dataset, runs, monkeypatch):
    """The record is the decision: after it, and never before, the alias moves."""

    class Killed(BaseException):
        pass

    def kill(*arguments):
        raise Killed

    gate.promote(runs[0], "wsss-cut", dataset)
    for command in (["history", "wsss-cut", "--json"], ["evaluate", "models:/wsss-cut@champion", "--data", "little"]):
        champion = standing.settle(Ledger("wsss-cut")).champion
        with monkeypatch.context() as patch:
            patch.setattr(gate, "settle", lambda ledger, **how: kill() if not how else standing.settle(ledger, **how))
            with pytest.raises(Killed):
                gate.promote(runs[champion == "1"], "wsss-cut", dataset, force="to be cut")
        assert with_alias("wsss-cut", models.CHAMPION).number == champion
        result = CliRunner().invoke(full, command)
        assert result.exit_code == 0 and not result.stderr, result.output
        assert with_alias("wsss-cut", models.CHAMPION).number != champion
        assert with_alias("wsss-cut", models.PREVIOUS).number == champion
    MlflowClient().set_registered_model_alias("wsss-cut", models.CHAMPION, "2")
    assert standing.history("wsss-cut") and with_alias("wsss-cut", models.CHAMPION).number == "1"


def test_a_changed_record_and_a_lost_ledger_are_found(dataset, runs, monkeypatch, tmp_path):
    gate.promote(runs[0], "wsss-chain", dataset)
    gate.promote(runs[1], "wsss-chain", dataset)
    first, second = (Path(Ledger("wsss-chain").url, f"00000{n}.json") for n in (1, 2))
    kept = first.read_bytes()
    for content, sentence in [
        (kept.replace(b'"there was no champion"', b'"because I say so"'), "does not follow from the record before it"),
        (kept + b" ", "is not as a ledger writes it"),
        (b"{}", "is damaged"),
        (kept.replace(b'"format": 2', b'"format": 9'), "made by another version of wsss"),
    ]:
        first.write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            standing.history("wsss-chain")
    first.write_bytes(kept)
    evaluation_file = Path(Ledger("wsss-chain").evaluation(json.loads(second.read_bytes())["evaluations"]["candidate"]))
    whole = evaluation_file.read_bytes()
    evaluation_file.write_bytes(whole[:-1])
    shown = CliRunner().invoke(full, ["history", "wsss-chain"])
    assert (
        "of record 2, was changed" in str(shown.exception) and "- > 1" in shown.output and "1 > 2" not in shown.output
    )
    evaluation_file.write_bytes(whole)
    (tmp_path / "gap").write_bytes(kept)
    first.unlink()
    with pytest.raises(UserError, match=r"000001.json is missing, though record 2 is there"):
        standing.history("wsss-chain")
    (tmp_path / "gap").rename(first)
    second.rename(tmp_path / "kept")
    with pytest.raises(UserError, match="has 1 records of wsss-chain, the registry knows of 2, in .*from a backup"):
        gate.promote(runs[0], "wsss-chain", dataset)
    (tmp_path / "kept").rename(second)
    monkeypatch.setenv("WSSS_LEDGER", str(tmp_path / "another"))
    with pytest.raises(
        UserError, match="has 0 records of wsss-chain, .* knows of 2, .* use it with: export WSSS_LEDGER=/"
    ):
        gate.promote(runs[0], "wsss-chain", dataset)
    result = CliRunner().invoke(full, ["evaluate", "models:/wsss-chain@champion", "--data", "little"])
    assert result.exit_code == 0 and "the alias is taken as it is" in result.stderr


def test_old_entries_and_an_old_alias_are_taken_over_once(dataset, runs):
    """The version before kept its looks as MLflow runs; one of them was cut short after it said `promoted`."""
    client = MlflowClient()
    for run in runs:
        models.register(models.model_of_run(run), "wsss-before")
    experiment = client.create_experiment("wsss-promotions")
    looks = [("1", "", "true", "", "FINISHED"), ("2", "1", "false", "", "FINISHED"), ("2", "1", "true", "please", None)]
    for when, (candidate, champion, promoted, forced, status) in enumerate(looks):
        about = {"model": "wsss-before", "candidate": candidate, "champion": champion, "promoted": promoted}
        tags = {
            f"promotion.{key}": value
            for key, value in (about | {"forced": forced, "split": "val", "masks": "m"}).items()
        }
        tags |= {names.KIND: "promotion", names.DATASET: "little"}
        run_id = client.create_run(experiment, start_time=1000 * (when + 1), tags=tags).info.run_id
        client.log_metric(run_id, "candidate/miou", 0.25)
        if status:
            client.set_terminated(run_id, status)
    client.set_registered_model_alias("wsss-before", models.CHAMPION, "2")

    assert [(record.number, record.kind) for record in standing.history("wsss-before")] == [
        (0, "refusal"),
        (0, "refusal"),
        (0, "promotion"),
    ]
    assert with_alias("wsss-before", models.CHAMPION).number == "2"
    for _ in range(2):
        with pytest.raises(UserError, match="version 2 is the champion already"):
            gate.promote("2", "wsss-before", dataset)
    assert gate.promote("1", "wsss-before", dataset, dry_run=True).record.from_ == "2"
    kept = standing.history("wsss-before")
    assert [(record.number, record.kind, record.from_, record.to) for record in kept] == [
        (4, "takeover", "1", "2"),
        (3, "refusal", "1", "1"),
        (2, "refusal", "1", "1"),
        (1, "promotion", "", "1"),
    ]
    assert kept[-1].metrics == {"candidate/miou": 0.25}


def test_a_name_holds_models_of_one_supervision(dataset, runs, tmp_path):
    bound = run_of(dataset, 0, tmp_path, supervision="masks")
    app = typer.Typer()
    app.command()(registry_commands.promote)
    own = CliRunner().invoke(app, [bound])
    assert own.exit_code == 0 and "wsss-shapes-masks version 1 is champion" in own.output
    for name in ("wsss-shapes", "wsss-race", "a-new-name"):
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
