"""Pictures of every kind become RGB in one declared way: in training, in prediction, in serving, and in `data show`."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from fastapi import HTTPException
from PIL import Image, ImageOps

from wsss.data import Dataset
from wsss.data.described import described, facts
from wsss.data.folder import add_folder
from wsss.data.images import read_image
from wsss.data.pixels import Pixels, turned
from wsss.errors import UserError
from wsss.serving.headers import read_header
from wsss.serving.pictures import decode

DRAW = np.random.default_rng(3)
RGB = DRAW.integers(0, 256, (20, 30, 3), np.uint8)
GREY = RGB[..., 0]
ALPHA = DRAW.integers(0, 256, (20, 30), np.uint8)


def on_white(rgb, alpha):
    pictures = Image.fromarray(np.dstack([rgb, alpha])), Image.new("RGBA", (30, 20), "white")
    return np.array(Image.alpha_composite(pictures[1], pictures[0]))[..., :3]


def palette(transparent=False):
    picture = Image.fromarray(RGB).quantize(16)
    return (picture, {"transparency": 3}) if transparent else (picture, {})


def exif(flag):
    found = Image.Exif()
    found[0x0112] = flag
    return {"exif": found}


def smooth_jpeg(mode):
    ramp = np.linspace(0, 255, 30)[None, :, None] * np.linspace(0.2, 1, 20)[:, None, None]
    array = np.broadcast_to(ramp, (20, 30, {"CMYK": 4, "RGB": 3}[mode])).astype(np.uint8).copy()
    array[:8, :8, 0] = 200
    return Image.fromarray(array, mode)


KINDS = {
    "grey.png": (Image.fromarray(GREY), {}),
    "grey.jpg": (Image.fromarray(GREY), {}),
    "bits.png": (Image.fromarray(GREY > 100), {}),
    "alpha.png": (Image.fromarray(np.dstack([RGB, ALPHA])), {}),
    "alpha.webp": (Image.fromarray(np.dstack([RGB, ALPHA])), {"lossless": True, "exact": True}),
    "greyalpha.png": (Image.fromarray(np.dstack([GREY, ALPHA])), {}),
    "palette.png": palette(),
    "transparent.png": palette(True),
    "keyed.png": (Image.fromarray(RGB), {"transparency": tuple(RGB[0, 0].tolist())}),
    "print.jpg": (smooth_jpeg("CMYK"), {}),
    "print.tif": (smooth_jpeg("CMYK"), {}),
    "plain.png": (Image.fromarray(RGB), {}),
    **{f"turned{flag}.jpg": (smooth_jpeg("RGB"), exif(flag)) for flag in range(2, 9)},
    "turned6.png": (Image.fromarray(RGB), exif(6)),
    "turned6.webp": (Image.fromarray(RGB), exif(6)),
    "turned6.tif": (Image.fromarray(RGB), {"tiffinfo": {0x0112: 6}}),
}


def expected(path: Path) -> np.ndarray:
    """By Pillow's own words."""
    with Image.open(path) as image:
        shown = ImageOps.exif_transpose(image)
        if "A" in shown.mode or "transparency" in shown.info:
            rgba = np.array(shown.convert("RGBA"))
            shown = Image.fromarray(on_white(rgba[..., :3], rgba[..., 3]))
        return np.array(shown.convert("RGB"))


def write_tags(root: Path, images: Path) -> Path:
    ids = sorted(path.stem for path in images.iterdir())
    rows = [f"{id},{'cat' if number % 2 else 'dog'}" for number, id in enumerate(ids)]
    (root / "tags.csv").write_text("\n".join(["image,labels", *rows]), encoding="utf-8")
    return root / "tags.csv"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> tuple[Path, Dataset]:
    """A folder with a picture of every kind, and the dataset that is made of it."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "in").mkdir()
    for name, (image, options) in KINDS.items():
        image.save(root / "in" / name.replace(".", f"-{Path(name).suffix[1:]}."), **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        dataset = add_folder(root / "in", "kinds", tags=str(write_tags(root, root / "in")))
        return root / "in", Dataset.open(dataset.root.absolute())


@pytest.mark.parametrize("name", KINDS)
def test_what_is_trained_on_is_what_is_predicted_served_and_shown(name, pictures):
    folder, dataset = pictures
    file = folder / name.replace(".", f"-{Path(name).suffix[1:]}.")
    trained = dataset.image(file.stem)
    assert trained.shape[:2] == dataset.size(file.stem)
    assert (trained == expected(file)).all()
    assert (read_image(file, dataset.pixels) == trained).all()
    assert (decode(read_header(file.read_bytes()), dataset.pixels) == trained).all()


def test_the_conversion_is_said_recorded_and_part_of_the_digest(pictures, capfd):
    _, dataset = pictures
    record = json.loads((dataset.root / "manifest.json").read_text(encoding="utf-8"))["facts"]["pixels"]
    assert record == {"bands": None, "stretch": None} == dataset.pixels.record()
    again = described(json.loads(json.dumps(facts(dataset))), "a record")
    assert again.pixels == dataset.pixels
    content = json.loads((dataset.root / "manifest.json").read_text(encoding="utf-8"))
    del content["facts"]
    (dataset.root / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    assert Dataset.open(dataset.root).digest != dataset.digest


@pytest.fixture(scope="module")
def satellite(tmp_path_factory) -> tuple[Path, Dataset]:
    """Tiles of 4 bands of 16 bits, of which two tell the classes apart, and the dataset of bands 4, 3, 2."""
    root = tmp_path_factory.mktemp("satellite")
    (root / "in").mkdir()
    for number in range(10):
        tile = DRAW.integers(200, 1800, (24, 28, 4)).astype(np.uint16)
        tile[..., 3] += 4000 * (number % 2)
        options = {"photometric": "minisblack", "planarconfig": "separate" if number % 3 else "contig"}
        stored = np.moveaxis(tile, 2, 0) if number % 3 else tile
        compression = "zlib" if number == 4 else None
        tifffile.imwrite(root / "in" / f"tile{number}.tif", stored, compression=compression, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        tags = str(write_tags(root, root / "in"))
        return root, Dataset.open(
            add_folder(root / "in", "sat", tags=tags, bands="4,3,2", stretch="2,98").root.absolute()
        )


def test_many_bands_of_16_bits_are_stretched_alike_everywhere(satellite):
    root, dataset = satellite
    raw = {path.stem: tifffile.imread(path) for path in (root / "in").iterdir()}
    raw = {id: np.moveaxis(tile, 0, 2) if tile.shape[0] == 4 else tile for id, tile in raw.items()}
    values = np.concatenate([raw[id][..., [3, 2, 1]].reshape(-1, 3) for id in dataset.splits["train"]])
    limits = np.percentile(values, [2, 98], axis=0, method="inverted_cdf").T.astype(float)
    assert np.array(dataset.pixels.limits) == pytest.approx(limits)
    for id, tile in raw.items():
        plain = (tile[..., [3, 2, 1]] - limits[:, 0]) / (limits[:, 1] - limits[:, 0]) * 255
        assert np.abs(dataset.image(id) - plain.clip(0, 255).round()).max() <= 1
        file = root / "in" / f"{id}.tif"
        assert (decode(read_header(file.read_bytes()), dataset.pixels) == dataset.image(id)).all()
        assert (read_image(file, dataset.pixels) == dataset.image(id)).all()
        assert dataset.size(id) == (24, 28)
    assert Pixels.of_record(json.loads(json.dumps(dataset.pixels.record()))) == dataset.pixels


def test_grey_of_16_bits_takes_a_stretch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for number in range(8):
        Image.fromarray(DRAW.integers(0, 40000, (16, 16)).astype(np.uint16)).save(tmp_path / "in" / f"a{number}.png")
    tags = str(write_tags(tmp_path, tmp_path / "in"))
    with pytest.raises(UserError, match=r"8 grey of 16 bits \(such as a0\); say how 16 bits become 8 with --stretch"):
        add_folder(tmp_path / "in", "deep", tags=tags)
    dataset = add_folder(tmp_path / "in", "deep", tags=tags, stretch="0,100")
    id = dataset.splits["train"][0]
    image = dataset.image(id)
    assert (image[..., 0] == image[..., 2]).all()
    values = np.concatenate([dataset.image(id).ravel() for id in dataset.splits["train"]])
    assert values.min() == 0 and values.max() == 255
    assert (decode(read_header((tmp_path / "in" / f"{id}.png").read_bytes()), dataset.pixels) == image).all()


@pytest.mark.parametrize("flag", range(9))
def test_turning_is_pillows(flag):
    image = Image.fromarray(RGB)
    image.getexif()[0x0112] = flag
    assert (turned(RGB, flag) == np.array(ImageOps.exif_transpose(image))).all()


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({}, r"10 4 bands of 16 bits \(such as tile0\); say which bands to see with --bands"),
        ({"bands": "4,3,2"}, "say how 16 bits become 8 with --stretch"),
        ({"bands": "5,3,2", "stretch": "2,98"}, "--bands asks for band 5, which 10 images don't have, such as tile0"),
        ({"bands": "4,3", "stretch": "2,98"}, "--bands 4,3 is not one band or three"),
        ({"bands": "0,1,2", "stretch": "2,98"}, "--bands 0,1,2 is not"),
        ({"bands": "4,3,2", "stretch": "98,2"}, "--stretch 98,2 is not LOW,HIGH"),
        ({"bands": "4,3,2", "stretch": "2"}, "--stretch 2 is not LOW,HIGH"),
    ],
)
def test_what_is_not_declared_is_asked_for(satellite, said, sentence):
    root, _ = satellite
    with pytest.raises(UserError, match=sentence):
        add_folder(root / "in", "other", tags=str(root / "tags.csv"), **said)
    assert not (root / "data" / "other").exists()


def png_header(width: int, height: int) -> bytes:
    """A PNG of next to nothing that claims a size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts
    )


BAD = {
    "empty.png": b"",
    "wide.png": png_header(65_500, 65_500),
    "claims.tif": b"II*\0\x08\0\0\0" + struct.pack("<H", 4) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((256, 40_000), (257, 40_000), (258, 16), (277, 2))
    ) + bytes(4),
    "cut.png": Path(__file__).read_bytes()[:10],
}  # fmt: skip


@pytest.mark.parametrize("pixels", [None, Pixels(), Pixels((1,), (0, 100), ((0.0, 9.0),))])
def test_bad_pictures_are_refused_in_one_sentence_each_all_at_once(tmp_path, monkeypatch, pixels):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name, content in BAD.items():
        (tmp_path / "in" / name).write_bytes(content)
    for number in range(4):
        Image.fromarray(RGB[..., 0] if pixels else RGB).save(tmp_path / "in" / f"good{number}.png")
    said = {"bands": "1", "stretch": "0,100"} if pixels and pixels.bands else {}
    with pytest.raises(UserError) as error:
        add_folder(tmp_path / "in", "bad", tags=str(write_tags(tmp_path, tmp_path / "in")), **said)
    for name in BAD:
        assert name in str(error.value)
    assert not (tmp_path / "data" / "bad").exists()
    for content in BAD.values():
        with pytest.raises(HTTPException):
            decode(read_header(content), pixels)


def test_one_pixel_is_a_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for number in range(4):
        Image.new("LA", (1, 1), (9, 0)).save(tmp_path / "in" / f"dot{number}.png")
    dataset = add_folder(tmp_path / "in", "dots", tags=str(write_tags(tmp_path, tmp_path / "in")))
    assert dataset.image("dot0").tolist() == [[[255, 255, 255]]] and dataset.size("dot0") == (1, 1)


def test_served_bytes_of_another_kind_than_declared_are_refused(satellite):
    _, dataset = satellite
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG")
    with pytest.raises(HTTPException, match="has 3 bands, and band 4 is asked for"):
        decode(read_header(buffer.getvalue()), dataset.pixels)
