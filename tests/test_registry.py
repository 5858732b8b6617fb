import numpy as np
import pytest
import torch
import typer
from mlflow import MlflowClient
from typer.testing import CliRunner

from wsss.cli import models as commands
from wsss.data import open_dataset
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.nets.deeplab import DeepLab
from wsss.registry import gate, ledger, models
from wsss.scores import Masks, Scores
from wsss.serving.package import load_package, log_model
from wsss.stages.outputs import save_model
from wsss.tracking import names

NAME = "wsss-little"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder of its own with an empty tracking store."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("workspace")
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        yield folder


@pytest.fixture(scope="module")
def dataset(workspace):
    make_shapes(workspace / "data" / "little", images=10, val_images=4, size=40, classes=2)
    return open_dataset("little")


def run_of(dataset, answer, folder):
    """The id of a run whose model answers one class everywhere."""
    architecture = {"classes": 3, "backbone": "tiny", "output_stride": 16, "rates": [1]}
    net = DeepLab(weights="none", **architecture)
    torch.nn.init.zeros_(net.head[0].weight)
    torch.nn.init.zeros_(net.head[0].bias)
    net.head[0].bias.data[answer] = 5
    save_model(folder, net.eval(), architecture)
    run = MlflowClient().create_run("0", tags={names.DATASET: "little"}).info.run_id
    log_model(run, folder, dataset.classes, "# card\n")
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
    assert models.with_alias(NAME, models.CHAMPION) is None
    return [gate.promote(run, NAME, dataset) for run in runs]


def test_first_candidate_and_better_candidate_are_promoted(dataset, looks):
    first, second = looks
    assert first.promoted and first.champion == "" and first.champion_miou is None
    assert first.candidate_miou == pytest.approx(miou_of(dataset, 1))
    assert second.promoted and (second.candidate, second.champion) == ("2", "1")
    assert second.candidate_miou == pytest.approx(miou_of(dataset, 0)) and second.champion_miou == first.candidate_miou
    assert models.with_alias(NAME, models.CHAMPION) == models.find_version("2", NAME)
    assert models.with_alias(NAME, models.PREVIOUS) == models.find_version("1", NAME)
    with pytest.raises(UserError, match="version 2 is the champion already"):
        gate.promote("2", NAME, dataset)


def test_an_entry_holds_the_confusion_matrices_of_both(dataset, looks, tmp_path):
    client = MlflowClient()
    experiment = client.get_experiment_by_name(ledger.EXPERIMENT).experiment_id
    condition = f"tags.`{ledger.MODEL}` = '{NAME}' and tags.`{ledger.CANDIDATE}` = '2'"
    (entry,) = client.search_runs([experiment], condition)
    assert entry.info.status == "FINISHED"
    for who, answer in (("candidate", 0), ("champion", 1)):
        with np.load(client.download_artifacts(entry.info.run_id, f"{who}.npz", tmp_path)) as kept:
            assert tuple(kept["ids"]) == dataset.splits["val"]
            assert Scores.of(kept["matrices"].sum(0)).miou == pytest.approx(miou_of(dataset, answer))


def test_champion_is_loaded_under_its_version(dataset, looks):
    model = load_package(f"models:/{NAME}@champion")
    assert model.version == f"models:/{NAME}/2" and model.classes == dataset.classes
    with pytest.raises(UserError, match=f"no model can be loaded from models:/{NAME}@challenger"):
        load_package(f"models:/{NAME}@challenger")


def test_worse_candidate_is_refused_then_forced(dataset, looks):
    """A refusal exits with 1 and moves nothing; every look is in the ledger, newest first."""
    app = typer.Typer()
    app.command()(commands.promote)
    refused = CliRunner().invoke(app, ["1", "--name", NAME])
    assert refused.exit_code == 1 and "version 1 is not promoted, it is not better" in refused.output
    assert models.with_alias(NAME, models.CHAMPION).number == "2"

    forced = CliRunner().invoke(app, ["1", "--name", NAME, "--force", "the customer asked"])
    assert forced.exit_code == 0 and "is champion, by force (the customer asked)" in forced.output
    assert models.with_alias(NAME, models.CHAMPION).number == "1"
    assert models.with_alias(NAME, models.PREVIOUS).number == "2"

    kept = ledger.history(NAME)
    assert [(record.candidate, record.champion, record.promoted, record.forced) for record in kept] == [
        ("1", "2", True, "the customer asked"),
        ("1", "2", False, ""),
        ("2", "1", True, ""),
        ("1", "", True, ""),
    ]
    assert all(record.masks == Masks(dataset).digest("val") for record in kept)


def test_registering_again_gives_the_same_version(dataset, runs):
    first = models.find_version(runs[0], "wsss-again")
    assert models.find_version(runs[0], "wsss-again") == first == models.find("1", "wsss-again")
    assert models.dataset_of_run(first.run) == "little"


def test_without_masks_only_force_promotes(workspace, runs):
    root = workspace / "data" / "unmasked"
    make_shapes(root, images=10, val_images=4, size=40, classes=2)
    for mask in root.glob("SegmentationClass*/*.png"):
        mask.unlink()
    dataset = open_dataset(root)
    with pytest.raises(UserError, match="no masks for its split val.* --force WHY"):
        gate.promote(runs[0], "wsss-unmasked", dataset)
    assert ledger.history("wsss-unmasked") == []
    record = gate.promote(runs[0], "wsss-unmasked", dataset, force="nothing to measure with")
    assert record.promoted and record.candidate_miou is None and record.masks == ""
    assert ledger.history("wsss-unmasked")[0].forced == "nothing to measure with"


def test_other_classes_are_refused_and_move_nothing(workspace, runs):
    root = workspace / "data" / "other"
    make_shapes(root, images=10, val_images=4, size=40, classes=3)
    with pytest.raises(UserError, match="knows the classes"):
        gate.promote(runs[0], "wsss-other", open_dataset(root))
    assert models.with_alias("wsss-other", models.CHAMPION) is None


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
