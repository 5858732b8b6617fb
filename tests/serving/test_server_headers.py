"""What a file may take is known from its header; what is not pixels never reaches a decoder."""

import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
import torch
from fastapi import HTTPException
from PIL import Image, PngImagePlugin

from wsss.classes import Classes
from wsss.data.augmentation import MEAN, STD
from wsss.nets.deeplab import DeepLab
from wsss.serving import headers, pictures
from wsss.serving.deployed import Deployed
from wsss.serving.headers import read_header
from wsss.serving.memory import LabellingMemory
from wsss.serving.segmenter import Probabilities, Segmenter

PIXELS = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def limits():
    torch.manual_seed(0)
    net = DeepLab(classes=3, backbone="tiny", weights="none", output_stride=16, rates=[1, 2])
    module = Deployed(Probabilities(net.eval()), 16, MEAN, STD, (1, 2**15)).eval()
    return pictures.Limits(Segmenter(module, Classes(("a", "b")), "model"))


def decode(data, limits):
    picture = read_header(data)
    limits.check(picture)
    return pictures.decode(picture)


def encoded(kind, array=PIXELS, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, *before, depth=8, colour=2, pixels=b""):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(before) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def tiff(tags, data=b"", order="<", following=0):
    """A TIFF of one directory; a tag's value is a number or a list of them, in 32 bits."""
    start = 8 + len(data) + len(data) % 2
    lists, entries = b"", []
    for tag, value in sorted(tags.items()):
        values = value if isinstance(value, list) else [value]
        place = struct.pack(f"{order}I", values[0])
        if len(values) > 1:
            place = struct.pack(f"{order}I", start + 6 + 12 * len(tags) + len(lists))
            lists += struct.pack(f"{order}{len(values)}I", *values)
        entries.append(struct.pack(f"{order}HHI", tag, 4, len(values)) + place)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    listed = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + struct.pack(f"{order}I", following)
    return head + data + bytes(len(data) % 2) + listed + lists


def plain_tiff(array, **more):
    height, width = array.shape[:2]
    tags = {256: width, 257: height, 258: [8, 8, 8], 259: 1, 262: 2, 273: 8, 277: 3, 278: height, 279: array.nbytes}
    order = more.pop("order", "<")
    following = more.pop("following", 0)
    return tiff(tags | {int(tag[1:]): value for tag, value in more.items()}, array.tobytes(), order, following)


def tiled_tiff(width, height, tile, compression=8):
    data = zlib.compress(bytes(3 * min(tile, 64) ** 2))
    tags = {256: width, 257: height, 258: [8, 8, 8], 259: compression, 262: 2, 277: 3}
    return tiff(tags | {322: tile, 323: tile, 324: 8, 325: len(data)}, data)


def bmp(width, height, compression=0, pixels=b""):
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, compression, len(pixels), 0, 0, 0, 0)
    return b"BM" + struct.pack("<III", 54 + len(pixels), 0, 54) + head + pixels


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


COMPRESSIONS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
FILES = {
    "jpeg": encoded("JPEG"),
    "jpeg 4:4:4": encoded("JPEG", subsampling=0, quality=95),
    "jpeg progressive": encoded("JPEG", progressive=True, optimize=True),
    "jpeg with restarts": encoded("JPEG", restart_marker_rows=1),
    "jpeg with profile, exif, text": encoded("JPEG", icc_profile=bytes(200_000), exif=rotated(), comment=b"\xff\xd9"),
    "jpeg as rgb": encoded("JPEG", keep_rgb=True),
    "jpeg and what follows": encoded("JPEG") + encoded("JPEG", PIXELS[::-1]),
    "jpeg of a phone": encoded("MPO", save_all=True, append_images=[Image.fromarray(PIXELS[::-1])]),
    "png": encoded("PNG"),
    "png of 16 bits": png(8, 4, depth=16, pixels=b"".join(b"\0" + bytes(range(48)) for _ in range(4))),
    "png with profile and exif": encoded("PNG", icc_profile=bytes(5000), exif=rotated()),
    "webp": encoded("WEBP"),
    "webp without loss": encoded("WEBP", lossless=True),
    "webp with profile": encoded("WEBP", icc_profile=bytes(500), exif=rotated()),
    "bmp": encoded("BMP"),
    "bmp of OS/2": b"BM" + struct.pack("<IIIIHHHH", 32, 0, 26, 12, 2, 1, 1, 24) + bytes(range(8)),
    "bmp from the top": bmp(2, -2, pixels=bytes(range(16))),
    **{f"tiff {how}": encoded("TIFF", compression=how) for how in COMPRESSIONS},
    "tiff in strips": encoded("TIFF", compression="tiff_lzw", strip_size=500),
    "tiff with profile": encoded("TIFF", icc_profile=bytes(500), description="a picture"),
    "tiff big-endian": plain_tiff(PIXELS, order=">"),
    "tiff with a large tile": tiled_tiff(20, 10, 64),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_of_the_whole_file(limits, name):
    with Image.open(io.BytesIO(FILES[name])) as image:
        expected = np.array(image)
    assert np.array_equal(decode(FILES[name], limits), expected)


def test_pixels_are_taken_as_stored(limits):
    assert np.array_equal(decode(plain_tiff(PIXELS, t274=6), limits), PIXELS)


@pytest.mark.parametrize("name", FILES)
def test_what_a_header_says_is_what_there_is(name):
    picture = read_header(FILES[name])
    with Image.open(io.BytesIO(FILES[name])) as image:
        assert picture.format == image.format.replace("MPO", "JPEG") and (picture.width, picture.height) == image.size
    assert picture.memory >= 13 * picture.width * picture.height


ZEROS = zlib.compress(bytes(1 << 20), 9)
TEXTS = [chunk(b"zTXt", b"%d\0\0" % i + ZEROS) for i in range(100)]
CANVAS = b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x3f\0" * 2 + bytes(40)
FRAMES = encoded("WEBP", save_all=True, append_images=[Image.fromarray(255 - PIXELS)])
HUGE = FILES["jpeg"].replace(struct.pack(">HH", *PIXELS.shape[:2]), b"\xff\xdc\xff\xdc", 1)
COMMENTS = b"\xff\xfe\0\x02" * 70_000
SCANS = encoded("JPEG", progressive=True)
SCAN = SCANS[SCANS.rfind(b"\xff\xda") : SCANS.rfind(b"\xff\xd9")]

BOMBS = {
    "1 x 4,000,000 px": (png(1, 4_000_000), 413, "at most 32,768 px a side"),
    "4,000,000 x 1 px": (png(4_000_000, 1), 413, "at most 32,768 px a side"),
    "a long strip": (png(32_768, 500), 413, "at most 576 MiB"),
    "100,000 x 100,000 px": (png(100_000, 100_000), 413, "at most 16,777,216 pixels"),
    "JPEG of 65,500 x 65,500 px": (HUGE, 413, "16,777,216"),
    "JPEG with 1,000 scans": (SCANS[:-2] + SCAN * 1000 + SCANS[-2:], 422, "at most 100"),
    "JPEG of 70,000 segments": (b"\xff\xd8" + COMMENTS + FILES["jpeg"][2:], 422, "more than 65,536 parts"),
    "PNG of 70,000 chunks": (png(8, 8, chunk(b"IDAT", b"") * 70_000), 422, "more than 65,536 parts"),
    "PNG of two sizes": (png(8, 8, png(60_000, 60_000)[8:33]), 422, "not a readable image"),
    "PNG of 5 frames": (png(8, 8, chunk(b"acTL", struct.pack(">II", 5, 0))), 422, "5 pictures or more, 1 is taken"),
    "WebP of two frames": (FRAMES, 422, "1 is taken"),
    "WebP with a large canvas": (CANVAS, 413, "16,777,216 pixels"),
    "BMP that unpacks": (bmp(3000, 3000, 1), 422, "uncompressed"),
    "BMP without its pixels": (bmp(3000, 3000), 422, "readable"),
    "TIFF with a tile of 16,384": (tiled_tiff(1, 1, 16384), 413, "at most 16,777,216 pixels"),
    "TIFF with a tile of 4 G": (tiled_tiff(1, 1, 2**32 - 1), 413, "at most 16,777,216 pixels"),
    "TIFF of many strips": (plain_tiff(PIXELS, t273=[8] * 300_000), 422, "more than 1 MiB"),
    "TIFF of two pages": (plain_tiff(PIXELS, following=8), 422, "1 is taken"),
    "TIFF in LZMA": (plain_tiff(PIXELS, t259=34925), 422, "none, LZW, JPEG, deflate, PackBits"),
    "TIFF of 60,000 x 60,000 px": (plain_tiff(PIXELS, t256=60_000, t257=60_000), 413, "16,777,216"),
    "BigTIFF": (b"II+\0\x08\0\0\0" + bytes(100), 422, "not a readable image"),
    "GIF": (encoded("GIF"), 422, "not a readable image"),
    "nothing": (b"", 422, "not a readable image"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_a_decoder_sees_them(limits, name, monkeypatch):
    """But for a PNG with a second header, which is dropped: what Pillow then sees has no pixels."""
    body, status, sentence = BOMBS[name]
    if name != "PNG of two sizes":
        monkeypatch.setattr(pictures.Image, "open", lambda *_, **__: pytest.fail("a decoder was asked"))
    with pytest.raises(HTTPException) as refusal:
        decode(body, limits)
    assert refusal.value.status_code == status and sentence in refusal.value.detail
    assert "\n" not in refusal.value.detail and len(refusal.value.detail) < 200


def test_texts_and_profiles_never_reach_a_decoder(limits, monkeypatch):
    monkeypatch.setattr(PngImagePlugin, "_safe_zlib_decompress", lambda _: pytest.fail("a text was unpacked"))
    profile = chunk(b"iCCP", b"x\0\0" + ZEROS)
    rows = b"".join(b"\0" + bytes(24) for _ in range(8))
    assert not decode(png(8, 8, *TEXTS, profile, pixels=rows), limits).any()


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_a_sentence(limits, name):
    """Every 7th byte flipped in turn and every 11th length: an array or a refusal, never another error."""
    whole = FILES[name]
    random = np.random.default_rng(1)
    places = random.choice(min(len(whole), 700), min(len(whole), 60), replace=False)
    damaged = [whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :] for at in places.tolist()]
    for body in [*damaged, *(whole[:at] for at in places.tolist())]:
        with suppress(HTTPException):
            assert decode(body, limits).ndim == 3


def test_memory_grows_with_the_padded_size_and_in_tiles_with_the_pixels_alone():
    net = DeepLab(classes=3, backbone="tiny", weights="none", output_stride=16, rates=[1, 2])
    memory = LabellingMemory(Deployed(Probabilities(net.eval()), 16, MEAN, STD, (1, 2**15)).eval())
    square = memory.bytes(384, 384)
    assert 100 * 384**2 < square < 200 * 384**2
    assert memory.bytes(1, 384 * 64) > 5 * memory.bytes(384, 64)
    assert memory.bytes(768, 768) == pytest.approx(4 * square, rel=0.05)
    assert memory.bytes(3072, 3072) < 0.5 * 64 * square


def test_the_limit_of_memory_is_the_users(limits):
    roomy = pictures.Limits(Segmenter(limits._labelling._source, Classes(("a", "b")), "model"), 4 * 2**30)
    picture = read_header(png(4000, 4000))
    assert 576 * 2**20 < roomy.check(picture) < 3.5 * 2**30
    with pytest.raises(HTTPException, match=r"at most 576 MiB are given to one"):
        limits.check(picture)
    assert headers.MAX_PARTS == 65_536
