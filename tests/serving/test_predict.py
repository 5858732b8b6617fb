"""`wsss predict`: a folder of images to label maps, whatever comes between."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from wsss.classes import Classes
from wsss.cli import app
from wsss.data.palette_png import read_palette_png
from wsss.nets.deeplab import DeepLab
from wsss.serving.description import Network, describe
from wsss.serving.formats import DESCRIPTION
from wsss.serving.package import load_package
from wsss.serving.segmenter import Inference
from wsss.stages.outputs import save_model


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """What wsss reads of a package: two files."""
    torch.manual_seed(0)
    architecture = {"classes": 4, "backbone": "tiny", "output_stride": 8, "rates": [1, 2]}
    net = DeepLab(weights="none", **architecture).eval()
    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("package")
    save_model(folder, net, architecture)
    network = Network.model_validate_json((folder / DESCRIPTION).read_text())
    described = describe(network, Classes(("disc", "bar", "ring")), Inference((40, 90)))
    (folder / DESCRIPTION).write_text(described.as_json())
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number, size in enumerate([(64, 64), (37, 91), (1, 1), (100, 300)] * 5):
        image = Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))
        image.save(folder / f"photo {number}.png")
    return folder


def predict(*arguments):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def test_label_maps_are_those_of_the_model(package, photos, tmp_path):
    out = tmp_path / "out"
    result = predict(photos, "--model", package, "--out", out)
    assert result.exit_code == 0, result.output
    assert "20 label maps" in result.output
    model = load_package(str(package))
    for path in photos.iterdir():
        assert np.array_equal(read_palette_png(out / path.name), model(np.array(Image.open(path))))
    about = json.loads((out / "predictions.json").read_text())
    assert about["model"] == str(package) and about["classes"] == ["background", "disc", "bar", "ring"]


def test_killed_in_the_middle_it_goes_on_and_ends_the_same(package, photos, tmp_path):
    large = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    for number in range(60):
        Image.fromarray(np.roll(large, number, 1)).save(photos / f"large {number}.png", compress_level=0)
    out, whole = tmp_path / "out", tmp_path / "whole"
    program = [sys.executable, "-c", "from wsss.cli import main; main()", "predict", str(photos)]
    process = subprocess.Popen([*program, "--model", str(package), "--out", str(out)])
    while process.poll() is None and len(list(out.glob("*.png"))) < 5:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    recorded = {json.loads(line)["id"] for line in (out / "inputs.jsonl").read_text().splitlines()}
    assert 5 <= len(before) < 80
    (out / "inputs.jsonl").open("a").write('{"id": "photo 1", "sha')
    for folder in (out, whole):
        assert predict(photos, "--model", package, "--out", folder).exit_code == 0
    assert {p.name: p.read_bytes() for p in out.glob("*.png")} == {p.name: p.read_bytes() for p in whole.glob("*.png")}
    assert all((out / f"{i}.png").stat().st_mtime_ns == before[f"{i}.png"] for i in recorded if f"{i}.png" in before)
    assert not [path for path in out.iterdir() if path.suffix not in (".png", ".json", ".jsonl")]


def test_bad_images_are_named_and_the_rest_goes_on(package, photos, tmp_path):
    (photos / "broken.jpg").write_bytes(b"no image")
    Image.new("L", (9, 9)).save(photos / "grey.png")
    result = predict(photos, "--model", package, "--out", tmp_path / "out")
    assert result.exit_code != 0
    problem = str(result.exception)
    assert "2 images" in problem and "broken.jpg" in problem and "grey.png" in problem and "20 are in" in problem
    assert len(list((tmp_path / "out").glob("*.png"))) == 20


def test_an_image_that_changed_is_labelled_again_and_another_model_is_refused(package, photos, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    assert predict(photos, "--model", package, "--out", out).exit_code == 0
    Image.new("RGB", (5, 9)).save(photos / "photo 1.png")
    assert predict(photos, "--model", package, "--out", out).exit_code == 0
    assert read_palette_png(out / "photo 1.png").shape == (9, 5)
    shutil.copytree(package, other)
    described = json.loads((other / DESCRIPTION).read_text())
    described["inference"]["flip"] = True
    (other / DESCRIPTION).write_text(json.dumps(described))
    result = predict(photos, "--model", other, "--out", out)
    assert result.exit_code != 0 and "name another folder with --out" in str(result.exception)


def test_bad_folders_are_one_sentence(package, tmp_path):
    result = predict(tmp_path, "--model", package, "--out", tmp_path / "out")
    assert "holds no images" in str(result.exception)
    assert not (tmp_path / "out").exists()
    result = predict(tmp_path, "--model", tmp_path / "nothing", "--out", tmp_path / "out")
    assert "no model can be loaded" in str(result.exception)


@pytest.mark.soak
def test_a_cluster_gives_the_same(package, photos, tmp_path, surroundings):
    here, there = tmp_path / "here", tmp_path / "there"
    assert predict(photos, "--model", package, "--out", here).exit_code == 0
    result = predict(photos, "--model", package, "--out", there, "--ray-address", "local")
    assert result.exit_code == 0, result.output
    assert {p.name: p.read_bytes() for p in here.glob("*.png")} == {p.name: p.read_bytes() for p in there.glob("*.png")}
