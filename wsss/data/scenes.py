"""Scenes drawn by program: creatures whose head gives their class away and whose body does not.

A creature is a head (a silhouette with a mark on it: the class), a body of any colour and pattern, and thin limbs. One
dark outline goes around head and body together; it is the only thing that ties them. The ground is a pattern too, in
colours that bodies may share, and its kind goes with a class more often than not.

Lengths are in pixels, shares of the image's side or, where a part is described by itself, units of its radius.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from wsss.classes import IGNORE

SUPERSAMPLING = 4
NO_CREATURE = 0.05
COUNTS = (0.45, 0.38, 0.17)
TAIL = 0.6
GROUND_OF_CLASS = 0.7
RADIUS = (0.18, 0.27)
HEAD = (0.43, 0.48)
NECK = (0.62, 0.85)
HUE_JITTER = 0.03
SHARED_COLOUR = 0.8
PLAIN = 0.45
MAX_HIDDEN_HEAD, MAX_HIDDEN_BODY = 0.1, 0.4

GROUNDS = ("clouds", "waves", "ripples", "weave", "tiles", "dunes")
BODIES = ("stripes", "checks", "dots")


def _circle(x: float, y: float, radius: float, corners: int = 32) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)


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
MARKS = {
    "eyes": [_circle(-0.42, -0.05, 0.28), _circle(0.42, -0.05, 0.28)],
    "ring": [np.concatenate([circle, circle[:1]]) for circle in ()] or [np.concatenate([_circle(0, 0, 0.65, 32), _circle(0, 0, 0.65, 32)[:1], _circle(0, 0, 0.33, 32)[:1], _circle(0, 0, 0.33, 32)[::-1]])],
    "bar": [_mirrored((0.72, -0.2), (0.72, 0.2))],
    "dot": [_circle(0, 0.05, 0.45)],
    "plus": [_mirrored((0.62, -0.17), (0.62, 0.17)), _mirrored((0.17, -0.62), (0.17, 0.62))],
    "chevron": [_mirrored((0, -0.5), (0.62, 0.15), (0.62, 0.55), (0, -0.05))],
    "pillar": [_mirrored((0.2, -0.72), (0.2, 0.72))],
    "four": [_circle(x, y, 0.23) for x in (-0.4, 0.4) for y in (-0.4, 0.4)],
}
MAX_CLASSES = len(SILHOUETTES) * len(MARKS)


def head_of(cls: int) -> tuple[str, str]:
    """Silhouette and mark of class 0..63; classes close to each other differ in both."""
    n = len(SILHOUETTES)
    return list(SILHOUETTES)[cls % n], list(MARKS)[(cls + cls // n) % n]


@dataclass(frozen=True)
class Scene:
    """One drawn scene.

    Attributes:
        image: uint8 size x size x 3, RGB.
        labels: uint8 size x size, 0 background, class + 1, 255 on the pixels around each creature.
        instances: uint8 size x size, 0 background, else the creature's number in `classes`, from 1.
        classes: the class of each creature, 0..C-1, the nearest to the viewer last.
    """

    image: np.ndarray
    labels: np.ndarray
    instances: np.ndarray
    classes: tuple[int, ...]


def draw_scene(rng: np.random.Generator, size: int, classes: int, main: int | None = None) -> Scene:
    wanted = _choose_classes(rng, classes, main)
    ground = wanted[0] if wanted and rng.random() < GROUND_OF_CLASS else int(rng.integers(classes))
    colours = _ground_colours(rng)
    image = _blend(*colours, _pattern(rng, GROUNDS[ground % len(GROUNDS)], size, size * rng.uniform(0.08, 0.16)))
    instances = np.zeros((size, size), np.uint8)
    drawn: list[int] = []
    heads: list[np.ndarray] = []
    areas = []
    for cls in wanted:
        for _ in range(20):
            creature = _Creature.any(rng, size, cls)
            solid = _cover(size, [creature.body, creature.head], creature.limbs, outline=creature.line) > 0.5
            head = _cover(size, [creature.head]) > 0.5
            areas_ok = all((solid & (instances == k + 1)).sum() < MAX_HIDDEN_BODY * area for k, area in enumerate(areas))
            heads_ok = all((solid & h).sum() < MAX_HIDDEN_HEAD * h.sum() for h in heads)
            inside = creature.head.min() > -1 and creature.head.max() < size + 1
            if areas_ok and heads_ok and inside:
                break
        else:
            continue
        image = creature.paint(rng, image, colours)
        drawn.append(cls)
        instances[solid] = len(drawn)
        heads.append(head)
        areas.append(solid.sum())
    return Scene(_photograph(rng, image), _labels(instances, drawn), instances, tuple(drawn))


def _choose_classes(rng: np.random.Generator, classes: int, main: int | None) -> list[int]:
    share = np.arange(1, classes + 1) ** -TAIL
    count = 1 + int(rng.choice(len(COUNTS), p=COUNTS))
    if main is None and rng.random() < NO_CREATURE:
        count = 0
    wanted = [int(rng.choice(classes, p=share / share.sum())) for _ in range(count)]
    return wanted if main is None else [main, *wanted[1:]]


@dataclass(frozen=True)
class _Creature:
    cls: int
    radius: float
    line: float
    body: np.ndarray
    head: np.ndarray
    mark: list[np.ndarray]
    limbs: list[tuple[np.ndarray, float]]

    @classmethod
    def any(cls, rng: np.random.Generator, size: int, kind: int) -> _Creature:
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
        size = len(image)
        silhouette, _ = head_of(self.cls)
        hue = (self.cls * 0.618 + rng.uniform(-HUE_JITTER, HUE_JITTER)) % 1
        skin = _hsv(hue, rng.uniform(0.7, 0.95), rng.uniform(0.85, 1.0))
        first, second = _apart(rng, ground), _apart(rng, ground)
        if rng.random() < SHARED_COLOUR:
            second = _near(rng, ground[int(rng.integers(2))])
        kind = "plain" if rng.random() < PLAIN else BODIES[int(rng.integers(len(BODIES)))]
        texture = _blend(first, second, _pattern(rng, kind, size, self.radius * rng.uniform(0.35, 0.6)))
        dark = _hsv(rng.random(), 0.3, rng.uniform(0.08, 0.2))
        body, head = _cover(size, [self.body]), _cover(size, [self.head])
        outline = _cover(size, [self.body, self.head], outline=self.line)
        limbs = _cover(size, lines=self.limbs)
        shadow = _blur(np.roll(np.maximum(outline, limbs), (round(size / 48), round(size / 48)), (0, 1)), size / 48)
        image = image * (1 - 0.35 * shadow[..., None])
        for colour, alpha in (
            (first * 0.6, limbs),
            (dark, outline),
            (texture, body),
            (skin, head),
            (dark, _cover(size, self.mark)),
        ):
            image = _blend(image, colour, alpha)
        return image


def _blob(rng: np.random.Generator) -> np.ndarray:
    """A closed, nearly convex curve of radius about 1: between ellipse and box, with low bumps."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    power = rng.uniform(2, 3)
    radius = (np.abs(np.cos(angle)) ** power + np.abs(np.sin(angle)) ** power) ** (-1 / power)
    for waves in (2, 3, 4):
        radius *= 1 + rng.uniform(-0.07, 0.07) * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _limbs(rng: np.random.Generator) -> list[np.ndarray]:
    """Pairs of legs and, more often than not, a tail: open paths in units of the body."""
    paths = []
    for root in ([0.0], [-0.45, 0.45], [-0.5, 0.0, 0.5])[int(rng.integers(3))]:
        reach, bend = rng.uniform(1.5, 1.9), rng.uniform(-0.4, 0.4)
        paths += [np.array([(root, side * 0.6), (root + bend / 2, side * 0.8 * reach), (root + bend, side * reach)]) for side in (-1, 1)]
    if rng.random() < 0.6:
        along, swing = np.linspace(0, 1, 8), rng.uniform(-0.7, 0.7)
        paths.append(np.stack([-0.9 - 0.7 * along, swing * np.sin(3 * along)], axis=1))
    return paths


def _pattern(rng: np.random.Generator, kind: str, size: int, period: float) -> np.ndarray:
    """The weight of a pattern's second colour: float32 size x size in [0, 1]."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    turn, (shift_u, shift_v) = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi, 2)
    rate = 2 * np.pi / period
    u = rate * (x * math.cos(turn) + y * math.sin(turn)) + shift_u
    v = rate * (y * math.cos(turn) - x * math.sin(turn)) + shift_v
    if kind == "plain":
        wave = np.full_like(x, -1)
    elif kind == "waves":
        wave = np.sin(u + 0.8 * np.sin(v / 3))
    elif kind == "stripes":
        wave = np.sin(u)
    elif kind == "tiles":
        wave = 4 * (np.maximum(np.cos(u / 2) ** 2, np.cos(v / 2) ** 2) - 0.85)
    elif kind == "dunes":
        wave = np.sin(u + 3 * _bumps(rng, size, 3))
    elif kind == "checks":
        wave = 2 * np.sin(u) * np.sin(v)
    elif kind == "dots":
        wave = np.sin(u) + np.sin(v) - 0.9
    elif kind == "ripples":
        wave = np.sin(rate * np.hypot(x - size * shift_u / 6.3, y - size * shift_v / 6.3))
    elif kind == "weave":
        wave = 2 * np.maximum(np.sin(u), np.sin(v / 2 + np.pi / 2 * np.sign(np.sin(u / 2)))) - 1.2
    else:
        wave = 2.5 * _bumps(rng, size, max(2, round(size / period)))
    return np.clip(0.5 + 1.2 * wave, 0, 1)


def _bumps(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """A smooth random field with about `count` bumps across: float32 size x size, about [-1, 1]."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (count + 1, count + 1)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def _cover(size: int, polygons=(), lines=(), outline: float = 0) -> np.ndarray:
    """How much of each pixel is covered by polygons and (path, width) lines: float32 size x size in [0, 1]."""
    canvas = Image.new("L", (size * SUPERSAMPLING, size * SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        points = [tuple(point) for point in (polygon * SUPERSAMPLING).tolist()]
        draw.polygon(points, fill=255)
        if outline:
            draw.line([*points, *points[:2]], fill=255, width=round(2 * outline * SUPERSAMPLING), joint="curve")
    for path, width in lines:
        points = [tuple(point) for point in (path * SUPERSAMPLING).tolist()]
        draw.line(points, fill=255, width=round(width * SUPERSAMPLING), joint="curve")
    return np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float32) / 255


def _blend(under, over, alpha: np.ndarray) -> np.ndarray:
    return under + (over - under) * alpha[..., None]


def _blur(alpha: np.ndarray, sigma: float) -> np.ndarray:
    image = Image.fromarray((alpha * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(sigma)), dtype=np.float32) / 255


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value), dtype=np.float32)


def _any_colour(rng: np.random.Generator) -> np.ndarray:
    return _hsv(rng.random(), rng.uniform(0.15, 0.6), rng.uniform(0.3, 0.9))


def _apart(rng: np.random.Generator, colours: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """A colour that can be told from both of `colours`."""
    while True:
        colour = _any_colour(rng)
        if all(np.linalg.norm(colour - other) > 60 for other in colours):
            return colour


def _near(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    return np.clip(colour + rng.normal(0, 12, 3), 0, 255).astype(np.float32)


def _ground_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    colour = _hsv(rng.random(), rng.uniform(0.15, 0.5), rng.uniform(0.4, 0.85))
    return colour, _near(rng, colour * rng.uniform(0.65, 0.85))


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Uneven light, grain and noise: uint8."""
    size = len(image)
    light = 1 + 0.2 * _bumps(rng, size, 2)
    grain = 10 * _bumps(rng, size, size // 4)
    image = image * light[..., None] + grain[..., None] + rng.normal(0, 7, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _labels(instances: np.ndarray, classes: list[int]) -> np.ndarray:
    """Class labels with the pixels that touch a nearer creature left out (255)."""
    labels = np.array([0, *(cls + 1 for cls in classes)], dtype=np.uint8)[instances]
    padded = np.pad(instances, 1, mode="edge")
    around = (padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1])
    labels[np.max(around, axis=0) > instances] = IGNORE
    return labels
