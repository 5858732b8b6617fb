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
from PIL import Image
from safetensors.torch import load_file
from served_examples import CLASSES, asking, offline, save_segmenter

from wsss.classes import Classes, palette
from wsss.data.palette_png import read_palette_png
from wsss.errors import UserError
from wsss.serving import pictures, server, uploads
from wsss.serving.options import Options
from wsss.serving.package import load_package, load_step, save_package

SIZES = [(64, 64), (37, 91), (5, 7), (100, 53)]


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(array, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    folder = tmp_path_factory.mktemp("step")
    save_segmenter(folder)
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


def test_read_back_of_a_served_mask(tmp_path, ask):
    answer = ask("POST", "/segment", png(picture(20, 30)))
    (tmp_path / "mask.png").write_bytes(answer.content)
    assert read_palette_png(tmp_path / "mask.png").shape == (20, 30)
