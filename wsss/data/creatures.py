"""Creatures: a head that gives the class away, a body that does not, thin limbs, and one outline around head and body.

The head's class shows in its silhouette, the mark on it and its hue, which varies a little. Colours and pattern of the
body, its form, legs and tail are drawn at random, the same way for every class. A fur of fine grain covers all of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wsss.data.drawing import Line, apart, blend, blur, cover, hsv, near, pattern

RADIUS = (0.18, 0.27)
"""Of a body, as a share of the image's side."""
HEAD = (0.43, 0.48)
"""Radius of a head, as a share of its body's."""
NECK = (0.62, 0.85)
"""How far forward on the body its centre lies; 1 is the body's end."""
HUE_JITTER = 0.03
PLAIN = 0.45
"""Share of bodies of one colour."""
CAMOUFLAGED = 0.4
"""Share of bodies in the two colours of the ground."""
SHARED_COLOUR = 0.8
"""Share of the others whose second colour is one of the ground's."""
FUR = 14.0
"""Deviation of the fur's grain, in grey levels."""
PATTERNS = ("stripes", "checks", "dots")


def _circle(x: float, y: float, radius: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)


def _ring(outer: float, inner: float) -> np.ndarray:
    """A ring as one polygon, its hole joined to the border by a cut."""
    border, hole = _circle(0, 0, outer), _circle(0, 0, inner)
    return np.concatenate([border, border[:1], hole[:1], hole[::-1]])


def _mirrored(*right: tuple[float, float]) -> np.ndarray:
    """A polygon that is symmetric about the vertical axis, from its right half, top to bottom."""
    return np.array([*right, *((-x, y) for x, y in reversed(right))])


def _star() -> np.ndarray:
    angle = np.arange(10) * np.pi / 5 - np.pi / 2
    radius = np.where(np.arange(10) % 2 == 0, 1.4, 0.65)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([1.15 * np.sin(t) ** 3, -y / 14], axis=1)


SILHOUETTES = {
    "disc": _circle(0, 0, 1),
    "square": _mirrored((0.92, -0.92), (0.92, 0.92)),
    "spire": _mirrored((0, -1.3), (1.15, 0.9)),
    "star": _star(),
    "cross": _mirrored((0.5, -1.2), (0.5, -0.5), (1.2, -0.5), (1.2, 0.5), (0.5, 0.5), (0.5, 1.2)),
    "heart": _heart(),
    "diamond": _mirrored((0, -1.3), (1.1, 0), (0, 1.3)),
    "crown": _mirrored((0, -1.15), (0.5, -0.35), (1.15, -1.1), (1.1, 0.95)),
}
"""Outlines of heads, float N x 2 in units of the head's radius, y downwards."""

MARKS = {
    "eyes": [_circle(-0.42, -0.05, 0.28), _circle(0.42, -0.05, 0.28)],
    "ring": [_ring(0.65, 0.33)],
    "bar": [_mirrored((0.72, -0.2), (0.72, 0.2))],
    "dot": [_circle(0, 0.05, 0.45)],
    "plus": [_mirrored((0.62, -0.17), (0.62, 0.17)), _mirrored((0.17, -0.62), (0.17, 0.62))],
    "chevron": [_mirrored((0, -0.5), (0.62, 0.15), (0.62, 0.55), (0, -0.05))],
    "pillar": [_mirrored((0.2, -0.72), (0.2, 0.72))],
    "four": [_circle(x, y, 0.23) for x in (-0.4, 0.4) for y in (-0.4, 0.4)],
}
"""Polygons of the marks, in the same units; heads and marks are symmetric, so that a mirrored image keeps its class."""

MAX_CLASSES = len(SILHOUETTES) * len(MARKS)


def head_of(cls: int) -> tuple[str, str]:
    """Silhouette and mark of class 0..63; classes close to each other differ in both."""
    n = len(SILHOUETTES)
    return list(SILHOUETTES)[cls % n], list(MARKS)[(cls + cls // n) % n]


@dataclass(frozen=True)
class Creature:
    """The outlines of one creature, float N x 2, x and y in px of the image.

    Attributes:
        cls: its class, 0..C-1.
        radius: of a disc about as large as its body, in px.
        line: width of the outline in px.
        body, head: polygons.
        mark: the polygons on the head.
        limbs: legs and tail.
    """

    cls: int
    radius: float
    line: float
    body: np.ndarray
    head: np.ndarray
    mark: list[np.ndarray]
    limbs: list[Line]

    @classmethod
    def of_class(cls, rng: np.random.Generator, size: int, kind: int) -> Creature:
        """A creature of class `kind` somewhere in an image of `size` px, looking anywhere; its head stays upright."""
        radius = size * rng.uniform(*RADIUS)
        centre = rng.uniform(0.9 * radius, size - 0.9 * radius, 2)
        stretch = math.sqrt(rng.uniform(1.1, 1.6))
        heading = rng.uniform(0, 2 * np.pi)
        forward = np.array([math.cos(heading), math.sin(heading)]) * radius * stretch
        sideways = np.array([-math.sin(heading), math.cos(heading)]) * radius / stretch

        def place(points: np.ndarray) -> np.ndarray:
            return centre + points[..., :1] * forward + points[..., 1:] * sideways

        silhouette, mark = head_of(kind)
        tilt, head_radius = rng.uniform(-0.2, 0.2), radius * rng.uniform(*HEAD)
        turn = head_radius * np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]])
        neck = place(np.array([rng.uniform(*NECK), 0.0]))
        return cls(
            cls=kind,
            radius=radius,
            line=max(1.0, size / 96 * 1.5),
            body=place(_blob(rng)),
            head=SILHOUETTES[silhouette] @ turn + neck,
            mark=[polygon @ turn + neck for polygon in MARKS[mark]],
            limbs=[(place(path), max(1.5, radius * 0.15)) for path in _limbs(rng)],
        )

    def paint(self, rng: np.random.Generator, image: np.ndarray, ground: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """The creature and its shadow on an image, float size x size x 3 in 0..255, whose ground has two colours."""
        size = len(image)
        hue = (self.cls * 0.618 + rng.uniform(-HUE_JITTER, HUE_JITTER)) % 1
        skin = hsv(hue, rng.uniform(0.7, 0.95), rng.uniform(0.85, 1.0))
        first, second = apart(rng, ground), apart(rng, ground)
        if rng.random() < CAMOUFLAGED:
            first, second = near(rng, ground[0]), near(rng, ground[1])
        elif rng.random() < SHARED_COLOUR:
            second = near(rng, ground[int(rng.integers(2))])
        kind = "plain" if rng.random() < PLAIN else PATTERNS[int(rng.integers(len(PATTERNS)))]
        fur = FUR * rng.normal(size=(size, size, 1))
        texture = blend(first, second, pattern(rng, kind, size, self.radius * rng.uniform(0.35, 0.6)))
        dark = hsv(rng.random(), 0.3, rng.uniform(0.08, 0.2))

        outline, limbs = cover(size, [self.body, self.head], outline=self.line), cover(size, lines=self.limbs)
        offset = round(size / 48)
        shadow = blur(np.roll(np.maximum(outline, limbs), (offset, offset), (0, 1)), size / 48)
        image = image * (1 - 0.35 * shadow[..., None])
        image = blend(image, first * 0.6 + fur, limbs)
        image = blend(image, dark, outline)
        image = blend(image, texture + fur, cover(size, [self.body]))
        image = blend(image, skin + fur, cover(size, [self.head]))
        return blend(image, dark, cover(size, self.mark))


def _blob(rng: np.random.Generator) -> np.ndarray:
    """A closed, nearly convex curve of radius about 1: between ellipse and box, with low bumps."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    power = rng.uniform(2, 3)
    radius = (np.abs(np.cos(angle)) ** power + np.abs(np.sin(angle)) ** power) ** (-1 / power)
    for waves in (2, 3, 4):
        radius *= 1 + rng.uniform(-0.07, 0.07) * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _limbs(rng: np.random.Generator) -> list[np.ndarray]:
    """One to three pairs of legs and, more often than not, a tail: open paths in units of the body."""
    paths = []
    for root in ([0.0], [-0.45, 0.45], [-0.5, 0.0, 0.5])[int(rng.integers(3))]:
        reach, bend = rng.uniform(1.5, 1.9), rng.uniform(-0.4, 0.4)
        leg = np.array([(root, 0.6), (root + bend / 2, 0.8 * reach), (root + bend, reach)])
        paths += [leg * (1, -1), leg]
    if rng.random() < 0.6:
        along, swing = np.linspace(0, 1, 8), rng.uniform(-0.7, 0.7)
        paths.append(np.stack([-0.9 - 0.7 * along, swing * np.sin(3 * along)], axis=1))
    return paths
