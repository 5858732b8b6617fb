"""Packages that somebody made or edited: whatever is in them, nothing of it runs."""

import json
import pickle
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient
from typer.testing import CliRunner

from wsss.classes import VOC, Classes
from wsss.cli import app
from wsss.data import open_dataset
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.nets.deeplab import DeepLab
from wsss.registry import gate, models
from wsss.registry.lineage import keep_lineage
from wsss.serving import server
from wsss.serving.package import load_package, log_model, save_package
from wsss.stages.outputs import save_model
from wsss.tracking import names

NAME = "wsss-little"
PICTURE = np.random.default_rng(0).integers(0, 256, (37, 51, 3), dtype=np.uint8)


def trained(folder, classes):
    torch.manual_seed(0)
    architecture = {"classes": classes + 1, "backbone": "tiny", "output_stride": 8, "rates": [1, 2]}
    net = DeepLab(weights="none", **architecture)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    save_model(folder, net.eval(), architecture)
    return folder


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest") / "segmenter"
    save_package(trained(tmp_path_factory.mktemp("step"), 20), folder, Classes(VOC), "# A card\n")
    return folder


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


def tamper(package, marker):
    """Put code into every place that MLflow or torch would run it from; the marker appears if any of it runs."""
    (package / "code").mkdir()
    for module in ("wsss_evil", "sitecustomize"):
        (package / "code" / f"{module}.py").write_text(f"open({str(marker)!r}, 'w')\n")
    mlmodel = yaml.safe_load((package / "MLmodel").read_text())
    (package / "model.py").write_text(f"open({str(marker)!r}, 'w')\n")
    mlmodel["flavors"]["python_function"] |= {"code": "code", "loader_module": "wsss_evil"}
    (package / "MLmodel").write_text(yaml.safe_dump(mlmodel))
    graph = package / "artifacts" / "model.pt2"
    with zipfile.ZipFile(graph) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    expression = json.dumps(f"__import__('pathlib').Path({str(marker)!r}).touch()")
    edited = 0
    for name, content in members.items():
        if name.endswith(".json") and b'"expr_str"' in content:
            document = json.loads(content)
            edited += poison(document, json.loads(expression))
            members[name] = json.dumps(document).encode()
    assert edited
    with zipfile.ZipFile(graph, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    for name in ("model.pkl", "model.pth", "artifacts/python_model.pkl"):
        (package / name).write_bytes(pickle.dumps(Bomb(str(marker))))


def poison(node, expression):
    """Replace every symbolic expression; how many there were."""
    if isinstance(node, list):
        return sum(poison(item, expression) for item in node)
    if not isinstance(node, dict):
        return 0
    count = "expr_str" in node
    if count:
        node["expr_str"] = expression
    return count + sum(poison(item, expression) for item in node.values())


@pytest.fixture
def hostile(honest, tmp_path):
    package, marker = tmp_path / "hostile", tmp_path / "it-ran"
    shutil.copytree(honest, package)
    tamper(package, marker)
    path = list(sys.path)
    yield package
    assert not marker.exists() and sys.path == path and "wsss_evil" not in sys.modules


def test_a_tampered_package_runs_nothing_and_answers_the_same(honest, hostile):
    expected = load_package(str(honest))(PICTURE)
    assert np.array_equal(load_package(str(hostile))(PICTURE), expected)
    assert len(np.unique(expected)) > 1


def test_serve_and_export_of_a_tampered_package_run_nothing(hostile, tmp_path, monkeypatch):
    served = []
    monkeypatch.setattr(server, "serve", lambda model, *_: served.append(model(PICTURE)))
    assert CliRunner().invoke(app, ["serve", str(hostile)]).exit_code == 0 and len(served) == 1
    (tmp_path / "photos").mkdir()
    from PIL import Image

    Image.fromarray(PICTURE).save(tmp_path / "photos" / "a.jpg")
    command = ["export", "voc-test", str(hostile), "--images", str(tmp_path / "photos"), "--comp", "comp6"]
    result = CliRunner().invoke(app, [*command, "--to", str(tmp_path / "out.tar.gz")])
    assert result.exit_code == 0, result.output


@pytest.fixture
def little(store, tmp_path):
    """A run with a logged model of two classes, and its dataset."""
    make_shapes(tmp_path / "data" / "little", images=10, val_images=4, size=40, classes=2)
    dataset = open_dataset("little")
    run = store.create_run("0", tags={names.DATASET: "little", names.SUPERVISION: ""}).info.run_id
    (tmp_path / "step").mkdir()
    log_model(run, trained(tmp_path / "step", 2), dataset.classes, "# card\n")
    keep_lineage(run, dataset)
    return run, dataset


def test_evaluate_and_promote_of_a_tampered_package_run_nothing(little, tmp_path):
    run, dataset = little
    marker = tmp_path / "it-ran"
    version = models.find_version(run, NAME)
    folder = MlflowClient().get_model_version_download_uri(version.name, version.number)
    tamper(Path(folder.removeprefix("file://")), marker)
    result = CliRunner().invoke(app, ["evaluate", version.address, "--data", "little", "--json"])
    assert result.exit_code == 0, result.output
    assert gate.promote(run, NAME, dataset).record.promoted
    assert not marker.exists() and "wsss_evil" not in sys.modules


def test_a_package_of_the_version_before_still_loads(honest, tmp_path):
    """Its model.json held the network's arguments alone; the class names were in MLmodel."""
    package = tmp_path / "old"
    shutil.copytree(honest, package)
    network = {"classes": 21, "backbone": "tiny", "output_stride": 8, "rates": [1, 2]}
    (package / "model.json").write_text(json.dumps(network))
    model = load_package(str(package))
    assert model.classes.names == VOC
    assert np.array_equal(model(PICTURE), load_package(str(honest))(PICTURE))


def test_a_package_of_format_2_still_loads_and_predicts_at_one_scale(honest, tmp_path):
    package = tmp_path / "old"
    shutil.copytree(honest, package)
    description = json.loads((package / "model.json").read_text())
    del description["inference"]
    (package / "model.json").write_text(json.dumps(description | {"format": 2}))
    model = load_package(str(package))
    assert model.inference.passes == 1 and model.inference.crf is None
    assert np.array_equal(model(PICTURE), load_package(str(honest))(PICTURE))


def edited(**changes):
    def edit(document):
        for path, value in changes.items():
            *way, last = path.split("__")
            node = document
            for key in way:
                node = node[key]
            node[last] = value
        return json.dumps(document)

    return edit


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (edited(format=6), "is of format 6, this version of wsss reads 1 to 5"),
        (edited(background=False), "background and pixels came with format 5"),
        (edited(format=5, pixels={"bands": [0], "stretch": None}), "bands [0]"),
        (edited(format="x"), "is of format 'x'"),
        (edited(scales=[1]), "scales: unknown key"),
        (edited(inference__scales=[0]), "inference.scales.0: "),
        (edited(inference__sides=[500, 256]), "the shorter and the longer"),
        (edited(inference__crf={"os.system": 1}), "os.system"),
        (edited(inference__crf={"iterations": 1e9}), "iterations"),
        (edited(network__backbone="os.system"), "network.backbone: "),
        (edited(network__output_stride=1), "network.output_stride: "),
        (edited(network__rates=[10**9]), "network.rates.0: "),
        (edited(network__rates=[1] * 1000), "network.rates: "),
        (edited(network__classes=10**12), "network.classes: "),
        (edited(network__classes=5), "has 5 classes, background included, not 21"),
        (edited(network__classes="21"), "network.classes: "),
        (edited(network__rates=[1, 2, 4]), "does not hold the weights that model.json describes"),
        (edited(classes=[*VOC[:19], VOC[0]]), "is empty, doubled or reserved"),
        (edited(palette=[[0, 0, 0]] * 21), "palette is not the VOC colour map"),
        (edited(preprocessing__std=[0, 1, 1]), "preprocessing.std.0: "),
        (edited(preprocessing__mean=[float("nan")] * 3), "preprocessing.mean.0: "),
        (lambda document: "[" * 100_000, "it is not JSON"),
        (lambda document: "[]", "it is no JSON object"),
        (lambda document: " " * (2 << 20), "is larger than 1 MiB"),
    ],
)
def test_a_bad_description_is_one_sentence(honest, tmp_path, edit, sentence):
    package = tmp_path / "edited"
    shutil.copytree(honest, package, ignore=shutil.ignore_patterns("artifacts"))
    path = package / "model.json"
    path.write_text(edit(json.loads(path.read_text())))
    with pytest.raises(UserError, match="no model can be loaded from") as error:
        load_package(str(package))
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_damaged_weights_and_a_missing_description_are_one_sentence(honest, tmp_path):
    package = tmp_path / "damaged"
    shutil.copytree(honest, package, ignore=shutil.ignore_patterns("artifacts"))
    (package / "model.safetensors").write_bytes(pickle.dumps(Bomb(str(tmp_path / "it-ran"))))
    with pytest.raises(UserError, match="does not hold the weights"):
        load_package(str(package))
    (package / "model.json").unlink()
    with pytest.raises(UserError, match=r"model\.json is missing"):
        load_package(str(package))
    assert not (tmp_path / "it-ran").exists()
