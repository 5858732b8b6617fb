"""Localizers that predict without a segmenter: packaged, they answer what the run's table calls `direct`."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import empty_store
from served_examples import WITHOUT_WSSS
from test_packages_from_outside import edited
from typer.testing import CliRunner

from wsss.cli import app
from wsss.data import open_dataset
from wsss.data.label_maps import LabelMaps
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.progress import ConsoleReporter
from wsss.registry import models
from wsss.run.plan import make_plan
from wsss.run.steps import StepRunner
from wsss.serving.export import export_model
from wsss.serving.learned import direct_inference, direct_step
from wsss.serving.memory import LabellingMemory
from wsss.serving.package import load_package, save_package
from wsss.serving.predict import predict_folder
from wsss.serving.segmenter import fused
from wsss.tracking.connection import mlflow_client

METHODS = ("fcn_mil", "wildcat", "dcsm")
SETTINGS = {"localize.train.epochs": "3", "localize.train.crop": "49"}
PICTURE = np.random.default_rng(0).integers(0, 256, (57, 49, 3), np.uint8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "shapes"
    root.mkdir()
    make_shapes(root, images=24, val_images=12, size=64, classes=3, rng=0)
    return open_dataset(root)


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """Of each method the plan's step that predicts, and the folders of its training and its label maps."""
    torch.set_num_threads(1)
    found = {}
    for method in METHODS:
        more = {"localize.train.pretrain_epochs": "4"} if method == "fcn_mil" else {}
        plan = make_plan(method, "demo", SETTINGS | more)
        runner = StepRunner(dataset, 0, torch.device("cpu"), tmp_path_factory.mktemp(method))
        step = direct_step(plan)
        for planned in plan.steps:
            if planned.key in ("localize.train", step.key):
                runner.run(planned, ConsoleReporter("test"))
        results = runner.results
        found[method] = step, results["localize.train"].folder, results[step.key].folder / "direct"
    return found


@pytest.fixture(scope="module")
def packages(trained, dataset, tmp_path_factory):
    """The folder of each method's package."""
    made = {}
    for method, (step, folder, _) in trained.items():
        made[method] = tmp_path_factory.mktemp("package") / method
        how = direct_inference(step, dataset)
        save_package(folder, made[method], dataset.classes, "# card\n", inference=how, kind=step.implementation)
    return made


@pytest.mark.parametrize("method", METHODS)
def test_a_package_answers_what_the_run_calls_direct(method, trained, packages, dataset):
    model, labels = load_package(str(packages[method])), LabelMaps(trained[method][2])
    same = [(model(dataset.image(i)) == labels.read(i)).mean() for i in labels.ids]
    assert len(same) > 12 and np.mean(same) >= 0.9999
    assert len(np.unique(np.concatenate([labels.read(i).ravel() for i in labels.ids]))) > 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (57, 49)])
def test_it_answers_pictures_of_any_size_and_in_a_batch(method, size, packages):
    model = load_package(str(packages[method]))
    picture = np.resize(PICTURE, (*size, 3))
    alone, mirrored = model(picture), picture[:, ::-1].copy()
    assert alone.shape == size and alone.max() <= 3
    both = model.segment_batch([picture, mirrored])
    assert (both[0] == alone).mean() >= 0.9999 and (both[1] == model(mirrored)).mean() >= 0.9999
    assert model.network_size(60, 61) != model.network_size(61, 60)


def test_a_package_answers_the_same_where_there_is_no_wsss(packages, tmp_path):
    """Bit for bit, also the classes that WILDCAT sees and its background."""
    np.save(tmp_path / "image.npy", PICTURE)
    program = (
        WITHOUT_WSSS
        + """
import mlflow.pyfunc, numpy as np
for package in sys.argv[1:]:
    model = mlflow.pyfunc.load_model(package)
    np.save(package + ".npy", model.predict(np.load("image.npy")[None]))
"""
    )
    graphs = [str(packages[method]) for method in ("fcn_mil", "wildcat")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program, *graphs], cwd=tmp_path, check=True, env=environment)
    torch.set_num_threads(1)
    for package in graphs:
        assert np.array_equal(np.load(package + ".npy")[0], load_package(package)(PICTURE)), package


def test_gradients_are_for_wsss_alone_and_said_so(packages, dataset, tmp_path):
    package = packages["dcsm"]
    files = {path.name for path in package.iterdir()}
    assert files == {"MLmodel", "README.md", "model.json", "model.safetensors"}
    for kind in ("onnx", "openvino"):
        with pytest.raises(UserError, match="labels by gradients, which can't be exported"):
            export_model(load_package(str(package)), kind, dataset, "val", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", METHODS)
def test_the_server_knows_what_memory_it_takes(method, packages):
    memory = LabellingMemory(load_package(str(packages[method])).module)
    assert 100_000 < memory.bytes(32, 64) < memory.bytes(64, 64)


def test_a_folder_is_labelled_by_it(packages, dataset, tmp_path):
    model = load_package(str(packages["dcsm"]))
    images = tmp_path / "images"
    images.mkdir()
    for image_id in dataset.splits["val"][:3]:
        shutil.copy(dataset.root / "JPEGImages" / f"{image_id}.png", images)
    assert predict_folder(images, model, tmp_path / "out", torch.device("cpu")) == 3


def test_the_faster_network_is_that_of_the_localizer_too(packages):
    for method in METHODS:
        model = load_package(str(packages[method]))
        assert (fused(model)(PICTURE) == model(PICTURE)).mean() >= 0.9999


@pytest.mark.parametrize(
    ("method", "edit", "sentence"),
    [
        ("wildcat", edited(network__k_top=-1.0), "k_top: it should be greater than or equal to 0"),
        ("wildcat", edited(direct__background=None), "direct.background is missing"),
        ("fcn_mil", edited(direct=None), "direct belongs to a localizer"),
        ("fcn_mil", edited(direct__cell=3), "cell: it should be 2, 4, 8 or 16"),
        ("fcn_mil", edited(network__kind="wildcat"), "per_class: it is required"),
        ("dcsm", edited(network__kind="vit"), "does not match any of the expected tags"),
        ("dcsm", edited(format=3), "is of format 3"),
    ],
)
def test_a_bad_description_is_one_sentence(method, edit, sentence, packages, tmp_path):
    package = tmp_path / "edited"
    shutil.copytree(packages[method], package, ignore=shutil.ignore_patterns("artifacts"))
    (package / "model.json").write_text(edit(json.loads((package / "model.json").read_text())))
    with pytest.raises(UserError, match="no model can be loaded from") as error:
        load_package(str(package))
    assert sentence in str(error.value)


@pytest.fixture(scope="module")
def run(template, dataset, tmp_path_factory):
    """What a run of WILDCAT printed, in a workspace of its own."""
    root = tmp_path_factory.mktemp("workspace")
    shutil.copytree(dataset.root, root / "data" / "shapes")
    empty_store(template, root / "mlflow.db")
    small = SETTINGS | {"segment.train.epochs": "1", "segment.train.crop": "49"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
        for name in ("WSSS_LEDGER", "WSSS_STORE"):
            patch.delenv(name, raising=False)
        words = [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
        done = CliRunner().invoke(app, ["run", "--method", "wildcat", "--preset", "demo", *words])
        assert done.exit_code == 0, done.output
        yield done.output


def test_a_run_registers_both_and_the_table_and_the_model_are_one_number(run):
    assert "models:/wsss-shapes-candidates/1" in run
    assert "the localizer, which predicts as `direct`, is models:/wsss-shapes-direct-candidates/1" in run
    address = "models:/wsss-shapes-direct-candidates/1"
    shown = CliRunner().invoke(app, ["evaluate", address, "--data", "shapes", "--split", "val", "--json"])
    row = next(line for line in run.splitlines() if "│ direct " in line and "│ val" in line)
    assert f"{json.loads(shown.stdout)['miou']:.1%}" in row


def test_both_compete_under_their_own_names(run):
    run_id = next(line.split()[1].rstrip(",") for line in run.splitlines() if line.startswith("run "))
    promoted = CliRunner().invoke(app, ["promote", run_id, "--direct"], env={"COLUMNS": "200"})
    assert promoted.exit_code == 0 and "wsss-shapes-direct version 1 is champion" in promoted.output
    promoted = CliRunner().invoke(app, ["promote", run_id], env={"COLUMNS": "200"})
    assert promoted.exit_code == 0 and "wsss-shapes version 1 is champion" in promoted.output
    found = {each: models.find_version(run_id, each) for each in ("wsss-shapes", "wsss-shapes-direct")}
    assert len({version.source for version in found.values()}) == 2
    assert models.model_of_run(run_id) == found["wsss-shapes"].source
    assert load_package("models:/wsss-shapes-direct@champion").inference.direct is not None
    wrong = CliRunner().invoke(app, ["promote", run_id, "--direct", "--name", "wsss-shapes"])
    assert wrong.exit_code and "--direct goes with names that end in -direct" in str(wrong.exception)


def test_the_card_is_that_of_the_localizer(run):
    import mlflow.artifacts

    mlflow_client()
    card = mlflow.artifacts.load_text("models:/wsss-shapes-direct-candidates/1/README.md")
    for text in ("# WILDCAT localizer for shapes", "learned from tags and predicts", "`direct` is what this package"):
        assert text in card, text
    background = next(line for line in card.splitlines() if line.startswith("| background | "))
    assert background.count(" to ") == 2
