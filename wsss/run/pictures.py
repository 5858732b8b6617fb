"""Panels: an image beside what a method made of it, as one picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wsss.classes import palette

_HEAT = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], dtype=np.float64)
_GAP = 4
_CAPTION = 16


def coloured(labels: np.ndarray) -> np.ndarray:
    """A label map in the colours of the palette: uint8 H x W to uint8 H x W x 3."""
    return palette()[labels]


def heat(scores: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Scores from dark (0) to bright (1) over the grey image.

    Args:
        scores: float h x w in [0, 1], or K x h x w, of which the largest counts.
        image: uint8 H x W x 3.

    Returns:
        uint8 H x W x 3.
    """
    scores = scores.max(0, initial=0) if scores.ndim == 3 else scores
    height, width = image.shape[:2]
    large = Image.fromarray(scores.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    level = np.clip(np.asarray(large), 0, 1) * (len(_HEAT) - 1)
    colours = np.stack([np.interp(level, range(len(_HEAT)), channel) for channel in _HEAT.T], axis=-1)
    grey = image.mean(-1, keepdims=True)
    return (0.7 * colours + 0.3 * grey).round().astype(np.uint8)


def panel(image: np.ndarray, parts: Mapping[str, np.ndarray], height: int = 160) -> np.ndarray:
    """An image and what was made of it, side by side in the order given, each under its name.

    Args:
        image: uint8 H x W x 3.
        parts: name to a label map (uint8 H x W), scores in [0, 1] (float h x w or K x h x w) or a picture (uint8
            H x W x 3).
        height: of the pictures in the panel, in px.

    Returns:
        uint8 RGB.
    """
    tiles = [_tile("image", image, image, height), *(_tile(name, part, image, height) for name, part in parts.items())]
    return _joined(tiles, axis=1)


def stacked(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Panels (uint8 RGB) below each other, the narrower ones filled up with white."""
    return _joined(panels, axis=0)


def png(picture: np.ndarray) -> bytes:
    """A picture (uint8 RGB) as PNG."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return file.getvalue()


def _tile(name: str, part: np.ndarray, image: np.ndarray, height: int) -> np.ndarray:
    picture, resampling = part, Image.Resampling.BICUBIC
    if part.dtype != np.uint8:
        picture = heat(part, image)
    elif part.ndim == 2:
        picture, resampling = coloured(part), Image.Resampling.NEAREST
    width = max(1, round(height * image.shape[1] / image.shape[0]))
    tile = Image.new("RGB", (width, height + _CAPTION), "white")
    ImageDraw.Draw(tile).text((1, 0), name, fill="black", font=ImageFont.load_default(_CAPTION - 4))
    tile.paste(Image.fromarray(picture).resize((width, height), resampling), (0, _CAPTION))
    return np.asarray(tile)


def _joined(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Pictures in a row (axis 1) or a column (axis 0) with white gaps, filled up with white to one size across."""
    across = max(picture.shape[1 - axis] for picture in pictures)
    lines = []
    for number, picture in enumerate(pictures):
        after = _GAP if number < len(pictures) - 1 else 0
        padding = [(0, 0), (0, 0), (0, 0)]
        padding[axis], padding[1 - axis] = (0, after), (0, across - picture.shape[1 - axis])
        lines.append(np.pad(picture, padding, constant_values=255))
    return np.concatenate(lines, axis)
