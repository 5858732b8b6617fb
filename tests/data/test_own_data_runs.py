"""From `wsss data add` to a served mask, on data as people bring it: tissue without a background, tiles of 4 bands."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import SMALL, command
from PIL import Image
from served_examples import asking

from wsss.data import Dataset
from wsss.data.shapes import make_shapes
from wsss.serving import server
from wsss.serving.package import load_package
from wsss.serving.predict import predict_folder

PNG = {"Content-Type": "image/png"}
SETTINGS = [part for key, value in SMALL.items() if "refine" not in key for part in ("--set", f"{key}={value}")]


def run(root: Path, data: str) -> tuple[str, Path, str]:
    """Run CAM with preset demo; the model's address, the folder of its package, and what was printed."""
    log = command(root, "run", "--data", data, "--method", "cam", "--preset", "demo", *SETTINGS).stdout
    address = next(word for word in log.split() if word.startswith("models:/"))
    (weights,) = (root / "mlruns").rglob("model.safetensors")
    return address, weights.parent, log


@pytest.fixture(scope="module")
def tissue(tmp_path_factory):
    """Patches in the layout of LUAD-HistoSeg's masks: 0 to 3 are tissue, 4 is white; a run of CAM over them."""
    root = tmp_path_factory.mktemp("luad")
    make_shapes(root / "drawn", images=30, val_images=8, size=64, classes=2, rng=2, background=False)
    drawn = Dataset.open(root / "drawn")
    for folder in ("img", "mask"):
        (root / folder).mkdir()
    rows, names = ["image,labels"], ("tumour", "stroma", "necrosis", "lymphocyte")
    for id in (*drawn.splits["train"], *drawn.splits["dev"], *drawn.splits["val"]):
        shutil.copy(drawn.image_path(id), root / "img")
        mask = np.array(Image.open(drawn.root / "SegmentationClass" / f"{id}.png"))
        Image.fromarray(np.where(mask == 255, np.uint8(4), mask - np.uint8(1))).save(root / "mask" / f"{id}.png")
        rows.append(f"{id},{';'.join(names[c] for c in np.flatnonzero(drawn.tags(id)))}")
    (root / "tags.csv").write_text("\n".join(rows), encoding="utf-8")
    said = ["--masks", "mask", "--no-background", "--ignore-values", "4,255", "--no-dvc", "--name", "luad"]
    values = "0=tumour,1=stroma,2=necrosis,3=lymphocyte"
    added = command(root, "data", "add", "folder", "img", "--tags", "tags.csv", "--mask-values", values, *said).stdout
    assert "4 classes and no background" in added and "4 ignored (" in added and "0 tumour (" in added
    return root, *run(root, "luad")


def test_a_mask_of_tissue_is_never_0_from_the_run_to_the_server(tissue, tmp_path, monkeypatch):
    root, _, package, _ = tissue
    content = json.loads((package / "model.json").read_text(encoding="utf-8"))
    assert content["format"] == 5 and content["background"] is False and content["pixels"] is None
    model, dataset = load_package(str(package)), Dataset.open(root / "data" / "luad")
    assert model.classes == dataset.classes and not model.classes.background
    ask = asking(server.make_app(model))
    listed = ask("GET", "/classes").json()
    assert [(each["index"], each["name"]) for each in listed] == [*enumerate(dataset.classes.names, 1)]
    for id in dataset.splits["val"]:
        body = dataset.image_path(id).read_bytes()
        answer = ask("POST", "/segment", content=body, headers=PNG)
        assert answer.status_code == 200
        served = np.array(Image.open(io.BytesIO(answer.content)))
        assert served.min() >= 1 and served.max() <= 4
        assert (served == model(dataset.image(id))).all()
        told = ask("POST", "/segment", content=body, headers={"Accept": "application/json", **PNG}).json()
        assert sum(told["images"][0]["pixels"].values()) == served.size
        assert set(told["images"][0]["pixels"]) <= set(dataset.classes.names)


def test_tables_cards_and_the_gate_speak_of_the_classes_there_are(tissue):
    root, address, package, log = tissue
    card = (package / "README.md").read_text(encoding="utf-8")
    assert "- Classes: tumour, stroma, necrosis, lymphocyte\n" in card and "never 0, as there is no background" in card
    assert "there is no background" in card and "| background |" not in card and "| tumour | " in card
    told = json.loads(command(root, "evaluate", address, "--data", "luad", "--split", "val", "--json").stdout)
    assert set(told["classes"]) == {"tumour", "stroma", "necrosis", "lymphocyte"}
    ious = [each["iou"] for each in told["classes"].values() if each["iou"] is not None]
    assert told["miou"] == pytest.approx(np.mean(ious))
    assert f"{told['miou']:.1%}" in log
    command(root, "results", "--data", "luad", "--preset", "demo", "--to", "page.md")
    table = (root / "page.md").read_text(encoding="utf-8")
    assert "all 4 classes" in table and "4 classes, no background" in table
    promoted = command(root, "promote", address, "--data", "luad", check=False)
    assert promoted.returncode in (0, 1) and "Traceback" not in promoted.stderr and "mIoU" in promoted.stdout


@pytest.fixture(scope="module")
def satellite(tmp_path_factory):
    """Tiles of 4 bands of 16 bits whose fourth tells the classes, and a run of CAM over them."""
    root = tmp_path_factory.mktemp("satellite")
    make_shapes(root / "drawn", images=24, val_images=6, size=64, classes=2, rng=4, bands=True)
    drawn = Dataset.open(root / "drawn")
    (root / "tiles").mkdir()
    rows = ["image,labels"]
    for id in (*drawn.splits["train"], *drawn.splits["dev"], *drawn.splits["val"]):
        shutil.copy(drawn.image_path(id), root / "tiles")
        rows.append(f"{id},{';'.join(drawn.tag_names(id))}")
    (root / "tags.csv").write_text("\n".join(rows), encoding="utf-8")
    said = ["--bands", "4,3,2", "--stretch", "2,98", "--masks", "drawn/SegmentationClass", "--no-dvc", "--name", "sat"]
    added = command(root, "data", "add", "folder", "tiles", "--tags", "tags.csv", *said)
    assert "30 4 bands of 16 bits" in added.stderr and "images are read so: bands 4, 3, 2; stretched" in added.stdout
    return root, *run(root, "sat")


def test_tiles_of_16_bits_are_served_as_they_were_learnt(satellite, tmp_path):
    root, _, package, _ = satellite
    dataset = Dataset.open(root / "data" / "sat")
    content = json.loads((package / "model.json").read_text(encoding="utf-8"))
    assert content["pixels"] == dataset.pixels.record() and content["pixels"]["bands"] == [4, 3, 2]
    model = load_package(str(package))
    assert model.inference.pixels == dataset.pixels
    assert "files are read so: bands 4, 3, 2; stretched" in (package / "README.md").read_text(encoding="utf-8")
    (tmp_path / "in").mkdir()
    for id in dataset.splits["val"]:
        shutil.copy(dataset.image_path(id), tmp_path / "in")
    predict_folder(tmp_path / "in", model, tmp_path / "out", model.device)
    ask = asking(server.make_app(model))
    for id in dataset.splits["val"]:
        expected = model(dataset.image(id))
        assert (np.array(Image.open(tmp_path / "out" / f"{id}.png")) == expected).all()
        answer = ask(
            "POST", "/segment", content=dataset.image_path(id).read_bytes(), headers={"Content-Type": "image/tiff"}
        )
        assert answer.status_code == 200, answer.text
        assert (np.array(Image.open(io.BytesIO(answer.content))) == expected).all()
    assert tifffile.imread(dataset.image_path(id)).dtype == np.uint16
