"""What a label map stores is what is read, in whichever way a PNG says it; all else is refused by the file's name."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsss.data.palette_png import decode_palette_png as decode
from wsss.data.palette_png import encode_palette_png, read_palette_png
from wsss.errors import UserError

GREY, PALETTE = 0, 3
ENCODINGS = [(GREY, depth) for depth in (1, 2, 4, 8, 16)] + [(PALETTE, depth) for depth in (1, 2, 4, 8)]
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@dataclass(frozen=True)
class Encoding:
    """How a PNG holds its values: of which colour type and bit depth, interlaced, with what chunks besides."""

    colour: int
    depth: int
    interlaced: bool = False
    transparent: bool = False
    text: bool = False


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def rows(values: np.ndarray, depth: int) -> bytes:
    """The values packed into rows without a filter."""
    if depth == 16:
        return b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    bits = (values[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1
    return b"".join(b"\0" + np.packbits(row).tobytes() for row in bits.reshape(len(values), -1).astype(np.uint8))


def png(values: np.ndarray, how: Encoding) -> bytes:
    """A PNG of these values, written without Pillow."""
    parts = [values[y::dy, x::dx] for x, y, dx, dy in ADAM7] if how.interlaced else [values]
    pixels = b"".join(rows(part, how.depth) for part in parts if part.size)
    height, width = values.shape
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, how.depth, how.colour, 0, 0, how.interlaced))]
    if how.text:
        chunks.append((b"tEXt", b"Software\0a painting tool"))
    if how.colour == PALETTE:
        chunks.append((b"PLTE", bytes(3 * 2**how.depth)))
    if how.transparent:
        chunks.append((b"tRNS", b"\0\x80" if how.colour == PALETTE else b"\0\1"))
    chunks += [(b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*pair) for pair in chunks)


@st.composite
def stored(draw: st.DrawFn) -> tuple[np.ndarray, Encoding]:
    """Values and how they are stored; 16 bits may hold values that are none of a label map."""
    colour, depth = draw(st.sampled_from(ENCODINGS))
    how = Encoding(colour, depth, draw(st.booleans()), draw(st.booleans()), draw(st.booleans()))
    height, width = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    high = draw(st.sampled_from([3, 255, 2**16 - 1])) if depth == 16 else 2**depth - 1
    seed = draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).integers(0, high + 1, (height, width)), how


@settings(max_examples=2000, deadline=None, database=None)
@given(stored())
def test_values_are_read_as_stored_or_refused_by_name(case: tuple[np.ndarray, Encoding]) -> None:
    values, how = case
    if values.max() > 255:
        with pytest.raises(UserError, match=f"a.png holds the value {values.max()}"):
            decode(png(values, how), "a.png")
    else:
        read = decode(png(values, how), "a.png")
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, values)


@settings(max_examples=2000, deadline=None, database=None)
@given(stored(), st.data())
def test_a_damaged_file_is_read_as_stored_or_refused_by_name(
    case: tuple[np.ndarray, Encoding], data: st.DataObject
) -> None:
    values, how = case
    content = bytearray(png(values.clip(0, 255), how))
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    read, sentence = values.clip(0, 255), "a.png is sound"
    try:
        read = decode(bytes(content), "a.png")
    except UserError as error:
        sentence = str(error)
    np.testing.assert_array_equal(read, values.clip(0, 255))
    assert sentence.startswith("a.png ") and "object at" not in sentence


@pytest.mark.parametrize("form", ["JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_other_formats_under_the_name_of_a_png_are_refused(form: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(buffer, form)
    with pytest.raises(UserError, match="a.png can't be read as a label map: it is no PNG"):
        decode(buffer.getvalue(), "a.png")


@pytest.mark.parametrize("mode", ["LA", "RGB", "RGBA"])
def test_colours_and_alpha_are_refused(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (8, 8)).save(buffer, "PNG")
    with pytest.raises(UserError, match=f"a.png is a label map in mode {mode}"):
        decode(buffer.getvalue(), "a.png")


def test_animations_are_refused() -> None:
    buffer = io.BytesIO()
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (1, 2)]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="a.png is an animation"):
        decode(buffer.getvalue(), "a.png")


def with_text(content: bytes) -> bytes:
    return content[:33] + chunk(b"zTXt", b"note\0\0" + zlib.compress(b"x" * 2_000_000)) + content[33:]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            with_text(encode_palette_png(np.zeros((8, 8), np.uint8))),
            "can't be read as a label map: the text in it",
        ),
        (b"", "can't be read as a label map: it is no PNG"),
        (b"<html>404</html>", "can't be read as a label map: it is no PNG"),
    ],
)
def test_what_pillow_refuses_is_one_sentence_that_names_the_file(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.png {words}"):
        read_palette_png(tmp_path / "a.png")


def test_a_map_that_unfolds_to_gigabytes_is_refused() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 10**5, 10**5, 8, GREY, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    with pytest.raises(UserError, match="a.png can't be read as a label map: it has more than 178,956,970 pixels"):
        decode(content, "a.png")


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_no_file_at_all(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        (tmp_path / "a.png").mkdir()
    with pytest.raises(UserError, match=r"a\.png"):
        read_palette_png(tmp_path / "a.png")
