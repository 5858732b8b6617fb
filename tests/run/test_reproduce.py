"""`wsss reproduce`: a run done again from what was recorded of it, and whether its numbers came out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL
from PIL import Image

import wsss
from tune.measure import Place, facts_of, measure
from tune.mirror import Mirror
from tune.parent import search_run
from tune.recorded import find_recorded
from tune.search import plan_search
from tune.study import COMPLETE, PRUNED, Study
from wsss import versions
from wsss.cli import main
from wsss.data import open_dataset
from wsss.data.manifest import write_manifest
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.progress import ConsoleReporter
from wsss.run import reproduce
from wsss.run.method import run_method
from wsss.run.provenance import dataset_of
from wsss.run.recorded import Recorded, recorded
from wsss.scores import Masks
from wsss.tracking import names
from wsss.tracking.connection import mlflow_client

pytestmark = pytest.mark.usefixtures("surroundings")

SETTINGS = {key: value for key, value in SMALL.items() if not key.startswith("refine.train")}
SETTINGS |= {"localize.train.epochs": "1", "segment.train.epochs": "1", "localize.train.crop": "33"}
METRIC = "dev/labels_crf/miou"


@dataclass(frozen=True)
class Done:
    """A workspace with a finished run, and the record of another one with the same settings."""

    root: Path
    run_id: str
    again: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Iterator[Done]:
    root = tmp_path_factory.mktemp("reproduce")
    shutil.copy(template, root / "mlflow.db")
    (root / "data").mkdir()
    make_shapes(root / "data" / "shapes", images=16, val_images=4, size=64, classes=2, rng=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "runs")
        run_id = wsss.run("cam", settings=SETTINGS, until="refine").run_id
        patch.chdir(tmp_path_factory.mktemp("again"))
        run_method("cam", "demo", str(root / "data" / "shapes"), overrides=SETTINGS, until="refine",
                   offline=Path("record").absolute())  # fmt: skip
        yield Done(root, run_id, Path("record").absolute())


@pytest.fixture
def done(made: Done, monkeypatch: pytest.MonkeyPatch) -> Iterator[Done]:
    """What a test changes of the run or its data is put back."""
    monkeypatch.chdir(made.root)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "runs")
    client = mlflow_client()
    before = client.get_run(made.run_id).data
    client.set_tag(made.run_id, names.GIT_DIRTY, "false")
    shutil.copytree("data", "data-before")
    yield made
    for key, value in before.tags.items():
        client.set_tag(made.run_id, key, value)
    for key, value in before.metrics.items():
        client.log_metric(made.run_id, key, value)
    for key in client.get_run(made.run_id).data.tags.keys() - before.tags.keys():
        client.delete_tag(made.run_id, key)
    shutil.rmtree("data")
    os.rename("data-before", "data")
    shutil.rmtree("work/reproduce", ignore_errors=True)


@pytest.fixture
def quick(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is not done again: its record is there."""

    def copy(run: Recorded, code: Path, dataset: object, record: Path, device: str) -> None:
        shutil.copytree(done.again, record)

    monkeypatch.setattr(reproduce, "_run", copy)


Says = Callable[..., str]


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Says:
    """What `wsss reproduce ...` says, with one exit status."""

    def say(*arguments: str, status: int = 0) -> str:
        monkeypatch.setattr("sys.argv", ["wsss", "reproduce", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capfd.readouterr()
        assert (ended.value.code or 0) == status, said
        return " ".join((said.out + said.err).split())

    return say


def test_a_run_comes_out_again_with_every_step_computed(done: Done, says: Says) -> None:
    """By a process of its own, with the code of the commit where the code here is another; MLflow is not told."""
    before = len(wsss.runs())
    text = says(done.run_id)
    assert "localize.train" in text and "refine.crf" in text
    assert f"{METRIC} " in text and "differs" not in text and "+0.0000" in text
    assert "label maps and predictions: 6 of 6 are the same, pixel for pixel" in text
    assert f"run {done.run_id} came out again (on the same machine, with as many cores, so the same" in text
    assert len(wsss.runs()) == before and not Path("work/reproduce", done.run_id).exists()


@pytest.mark.usefixtures("quick")
def test_on_the_same_machine_the_same_numbers_are_asked_for_elsewhere_a_tolerance(done: Done, says: Says) -> None:
    client = mlflow_client()
    value = client.get_run(done.run_id).data.metrics[METRIC]
    client.log_metric(done.run_id, METRIC, value + 0.01)
    text = says(done.run_id, status=1)
    assert f"{METRIC} {value + 0.01:.4f} {value:.4f} -0.0100 differs" in text
    record = Path("work/reproduce", done.run_id, "record").absolute()
    assert "did not come out" in text and f"is kept in {record}" in text and record.is_dir()
    client.set_tag(done.run_id, names.CORES, "77")
    text = says(done.run_id)
    assert "differs" not in text and "came out again (within 2 points, since not every step is known" in text
    assert "differs" in says(done.run_id, "--tolerance", "0.5", status=1)
    run = replace(recorded(done.run_id), metrics={"dev/pred/miou": 0.5})  # it does not come out at all
    (line,) = reproduce.reproduce(run, points=90.0).lines
    assert line.again is None and not line.close


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("what", ["host", "reused", "torch", "device"])
def test_what_is_not_known_to_be_the_same_machine(
    what: str, done: Done, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = recorded(done.run_id)
    assert run.machine is not None
    stages = [each.info.run_id for each in mlflow_client().search_runs(["1"], f"tags.mlflow.parentRunId = '{run.id}'")]
    if what == "reused":
        for stage in stages:
            mlflow_client().set_tag(stage, names.step_reused("localize.train"), "true")
        run = recorded(done.run_id)
        for stage in stages:
            mlflow_client().delete_tag(stage, names.step_reused("localize.train"))
        assert run.machine is None
    elif what == "device":
        run = replace(run, steps={**run.steps, "localize.train": "0" * 64})
    elif what == "torch":
        run = replace(run, torch="1.0", machine=replace(run.machine, torch="1.0"))
    else:
        run = replace(run, machine=replace(run.machine, host="another"))
    assert not reproduce.reproduce(run).exact
    said = capsys.readouterr().err
    assert ("was made with torch 1.0, here is" in said) == (what == "torch")


@pytest.mark.usefixtures("quick")
def test_what_cannot_be_reproduced_is_refused_in_one_sentence(done: Done, says: Says) -> None:
    client, run_id = mlflow_client(), done.run_id
    assert "there is no run 123; " in says("123", status=2)
    client.set_tag(run_id, names.GIT_DIRTY, "true")
    assert "was made with changes that commit" in says(run_id, status=2)
    client.set_tag(run_id, names.GIT_DIRTY, "false")
    client.set_tag(run_id, names.GIT_COMMIT, "0" * 40)
    text = says(run_id, status=2)
    assert f"commit {'0' * 40} of run {run_id} is not in " in text and "git fetch" in text
    client.set_tag(run_id, names.GIT_COMMIT, "")
    assert "was made outside of git, with version" in says(run_id)
    client.update_run(run_id, "FAILED")
    assert f"run {run_id} is FAILED; only a finished run has numbers" in says(run_id, status=2)
    client.update_run(run_id, "FINISHED")


@pytest.mark.usefixtures("quick")
def test_changed_masks_are_refused_unless_dvc_has_the_version(done: Done, says: Says) -> None:
    run = replace(recorded(done.run_id), md5="", digest=open_dataset("shapes").digest)
    for split in ("dev", "train"):
        mask = Masks(open_dataset("shapes")).path(open_dataset("shapes").splits[split][0])
        assert mask is not None
        Image.fromarray(np.zeros_like(Image.open(mask))).save(mask)
    with pytest.raises(UserError, match=r"the masks of dev, train in .*shapes are not those that run \w+ was scored"):
        reproduce.reproduce(run)
    write_manifest(Path("data/shapes"))
    with pytest.raises(UserError, match=r"the masks of dev, train in "):
        reproduce.reproduce(run)
    text = says(done.run_id)
    assert "dataset shapes is fetched in its version" in text and "came out again" in text
    shutil.rmtree("data/shapes/SegmentationClass")
    with pytest.raises(UserError, match=r"the masks of dev, train in "):
        reproduce.reproduce(run)
    shutil.rmtree("data")
    assert "dataset shapes is fetched in its version" in says(done.run_id)


@pytest.mark.usefixtures("quick")
def test_data_of_another_digest_is_refused_unless_dvc_has_the_version(done: Done, says: Says) -> None:
    version = versions.store("data/shapes")
    digest = open_dataset("shapes").digest
    shutil.rmtree("data/shapes")
    make_shapes(Path("data/shapes"), images=16, val_images=4, size=64, classes=2, rng=1)
    client = mlflow_client()
    if names.DATA_MD5 in client.get_run(done.run_id).data.tags:
        client.delete_tag(done.run_id, names.DATA_MD5)
    run = replace(recorded(done.run_id), md5="", digest=digest)
    with pytest.raises(
        UserError, match=rf"had dataset shapes with the digest {digest[:12]}, which is not here .*shapes"
    ):
        reproduce.reproduce(run)
    fetched = dataset_of(replace(run, md5=version.md5), Path("work/reproduce/x").absolute())
    assert fetched.digest == digest and fetched.root == Path("work/reproduce/x/data/shapes").absolute()
    with pytest.raises(UserError, match="and can't be fetched: .*not in DVC's cache"):
        dataset_of(replace(run, md5="0" * 32 + ".dir"), Path("work/reproduce/x").absolute())


def test_files_and_datasets_that_settings_name_are_found_from_another_folder(done: Done) -> None:
    Path("weights.safetensors").write_bytes(b"")
    settings = {"localize.train.weights": "weights.safetensors", "localize.train.extra": "shapes"}
    run = Recorded("1", "run 1", "mcis", "demo", 0, settings, "refine", "shapes", {}, "", False)
    assert reproduce._whole_paths(run) == {
        "localize.train.weights": str(done.root / "weights.safetensors"),
        "localize.train.extra": str(done.root / "data" / "shapes"),
    }
    assert reproduce._whole_paths(replace(run, settings={"localize.train.weights": "imagenet"})) == {}


@pytest.fixture
def trials(done: Done) -> list[str]:
    """The runs of a search's three trials: one is complete, one was given up, one failed; the search's run is last."""
    search = plan_search("cam", "demo", "shapes", keys=("refine.crf",), fixed=SETTINGS)
    study, client = Study(search, Path("work"), trials=3), mlflow_client()
    with search_run(search, study) as parent:
        mirror = Mirror(client, study, parent.id, parent.experiment)
        objective = search.methods[0].objective
        for state in (COMPLETE, PRUNED):
            number, candidate = study.take()
            mirror.begin(number, candidate)
            if state == COMPLETE:
                place = Place(torch.device("cpu"), Path("work"))
                *_, last = measure(search.plan(candidate), objective, open_dataset("shapes"), 0, place, ConsoleReporter)
                study.note(number, steps=facts_of(last), seconds=last.seconds, saved=last.saved)
                study.end(number, state, last.value)
            else:
                study.end(number, state)
            mirror.end(study.records[number])
        assert mirror.close()
        parent.end(study, None)
    for run in mirror.runs.values():
        client.set_tag(run, names.GIT_DIRTY, "false")
    return [*(mirror.runs[number] for number in sorted(mirror.runs)), parent.id]


@pytest.mark.usefixtures("quick")
def test_a_searchs_trial_and_its_winner_come_out_as_whole_runs(done: Done, trials: list[str], says: Says) -> None:
    complete, pruned, search = trials
    run = find_recorded(complete)
    assert (run.method, run.preset, run.rng, run.until, run.data) == ("cam", "demo", 0, "refine", "shapes")
    assert run.settings.items() >= SETTINGS.items() and "refine.crf.bilateral_weight" in run.settings
    assert run.metrics.keys() == {METRIC}
    text = says(complete, "--tolerance", "0")  # what it measured on dev alone is what a whole run gives
    assert f"trial 1, run {complete} came out again" in text and text.count("+0.0000") == 1
    assert "is pruned; only a complete trial has a number" in says(pruned, status=2)
    assert f"trial 1, run {complete} came out again" in says(search)  # its best trial
    mlflow_client().set_tag(search, names.BEST_RUN, done.run_id)
    assert f"run {done.run_id} came out again" in says(search)
    make_shapes_again = open_dataset("shapes").root
    shutil.rmtree(make_shapes_again)
    make_shapes(make_shapes_again, images=16, val_images=4, size=64, classes=2, rng=1)
    assert "had dataset shapes with the digest" in says(complete, status=2)
