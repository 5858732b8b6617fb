import asyncio
import io
import json
import re
import struct
import subprocess
import sys
import urllib.request
import zlib

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from served_examples import asking

from wsss.classes import Classes, palette
from wsss.data import open_dataset
from wsss.data.augmentation import normalise
from wsss.data.label_maps import LabelMapWriter
from wsss.data.palette_png import read_palette_png, write_palette_png
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.nets.deeplab import DeepLab
from wsss.run.plan import make_plan
from wsss.scores import Masks, Scores, confusion
from wsss.serving import pictures, server, uploads
from wsss.serving.card import model_card
from wsss.serving.evaluate import as_json, evaluate
from wsss.serving.options import Options
from wsss.serving.package import load_package, load_step, save_package
from wsss.stages.inference import node_size, resize
from wsss.stages.outputs import save_model

CLASSES = Classes(("disc", "bar", "ring"))
SIZES = [(64, 64), (37, 91), (5, 7), (100, 53)]


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(array, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    """The output of a segment.train step; the weights are random but large, so that every class is predicted."""
    torch.manual_seed(0)
    architecture = {"classes": 4, "backbone": "tiny", "output_stride": 8, "rates": [1, 2]}
    net = DeepLab(weights="none", **architecture)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("step")
    save_model(folder, net.eval(), architecture)
    return folder


@pytest.fixture(scope="module")
def package(step, tmp_path_factory):
    folder = tmp_path_factory.mktemp("package") / "segmenter"
    save_package(step, folder, CLASSES, "# A card\n")
    return folder


@pytest.fixture(scope="module")
def model(package):
    return load_package(str(package))


@pytest.fixture(scope="module")
def graph(package):
    """What a package gives people who have only MLflow and PyTorch."""
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model(str(package))


@pytest.fixture(scope="module")
def ask(model):
    app = server.make_app(model)

    def request(method, path, body=b"", kind="image/png"):
        async def send():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
                return await client.request(method, path, content=body, headers={"content-type": kind})

        return asyncio.run(send())

    return request


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "little"
    make_shapes(root, images=10, val_images=4, size=40, classes=3)
    return open_dataset(root)


def offline(step, image):
    """The network at one scale, its probabilities at the image's size, the best class: written out once more."""
    architecture = json.loads((step / "model.json").read_text())
    net = DeepLab(weights="none", **architecture).eval()
    net.load_state_dict(load_file(step / "model.safetensors"))
    with torch.inference_mode():
        scores = net(resize(normalise(image)[None], node_size(*image.shape[:2], 8)))
        return resize(scores.softmax(1), image.shape[:2])[0].argmax(0).numpy().astype(np.uint8)


@pytest.mark.parametrize("size", [*SIZES, (1, 1)])
def test_pyfunc_model_package_and_step_are_equal_at_any_size(graph, model, step, size):
    image = picture(*size)
    labels = graph.predict(image[None])
    assert labels.shape == (1, *size) and labels.dtype == np.uint8
    assert np.array_equal(labels[0], model(image)) and np.array_equal(labels[0], load_step(step, CLASSES)(image))


@pytest.mark.parametrize("size", SIZES)
def test_labels_are_those_of_offline_inference(model, step, size):
    labels = model(picture(*size))
    expected = offline(step, picture(*size))
    assert labels.dtype == np.uint8 and np.array_equal(labels, expected)
    assert size == (5, 7) or len(np.unique(expected)) > 1


def test_package_holds_weights_classes_and_card(package, step):
    assert (package / "README.md").read_text() == "# A card\n"
    description = json.loads((package / "model.json").read_text())
    assert description["format"] == 4 and description["classes"] == list(CLASSES.names)
    assert description["network"]["classes"] == len(description["palette"]) == 4
    assert load_file(package / "model.safetensors").keys() == load_file(step / "model.safetensors").keys()
    assert load_package(str(package)).classes == CLASSES
    assert not [path for path in package.rglob("*") if path.suffix in (".pkl", ".pickle", ".pth", ".pt")]


def test_wrong_number_of_classes_is_refused(step, tmp_path):
    with pytest.raises(UserError, match=r"has 4 classes, background included, not 3"):
        save_package(step, tmp_path / "out", Classes(("disc", "bar")), "")


def test_no_model_is_one_sentence(step):
    for address in ("nowhere", str(step)):
        with pytest.raises(UserError, match=f"no model can be loaded from {address}"):
            load_package(address)


@pytest.mark.parametrize("size", SIZES)
def test_served_mask_equals_offline_inference(ask, model, step, size):
    answer = ask("POST", "/segment", png(picture(*size)))
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    assert answer.headers["x-model-version"] == model.version
    with Image.open(io.BytesIO(answer.content)) as mask:
        assert mask.mode == "P" and np.array_equal(np.array(mask), offline(step, picture(*size)))
        assert mask.getpalette()[:12] == palette()[:4].ravel().tolist()


def test_jpeg_is_taken(ask):
    buffer = io.BytesIO()
    Image.fromarray(picture(40, 60)).save(buffer, "JPEG")
    answer = ask("POST", "/segment", buffer.getvalue(), "image/jpeg")
    assert answer.status_code == 200


def test_classes_and_health(ask, model):
    listed = ask("GET", "/classes").json()
    assert [entry["name"] for entry in listed] == ["background", "disc", "bar", "ring"]
    assert listed[1] == {"index": 1, "name": "disc", "colour": palette()[1].tolist()}
    assert ask("GET", "/health").json() == {"status": "ok", "model": model.version}


def bomb():
    """A small PNG whose header promises 60,000 x 60,000 pixels."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(
    ("body", "kind", "status", "sentence"),
    [
        (b"hello", "image/png", 422, "not a readable image"),
        (b"", "image/png", 422, "not a readable image"),
        (png(picture(64, 64))[:-200], "image/png", 422, "not a readable image"),
        (png(picture(8, 8)[..., 0]), "image/png", 422, "mode L, not RGB"),
        (png(np.zeros((8, 8, 4), np.uint8)), "image/png", 422, "mode RGBA, not RGB"),
        (png(picture(8, 8)), "application/json", 415, "content type is application/json"),
        (bomb(), "image/png", 413, "pixels"),
    ],
)
def test_refusals(ask, body, kind, status, sentence):
    answer = ask("POST", "/segment", body, kind)
    assert answer.status_code == status and sentence in answer.json()["detail"]


def test_large_image_and_large_body_are_refused(ask, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 63 * 64)
    answer = ask("POST", "/segment", png(picture(64, 64)))
    assert answer.status_code == 413 and "64 x 64 px" in answer.json()["detail"]
    monkeypatch.setattr(uploads, "MAX_BYTES", 1000)
    answer = ask("POST", "/segment", png(picture(64, 64)))
    assert answer.status_code == 413 and "larger than" in answer.json()["detail"]


PNG_TYPE = {"Content-Type": "image/png"}


def test_who_serves_may_allow_larger_pictures_which_go_in_tiles_within_the_memory(model, monkeypatch):
    body = png(np.full((4200, 4200, 3), 90, np.uint8))
    default = asking(server.make_app(model))("POST", "/segment", content=body, headers=PNG_TYPE)
    assert default.status_code == 413 and "WSSS_UPLOAD_MEGAPIXELS allows more" in default.json()["detail"]
    monkeypatch.setenv("WSSS_UPLOAD_MEGAPIXELS", "20")
    monkeypatch.setenv("WSSS_UPLOAD_MIB", "100")
    small = asking(server.make_app(model, Options(memory=2**29)))("POST", "/segment", content=body, headers=PNG_TYPE)
    assert small.status_code == 413 and "MiB of memory" in small.json()["detail"]
    labelled = asking(server.make_app(model, Options(memory=8 * 2**30)))(
        "POST", "/segment", content=body, headers=PNG_TYPE
    )
    assert labelled.status_code == 200
    monkeypatch.setenv("WSSS_UPLOAD_MEGAPIXELS", "many")
    with pytest.raises(UserError, match="must be a number of megapixels above 0 and up to 170"):
        server.make_app(model)


def test_address_in_use_is_one_sentence(model):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="can't listen on 127.0.0.1"):
        server.serve(model, "127.0.0.1", taken.getsockname()[1])


def test_command_serves_on_loopback(package, step):
    command = "import typer; from wsss.cli.models import serve; typer.run(serve)"
    process = subprocess.Popen(
        [sys.executable, "-c", command, str(package), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line).group()
        request = urllib.request.Request(
            f"{address}/segment", png(picture(37, 91)), {"Content-Type": "image/png"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            mask = np.array(Image.open(io.BytesIO(answer.read())))
        assert np.array_equal(mask, offline(step, picture(37, 91)))
    finally:
        process.terminate()
        process.wait(30)


def test_evaluating_a_step_equals_counting_its_labels(dataset, step):
    masks = Masks(dataset)
    ids = masks.ids("val")
    matrices = np.array([confusion(masks.read(i), offline(step, dataset.image(i)), 3) for i in ids])
    found = evaluate(str(step), dataset, "val")
    assert found.ids == ids and np.array_equal(found.matrices, matrices)
    told = as_json(found, dataset)
    assert told["miou"] == Scores.of(matrices.sum(0)).miou and told["images"] == len(ids)
    assert told["interval"][0] <= told["miou"] <= told["interval"][1]
    json.dumps(told, allow_nan=False)


def test_masks_against_themselves_are_perfect(dataset, tmp_path):
    masks = Masks(dataset)
    (tmp_path / "png").mkdir()
    with LabelMapWriter(tmp_path / "shards") as writer:
        for image_id in masks.ids("val"):
            labels = masks.read(image_id)
            writer.add(image_id, labels)
            write_palette_png(tmp_path / "png" / f"{image_id}.png", labels)
    for folder in ("png", "shards"):
        assert evaluate(str(tmp_path / folder), dataset, "val").scores.miou == 1


def test_all_bad_label_maps_are_named_at_once(dataset, tmp_path):
    missing, small, fine, strange = Masks(dataset).ids("val")
    write_palette_png(tmp_path / f"{small}.png", np.zeros((3, 3), np.uint8))
    write_palette_png(tmp_path / f"{fine}.png", np.zeros((40, 40), np.uint8))
    write_palette_png(tmp_path / f"{strange}.png", np.full((40, 40), 9, np.uint8))
    with pytest.raises(UserError) as error:
        evaluate(str(tmp_path), dataset, "val")
    text = str(error.value)
    assert f"{missing}.png is missing" in text and f"{small}: the prediction is 3 x 3 px" in text
    assert f"{strange}: " in text and fine not in text


def test_bad_requests_for_an_evaluation(dataset, package, tmp_path):
    with pytest.raises(UserError, match="neither a model"):
        evaluate(str(tmp_path), dataset, "val")
    with pytest.raises(UserError, match="unknown split 'tset'; choose from"):
        evaluate(str(package), dataset, "tset")
    with pytest.raises(UserError, match="knows the classes disc, bar, ring"):
        evaluate(str(package), dataset, "val")


def test_card_says_what_was_seen_and_measured(dataset):
    card = model_card(make_plan("bound", "demo"), dataset, "run-1", {"val/pred/miou": 0.5, "time/x_s": 1.0})
    assert "image-level tags, masks" in card and "| val/pred | 50.0 |" in card and "time/" not in card
    assert dataset.digest in card and "run-1" in card and all(name in card for name in dataset.classes.names)
    assert "scales 1; without a CRF" in card and "It is not known at what sizes it learned" in card
    assert "the dataset has no masks" in model_card(make_plan("cam", "demo"), dataset, "run-1", {})


def test_read_back_of_a_served_mask(tmp_path, ask):
    answer = ask("POST", "/segment", png(picture(20, 30)))
    (tmp_path / "mask.png").write_bytes(answer.content)
    assert read_palette_png(tmp_path / "mask.png").shape == (20, 30)
