"""One label map as one PNG: the values that are read are those that are stored, whatever the PNG's kind.

Grey and palette PNGs of every bit depth are read. A grey value is the index itself: Pillow widens 2 and 4 bits to the
full range of grey, which is taken back here.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from wsss.classes import IGNORE, VOC, palette
from wsss.errors import UserError
from wsss.storage import write_bytes

MODES = frozenset({"1", "L", "P", "I;16"})
"""Pillow's names of what holds indices: grey of 1, of 2 to 8 and of 16 bits, and palettes of 1 to 8 bits."""
_FORMATS = ("PNG",)
_WIDENED = {2: 255 // 3, 4: 255 // 15}


def encode_palette_png(labels: np.ndarray) -> bytes:
    """A label map as the bytes of an 8-bit palette PNG in the VOC colours, always with the same encoder settings.

    Args:
        labels: uint8 H x W, class indices and 255 (ignore).

    Raises:
        ValueError: another type or number of axes, or no pixels.
    """
    if labels.dtype != np.uint8 or labels.ndim != 2 or labels.size == 0:
        raise ValueError(f"a label map is uint8 H x W with H, W > 0, this is {labels.dtype} {labels.shape}")
    image = Image.fromarray(labels)
    image.putpalette(palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6, bits=8)
    return buffer.getvalue()


def decode_palette_png(data: bytes, name: str) -> np.ndarray:
    """The labels of a PNG's bytes: uint8 H x W, its palette indices (or grey values) as stored, never its colours.

    Args:
        data: the whole PNG file: grey of 1, 2, 4, 8 or 16 bits, or a palette of 1, 2, 4 or 8 bits.
        name: what the error messages call it.

    Raises:
        UserError: no PNG, a damaged one, one with colours, alpha or several frames, or a value above 255.
    """
    values = _decode_values(data, name)
    if values.dtype == np.uint16 and values.max() > IGNORE:
        raise UserError(
            f"{name} holds the value {values.max()}; class indices go up to {IGNORE - 1}, and {IGNORE} is void"
        )
    return values.astype(np.uint8)


def read_values(path: Path) -> np.ndarray:
    """The values of a mask as stored: uint8, uint16 or bool H x W, palette indices or grey values.

    Raises:
        UserError: no such file, or nothing that `decode_palette_png` takes; values above 255 are no fault here.
    """
    return _decode_values(_read(path), str(path))


def has_colours(path: Path) -> bool:
    """Whether a mask has colours in place of indices, by its header."""
    try:
        with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
            return image.mode in ("RGB", "RGBA")
    except Exception:  # what is wrong with it is said when it is read
        return False


def decode_colours(path: Path) -> np.ndarray:
    """The colours of a mask, those of its palette where it has one: uint32 H x W, 0xRRGGBB; transparency is left out.

    Raises:
        UserError: no such file, no PNG, a damaged one.
    """
    try:
        with Image.open(io.BytesIO(_read(path)), formats=_FORMATS) as image:
            red, green, blue = np.moveaxis(np.array(image.convert("RGB"), np.uint32), 2, 0)
    except UserError:
        raise
    except Exception as error:
        raise _unreadable(str(path), error) from None
    return red << 16 | green << 8 | blue


def _decode_values(data: bytes, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            image.verify()  # the checksums; reading the pixels ignores them
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_header(image, name)
            values = np.array(image)
    except UserError:
        raise
    except Exception as error:
        raise _unreadable(name, error) from None
    depth, colour = data[24], data[25]  # of the header, which is always the first part of a PNG
    if colour == 0 and depth in _WIDENED:
        values //= _WIDENED[depth]
    return values


def png_size(path: Path, name: str) -> tuple[int, int]:
    """Height and width of a label map, from its header.

    Raises:
        UserError: no such file, no PNG, or one whose header says that it is no label map.
    """
    try:
        with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
            _check_header(image, name)
            return image.height, image.width
    except UserError:
        raise
    except Exception as error:
        raise _unreadable(name, error) from None


def read_palette_png(path: Path, name: str = "") -> np.ndarray:
    """The labels of a PNG file: uint8 H x W; see `decode_palette_png`.

    Args:
        path: the file.
        name: what the error messages call it; its path by default.

    Raises:
        UserError: no such file, or nothing that `decode_palette_png` takes.
    """
    return decode_palette_png(_read(path), name or str(path))


def voc_indices(path: Path) -> dict[int, int]:
    """Which of VOC's indices have the colours in a PNG's palette.

    Returns:
        Index that a pixel has to the index (0 to 20, 255) whose colour in VOC it shows; empty for a PNG without a
        palette, or with a pixel in any other colour.

    Raises:
        UserError: no such file, or nothing that `decode_palette_png` takes.
    """
    data = _read(path)
    used = np.unique(decode_palette_png(data, str(path))).tolist()
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        flat = image.getpalette("RGB") if image.mode == "P" else None
    colours = [tuple(flat[3 * index : 3 * index + 3]) for index in used] if flat else []
    known = {tuple(palette()[index].tolist()): index for index in (*range(len(VOC) + 1), IGNORE)}
    if not all(colour in known for colour in colours):
        return {}
    return {index: known[colour] for index, colour in zip(used, colours, strict=False)}


def write_palette_png(path: Path, labels: np.ndarray) -> None:
    """Write a label map (uint8 H x W) as a palette PNG, whole or not at all."""
    write_bytes(path, encode_palette_png(labels))


def _check_header(image: Image.Image, name: str) -> None:
    if image.mode not in MODES:
        raise UserError(
            f"{name} is a label map in mode {image.mode}; label maps are palette or grey PNGs whose values are class "
            "indices: save it with indices instead of colours"
        )
    if getattr(image, "n_frames", 1) > 1:
        raise UserError(f"{name} is an animation; a label map is a single picture")


def _unreadable(name: str, error: Exception) -> UserError:
    """The one sentence for whatever Pillow raises on a damaged file, which is a dozen unrelated types."""
    why = str(error)
    if isinstance(error, UnidentifiedImageError):
        why = "it is no PNG, or a damaged one"
    elif isinstance(error, Image.DecompressionBombError):
        why = f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, as no image may"
    elif "MAX_TEXT" in why:
        why = "the text in it is too long; save it without text"
    elif isinstance(error, OSError) and error.strerror:
        why = error.strerror
    return UserError(f"{name} can't be read as a label map: {why}")


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise UserError(f"label map {path} is a folder or something else that is no file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"label map {path} can't be read: {error.strerror}") from error
