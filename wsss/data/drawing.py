"""What scenes are drawn with: smooth-edged shapes, colours and patterns, all from NumPy and Pillow.

A colour is float32 [3] in 0..255; a cover is float32 size x size in [0, 1], the share of each pixel that is covered.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SUPERSAMPLING = 4

Line = tuple[np.ndarray, float]
"""An open path (float N x 2, in px) and its width in px."""


def cover(size: int, polygons: Sequence[np.ndarray] = (), lines: Sequence[Line] = (), outline: float = 0) -> np.ndarray:
    """The cover of polygons (float N x 2, x and y in px), widened by `outline` px, and of lines."""
    canvas = Image.new("L", (size * SUPERSAMPLING, size * SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        points = _points(polygon)
        draw.polygon(points, fill=255)
        if outline:
            draw.line([*points, *points[:2]], fill=255, width=round(2 * outline * SUPERSAMPLING), joint="curve")
    for path, width in lines:
        draw.line(_points(path), fill=255, width=round(width * SUPERSAMPLING), joint="curve")
    return np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float32) / 255


def _points(path: np.ndarray) -> list[tuple[float, float]]:
    return [(x, y) for x, y in (path * SUPERSAMPLING).tolist()]


def blend(under: np.ndarray, over: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`over` on `under` (colours, or images size x size x 3) with a weight size x size: size x size x 3."""
    return under + (over - under) * weight[..., None]


def blur(weight: np.ndarray, sigma: float) -> np.ndarray:
    """A cover blurred by a Gaussian of `sigma` px."""
    image = Image.fromarray((weight * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(sigma)), dtype=np.float32) / 255


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """The colour of a hue (a turn is 1), a saturation and a value, each in [0, 1]."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value), dtype=np.float32)


def near(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """A colour that can hardly be told from `colour`."""
    return np.clip(colour + rng.normal(0, 12, 3), 0, 255).astype(np.float32)


def apart(rng: np.random.Generator, colours: Sequence[np.ndarray], distance: float = 60) -> np.ndarray:
    """Any muted colour that lies further than `distance` from each of `colours`."""
    while True:
        colour = hsv(rng.random(), rng.uniform(0.15, 0.6), rng.uniform(0.3, 0.9))
        if all(np.linalg.norm(colour - other) > distance for other in colours):
            return colour


def bumps(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """A smooth random field with about `count` bumps across: float32 size x size, about [-1, 1]."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (count + 1, count + 1)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def pattern(rng: np.random.Generator, kind: str, size: int, period: float) -> np.ndarray:
    """The weight of a two-coloured pattern's second colour: size x size in [0, 1].

    Args:
        rng: turns and shifts it.
        kind: "plain", "stripes", "checks" or "dots" for bodies; "clouds", "waves", "ripples", "weave", "tiles" or
            "dunes" for grounds.
        size: height and width in px.
        period: length in px after which it repeats.
    """
    y, x = np.mgrid[:size, :size].astype(np.float32)
    turn, (shift_u, shift_v) = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi, 2)
    rate = 2 * np.pi / period
    u = rate * (x * math.cos(turn) + y * math.sin(turn)) + shift_u
    v = rate * (y * math.cos(turn) - x * math.sin(turn)) + shift_v
    match kind:
        case "plain":
            wave = np.full_like(x, -1)
        case "stripes":
            wave = np.sin(u)
        case "checks":
            wave = 2 * np.sin(u) * np.sin(v)
        case "dots":
            wave = np.sin(u) + np.sin(v) - 0.9
        case "clouds":
            wave = 2.5 * bumps(rng, size, max(2, round(size / period)))
        case "waves":
            wave = np.sin(u + 0.8 * np.sin(v / 3))
        case "ripples":
            wave = np.sin(rate * np.hypot(x - size * shift_u / 6.3, y - size * shift_v / 6.3))
        case "weave":
            wave = 2 * np.maximum(np.sin(u), np.sin(v / 2 + np.pi / 2 * np.sign(np.sin(u / 2)))) - 1.2
        case "tiles":
            wave = 4 * (np.maximum(np.cos(u / 2) ** 2, np.cos(v / 2) ** 2) - 0.85)
        case "dunes":
            wave = np.sin(u + 3 * bumps(rng, size, 3))
        case _:
            raise ValueError(f"there is no pattern {kind!r}")
    return np.clip(0.5 + 1.2 * wave, 0, 1)
