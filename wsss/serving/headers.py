"""The headers of uploaded files, read before any decoder is trusted with them.

Of each format the size, the number of pictures and what a decoder would hold are known from a few fields. What is
handed on is the file without its texts, profiles, EXIF and further pictures: nothing but what pixels are made from,
so nothing else can be a bomb. (What a `Picture` cost says stays true of files that lie: decoders refuse those.)
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from math import ceil

from fastapi import HTTPException
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MAX_PARTS = 1 << 16
"""Chunks of a PNG, segments of a JPEG's header."""
MAX_SCANS = 100
"""Passes of a progressive JPEG over its pixels; the standard's own script has 10."""
MAX_TAGS = 1 << 20
"""Bytes of the tags of a TIFF that say where its pixels are."""
MAX_TILE = 1 << 24
"""Pixels of a tile of a TIFF."""

_PIXEL = 13
"""Bytes a pixel: Pillow's own 4, and 3 for each of the three copies on the way to an array."""
_GROUP = 6 << 10
"""Bytes of a group of Huffman tables of a lossless WebP."""


@dataclass(frozen=True)
class Picture:
    """An uploaded file whose header has been read.

    Attributes:
        format: one of `FORMATS`.
        width, height: in px, as stored.
        memory: the bytes that decoding it holds at most, its result among them.
        body: the file without what is not pixels.
        orientation: its EXIF flag; None where it is in the body still.
    """

    format: str
    width: int
    height: int
    memory: int
    body: bytes
    orientation: int | None = 1


def read_header(data: bytes) -> Picture:
    """Read the header of an uploaded file.

    Raises:
        HTTPException: 422 for bytes that are none of `FORMATS`, a damaged header, several pictures in one file, or a
            kind of compression or a number of parts that is not taken; 413 for a TIFF with
            tiles of more than `MAX_TILE` pixels.
    """
    for (prefix, at), read in _READERS.items():
        if data[at : at + len(prefix)] == prefix:
            try:
                picture = read(data)
            except (struct.error, IndexError, ValueError, ZeroDivisionError):
                break
            if picture.width < 1 or picture.height < 1:
                break
            return picture
    raise unreadable()


def unreadable() -> HTTPException:
    """The refusal of bytes that no decoder can make an image of."""
    return HTTPException(422, f"the body is not a readable image; send a {', '.join(FORMATS)} file")


def _refused(sentence: str) -> HTTPException:
    return HTTPException(422, sentence)


def _one(pictures: int) -> None:
    if pictures > 1:
        raise _refused(f"the file holds {pictures:,} pictures or more, 1 is taken; send each in a request of its own")


def _part(number: int) -> None:
    if number > MAX_PARTS:
        raise _refused(f"the file is made of more than {MAX_PARTS:,} parts; save the image again")


def _orientation(exif: bytes) -> int:
    """The orientation flag of a block of EXIF; 1 where it has none, or is damaged or absurdly long."""
    if len(exif) > _MAX_EXIF:
        return 1
    try:
        found = Image.Exif()
        found.load(exif)
        return int(found.get(_FLAG, 1))
    except Exception:  # of hostile bytes, whatever it stumbles over
        return 1


def _png(data: bytes) -> Picture:
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if (length, kind) != (13, b"IHDR"):
        raise unreadable()
    kept, at, orientation = [data[:33]], 33, 1
    for number in count():
        _part(number)
        if at + 8 > len(data) or kind == b"IEND":
            break
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"acTL":
            _one(*struct.unpack_from(">I", data, at + 8))
        if kind == b"eXIf":
            orientation = _orientation(data[at + 8 : at + 8 + length])
        # Transparency takes an entry for each colour of a palette at most.
        if kind in (b"PLTE", b"IDAT", b"IEND") or (kind == b"tRNS" and length <= 256):
            kept.append(data[at : at + 12 + length])
        at += 12 + length
    body = b"".join(kept)
    # Two rows of up to 4 channels of 16 bits while filters are undone.
    return Picture("PNG", width, height, _PIXEL * width * height + 16 * width + len(body), body, orientation)


def _jpeg(data: bytes) -> Picture:
    kept, at, frame, orientation = [data[:2]], 2, b"", 1
    for number in count():
        _part(number)
        fill, marker = data[at], data[at + 1]
        if fill != 0xFF:
            raise unreadable()
        if marker in (0xFF, 0x01):
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xDA:
            break
        (length,) = struct.unpack_from(">H", data, at + 2)
        is_frame = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        if length < 2 or (is_frame and frame):
            raise unreadable()
        if is_frame:
            frame = data[at + 4 : at + 2 + length]
        if marker == 0xE1 and data[at + 4 : at + 10] == _EXIF:
            orientation = _orientation(data[at + 10 : at + 2 + length])
        # Tables, the restart interval, and JFIF's and Adobe's segments, which say how colours are stored.
        if is_frame or marker in (0xC4, 0xCC, 0xDB, 0xDD, 0xE0, 0xEE):
            kept.append(data[at : at + 2 + length])
        at += 2 + length
    _, height, width, components = struct.unpack_from(">BHHB", frame)
    sides = [(frame[i] >> 4, frame[i] & 15) for i in range(7, 6 + 3 * components, 3)]
    # Phones put a second picture behind the end of the first.
    end = data.find(b"\xff\xd9", at)
    kept.append(data[at:] if end < 0 else data[at : end + 2])
    body = b"".join(kept)
    if (scans := body.count(b"\xff\xda")) > MAX_SCANS:
        raise _refused(f"the JPEG is drawn in {scans:,} scans, at most {MAX_SCANS} are taken; save the image again")
    across, down = (8 * max(side) for side in zip(*sides, strict=True))
    coefficients = ceil(width / across) * ceil(height / down) * sum(a * b for a, b in sides) * 64
    return Picture("JPEG", width, height, _PIXEL * width * height + 2 * coefficients + len(body), body, orientation)


def _webp(data: bytes) -> Picture:
    kind = data[12:16]
    tables = 0
    if kind == b"VP8X":
        _one(2 if data[20] & 2 else 1)
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise unreadable()
    if kind != b"VP8 ":
        tables = min(ceil(width / 4) * ceil(height / 4), 1 << 16, len(data)) * _GROUP
    # The decoder holds the picture, two canvases and a copy of one, 4 bytes a pixel, and the file twice.
    return Picture("WEBP", width, height, (_PIXEL + 20) * width * height + tables + 3 * len(data), data, None)


def _bmp(data: bytes) -> Picture:
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<IiHHI", data, 18)
    if compression not in (0, 3):
        raise _refused("the BMP is compressed; send it uncompressed, or as a PNG")
    if ceil(width * bits / 32) * 4 * abs(height) > len(data):
        raise unreadable()
    return Picture("BMP", width, abs(height), _PIXEL * width * abs(height) + len(data), data)


_COMPRESSIONS = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32946: "deflate", 32773: "PackBits"}
_LAYOUT_TAGS = {
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 347),
    *(529, 530, 531, 532),
}
"""Of a TIFF, how its pixels are stored; not its orientation, which is read beforehand."""
_FLAG, _EXIF = 0x0112, b"Exif\0\0"
_MAX_EXIF = 1 << 16
_TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}
"""Bytes of a value of a TIFF's tag."""


def _tiff(data: bytes) -> Picture:
    order = "<" if data[:1] == b"I" else ">"
    (offset,) = struct.unpack_from(f"{order}I", data, 4)
    (number,) = struct.unpack_from(f"{order}H", data, offset)
    _one(1 + (struct.unpack_from(f"{order}I", data, offset + 2 + 12 * number)[0] > 0))
    entries: dict[int, bytes] = {}
    values: dict[int, tuple[int, ...]] = {}
    total, orientation = 0, 1
    for at in range(offset + 2, offset + 2 + 12 * number, 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", data, at)
        if tag == _FLAG and kind == 3:
            orientation = int(struct.unpack_from(f"{order}H", data, at + 8)[0])
        if tag not in _LAYOUT_TAGS or tag in entries:
            continue
        total += _TYPES[kind] * length if kind in _TYPES else MAX_TAGS + 1
        if total > MAX_TAGS:
            raise _refused(f"the TIFF lists its parts in more than {MAX_TAGS >> 20} MiB; save the image again")
        entries[tag] = data[at : at + 12]
        if kind in (1, 3, 4) and length:
            place = at + 8 if _TYPES[kind] * length <= 4 else struct.unpack_from(f"{order}I", data, at + 8)[0]
            values[tag] = struct.unpack_from(f"{order}{length}{' B HI'[kind]}", data, place)
    return replace(_tiff_picture(data, order, entries, values), orientation=orientation)


def _tiff_picture(
    data: bytes, order: str, entries: Mapping[int, bytes], values: Mapping[int, tuple[int, ...]]
) -> Picture:
    first = {tag: numbers[0] for tag, numbers in values.items()}
    width, height = first.get(256, 0), first.get(257, 0)
    compression = first.get(259, 1)
    if compression not in _COMPRESSIONS:
        known = ", ".join(dict.fromkeys(_COMPRESSIONS.values()))
        raise _refused(f"the TIFF's compression has the number {compression}; send one with {known}")
    across, down = first.get(322, width), first.get(323, min(first.get(278, height), height))
    if 322 in first and across * down > MAX_TILE:
        raise HTTPException(
            413, f"the TIFF has tiles of {across} x {down} px, at most {MAX_TILE:,} pixels are taken; save smaller ones"
        )
    sample = max(first.get(277, 1), 4) * ceil(max(values.get(258, (1,))) / 8)
    jpeg = 100 << 20 if compression == 7 else 0  # What libtiff lets libjpeg hold.
    # The layout's tags are listed once more behind the file, alone and without a further page.
    listed = struct.pack(f"{order}H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    padding = bytes(len(data) % 2)
    body = data[:4] + struct.pack(f"{order}I", len(data) + len(padding)) + data[8:] + padding + listed
    deep = first.get(277, 1) * ceil(max(values.get(258, (1,))) / 8)
    # Of what is stretched, the bands twice, and three of them in float32 twice.
    stretched = (2 * deep + 24) * width * height if deep > 4 or max(values.get(258, (1,))) > 8 else 0
    memory = stretched + _PIXEL * width * height + 2 * across * down * sample + jpeg + 3 * len(data)
    return Picture("TIFF", width, height, memory, body)


_READERS = {
    (b"\xff\xd8\xff", 0): _jpeg,
    (b"\x89PNG\r\n\x1a\n", 0): _png,
    (b"WEBP", 8): _webp,
    (b"BM", 0): _bmp,
    (b"II*\0", 0): _tiff,
    (b"MM\0*", 0): _tiff,
}
"""By what files begin with, and at which byte."""
