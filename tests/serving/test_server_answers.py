"""What `POST /segment` takes and answers: media types, forms, odd pictures, the page and the description."""

import asyncio
import io
import json
import re

import httpx
import numpy as np
import pytest
import torch
from fastapi import HTTPException
from PIL import Image
from served_examples import asking
from test_server_headers import encoded, png, rotated

from wsss.classes import Classes, palette
from wsss.data.augmentation import MEAN, STD
from wsss.nets.deeplab import DeepLab
from wsss.serving import answers, multipart, server
from wsss.serving.deployed import Deployed
from wsss.serving.segmenter import Probabilities, Segmenter

CLASSES = Classes(("disc", "bar", "ring"))


def picture(height, width, rng=0):
    return np.random.default_rng(rng).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = DeepLab(classes=4, backbone="tiny", weights="none", output_stride=8, rates=[1, 2])
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return Segmenter(Deployed(Probabilities(net.eval()), 8, MEAN, STD).eval(), CLASSES, "models:/wsss-shapes/3")


@pytest.fixture(scope="module")
def ask(model):
    return asking(server.make_app(model))


def post(ask, body, accept=None, kind="image/png"):
    headers = {"content-type": kind} | ({"accept": accept} if accept else {})
    return ask("POST", "/segment", content=body, headers=headers)


def decoded(counts, size):
    """COCO's characters as a mask, written from the format: groups of 5 bits, differences from the fourth on."""
    values, at = [], 0
    while at < len(counts):
        value = shift = 0
        while True:
            group = ord(counts[at]) - 48
            at += 1
            value |= (group & 31) << shift
            shift += 5
            if not group & 32:
                break
        value -= (1 << shift) if group & 16 else 0
        values.append(value + (values[-2] if len(values) > 2 else 0))
    flat = np.repeat(np.arange(len(values)) % 2, values)
    return flat.reshape(size[::-1]).T.astype(bool)


def test_run_lengths_are_cocos():
    """The characters are those that pycocotools 2.0.11 makes of these masks."""
    y, x = np.mgrid[:37, :53]
    known = {
        "]>3n08J4M2N2N2N2N2O0O2O00000O2O0001N1000001N101N2N2N2N2N3L6H_=": (y - 18) ** 2 + (x - 26) ** 2 < 200,
        "0U1Tl1": x == 0,
        "Ym1": y > 40,
        "0Ym1": y >= 0,
    }
    for expected, mask in known.items():
        assert answers._characters(answers._runs(np.ascontiguousarray(mask.T).ravel())) == expected
    noise = np.random.default_rng(0).integers(0, 2, (200, 301)).astype(bool)
    for mask in (noise, np.ones((3, 4), bool), (x * y) % 7 == 0):
        counts = answers._characters(answers._runs(np.ascontiguousarray(mask.T).ravel()))
        assert np.array_equal(decoded(counts, mask.shape), mask)


def test_the_same_labels_in_three_media_types(ask, model):
    image = picture(37, 91)
    labels = model(image)
    assert len(np.unique(labels)) > 2
    mask = post(ask, encoded("PNG", image))
    assert mask.headers["content-type"] == "image/png"
    assert np.array_equal(np.array(Image.open(io.BytesIO(mask.content))), labels)
    answer = post(ask, encoded("PNG", image), "application/json")
    assert answer.headers["x-model-version"] == "models:/wsss-shapes/3" == answer.json()["model"]
    (told,) = answer.json()["images"]
    names = CLASSES.with_background
    assert told["pixels"] == {names[i]: int((labels == i).sum()) for i in np.unique(labels)}
    for annotation in told["annotations"]:
        same = decoded(annotation["segmentation"]["counts"], annotation["segmentation"]["size"])
        assert np.array_equal(same, labels == annotation["category_id"])
        assert annotation["area"] == same.sum() and names[annotation["category_id"]] == annotation["category"]
    shown = post(ask, encoded("PNG", np.full((64, 64, 3), 100, np.uint8)), "image/jpeg")
    plain = model(np.full((64, 64, 3), 100, np.uint8))
    expected = np.where(plain[..., None] > 0, 50 + (palette() >> 1)[plain], 100)
    with Image.open(io.BytesIO(shown.content)) as seen:
        assert seen.format == "JPEG" and np.abs(np.array(seen).astype(int) - expected).mean() < 12


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("application/*", "application/json"),
        ("text/html, application/json;q=0.9, */*;q=0.1", "application/json"),
        ("image/png;q=0.2, image/jpeg", "image/jpeg"),
        ("IMAGE/PNG; q=0, */*", "application/json"),
    ],
)
def test_the_media_type_is_negotiated(accept, kind):
    assert answers.chosen(accept) == kind


@pytest.mark.parametrize("accept", ["text/html", "image/png;q=0", "image/png;q=x", "a\x00b"])
def test_unknown_media_types_name_the_known(accept):
    with pytest.raises(HTTPException, match="image/png, application/json, image/jpeg"):
        answers.chosen(accept)


def test_a_form_of_one_is_answered_like_a_body_and_of_several_in_json(ask, model):
    image, other = picture(20, 30), picture(33, 21, 1)
    one = ask("POST", "/segment", files={"image": ("a.png", encoded("PNG", image))})
    assert np.array_equal(np.array(Image.open(io.BytesIO(one.content))), model(image))
    files = [("image", ("ä.png", encoded("PNG", image))), ("image", ("b.webp", encoded("WEBP", other, lossless=True)))]
    several = ask("POST", "/segment", files=files, headers={"accept": "image/png"}).json()["images"]
    assert [told["name"] for told in several] == ["ä.png", "b.webp"]
    assert [(told["height"], told["width"]) for told in several] == [(20, 30), (33, 21)]
    assert several[1]["pixels"]["background"] == (model(other) == 0).sum()


def test_bad_forms_are_a_sentence(ask):
    good = ("a.png", encoded("PNG", picture(8, 8)))
    bad = ask("POST", "/segment", files=[("image", good), ("image", ("b.png", b"hello"))])
    assert bad.status_code == 422 and "image 2 (b.png): the body is not a readable image" in bad.json()["detail"]
    text = ask("POST", "/segment", files={"image": good}, data={"colour": "red"})
    assert text.status_code == 422 and "field 'colour' holds no file" in text.json()["detail"]
    many = ask("POST", "/segment", files=[("image", good)] * 33)
    assert many.status_code == 422 and "more than 32 files" in many.json()["detail"]
    kind = 'multipart/form-data; boundary="x"'
    for body in (
        b"",
        b"--x",
        b"--x\r\n",
        b"--x--\r\n",
        b'--x\r\nContent-Disposition: form-data; filename="a"\r\n\r\nab',
    ):
        assert post(ask, body, kind=kind).status_code == 422
    for kind in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 5000,
    ):
        assert post(ask, b"--x\r\n", kind=kind).status_code == 422


GREY = picture(8, 8)[..., 0]
ODD = {
    "grey": (encoded("PNG", GREY), "mode L, not RGB (grey)"),
    "grey with transparency": (encoded("PNG", np.stack([GREY, GREY], 2)), "mode LA"),
    "grey of 16 bits": (encoded("PNG", GREY.astype(np.uint16) * 257), "mode I;16, not RGB (grey of 16 bits)"),
    "black and white": (encoded("PNG", GREY > 99), "mode 1, not RGB"),
    "transparent": (encoded("PNG", np.zeros((8, 8, 4), np.uint8)), "mode RGBA, not RGB (with transparency)"),
    "animated": (encoded("PNG", save_all=True, append_images=[Image.fromarray(picture(37, 53))]), "1 is taken"),
}


@pytest.mark.parametrize("name", ODD)
def test_pictures_that_training_would_not_read_are_refused(ask, name):
    body, sentence = ODD[name]
    answer = post(ask, body)
    assert answer.status_code == 422 and sentence in answer.json()["detail"]


def test_pictures_in_colours_of_print_are_refused(ask):
    buffer = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(buffer, "JPEG")
    assert "mode CMYK, not RGB" in post(ask, buffer.getvalue()).json()["detail"]


def test_rotated_and_16_bit_pictures_are_read_as_in_training(ask, model, tmp_path):
    from wsss.data.images import read_image

    deep = png(8, 4, depth=16, pixels=b"".join(b"\0" + bytes(range(48)) for _ in range(4)))
    for body in (encoded("JPEG", exif=rotated()), deep):
        (tmp_path / "image").write_bytes(body)
        with Image.open(io.BytesIO(post(ask, body).content)) as mask:
            assert np.array_equal(np.array(mask), model(read_image(tmp_path / "image")))


def test_a_picture_far_from_training_is_answered_and_said_so(model):
    class Aware(Segmenter):
        def far_from_training(self, height, width):
            return f"{height} x {width} px is far" if max(height, width) > 50 else ""

    app = server.make_app(Aware(model.module, model.classes, "aware"))

    async def talk():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            headers = {"content-type": "image/png"}
            return [
                (await client.post("/segment", content=encoded("PNG", picture(*size)), headers=headers)).headers
                for size in ((20, 30), (20, 60))
            ]

    near, far = asyncio.run(talk())
    assert "x-scale-warning" not in near and far["x-scale-warning"] == "20 x 60 px is far"


def test_the_page_is_one_file_that_allows_nothing_else(ask):
    page = ask("GET", "/")
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"https?://|src=\"|@import", page.text)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and policy.count("sha256-") == 2 and "unsafe" not in policy


def test_figures_for_prometheus(ask):
    post(ask, encoded("PNG", picture(8, 8)))
    post(ask, b"hello")
    text = ask("GET", "/metrics").text
    for line in (
        r'wsss_requests_total\{status="200"\} \d',
        r'wsss_requests_total\{status="422"\} \d',
        "wsss_images_total",
    ):
        assert re.search(line, text), line
    assert 'wsss_model_info{version="models:/wsss-shapes/3"} 1.0' in text
    assert ask("GET", "/ready").json() == {"status": "ready", "model": "models:/wsss-shapes/3"}
    assert ask("GET", "/shadow").status_code == 404


def test_the_description_has_examples_that_hold(ask):
    described = ask("GET", "/openapi.json").json()
    posted = described["paths"]["/segment"]["post"]
    assert set(posted["requestBody"]["content"]) >= {"image/jpeg", "image/tiff", "multipart/form-data"}
    example = posted["responses"]["200"]["content"]["application/json"]["example"]
    (told,) = example["images"]
    segmentation = told["annotations"][0]["segmentation"]
    assert decoded(segmentation["counts"], segmentation["size"]).sum() == told["pixels"]["disc"]
    assert json.dumps(described)


def test_a_fault_of_ours_is_a_sentence_without_a_traceback(model):
    broken = Segmenter(model.module, model.classes, "broken")
    app = server.make_app(broken)
    app.state.service.batcher.submit = lambda *_: (_ for _ in ()).throw(RuntimeError("secret place"))

    async def talk():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            headers = {"content-type": "image/png"}
            return await client.post("/segment", content=encoded("PNG", picture(8, 8)), headers=headers)

    answer = asyncio.run(talk())
    assert answer.status_code == 500 and answer.json() == {
        "detail": "the server failed on this request; its log says why"
    }


def test_forms_are_known_by_their_content_type():
    assert multipart.is_form(" Multipart/Form-Data; boundary=x") and not multipart.is_form("image/png")
