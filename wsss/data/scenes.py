"""Scenes drawn by program: creatures on a patterned ground, under uneven light, with noise.

The kind of the ground goes with the class of a creature on it more often than not, and bodies may share its colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsss.classes import IGNORE
from wsss.data.creatures import Creature
from wsss.data.drawing import blend, bumps, cover, hsv, near, pattern

NO_CREATURE = 0.05
"""Share of scenes that are empty."""
COUNTS = (0.45, 0.38, 0.17)
"""Shares of one, two and three creatures in the others."""
TAIL = 0.6
"""Class number n (from 1) is drawn n^-TAIL as often as the first."""
GROUND_OF_CLASS = 0.7
"""Share of scenes whose ground is the one of the first creature's class; the others have any."""
MAIN_OF_PLACE = 0.8
"""Share of the scenes of a place that show its class."""
MAX_HIDDEN_HEAD, MAX_HIDDEN_BODY = 0.1, 0.4
"""A new creature may hide less than this share of another."""
TRIES = 20
GROUNDS = ("clouds", "waves", "ripples", "weave", "tiles", "dunes")


@dataclass(frozen=True)
class Scene:
    """One drawn scene.

    Attributes:
        image: uint8 size x size x 3, RGB.
        labels: uint8 size x size, 0 background, class + 1, 255 along each creature, on the side of what lies behind.
        instances: uint8 size x size, 0 background, else the creature's number in `classes`, from 1.
        classes: the class of each creature, 0..C-1, the one in front last.
        ground: the kind of the ground, its place in `GROUNDS`.
    """

    image: np.ndarray
    labels: np.ndarray
    instances: np.ndarray
    classes: tuple[int, ...]
    ground: int


@dataclass(frozen=True)
class Place:
    """What the scenes of a group have in common: their ground, and a class that most of them show.

    Class and ground are drawn apart, so that whoever knows the place knows the tags of its other scenes, and no others.

    Attributes:
        seed: of the ground.
        kind: of the ground's pattern, an index in `GROUNDS`.
        main: the class, 0..C-1.
    """

    seed: tuple[int, ...]
    kind: int
    main: int

    @classmethod
    def of(cls, seed: Sequence[int], classes: int) -> Place:
        """The place that a seed draws."""
        rng = np.random.default_rng([*seed, 0, 0])
        return cls((*seed, 0, 1), int(rng.integers(len(GROUNDS))), int(rng.integers(classes)))


def draw_scene(
    rng: np.random.Generator,
    size: int,
    classes: int,
    main: int | None = None,
    *,
    single: bool = False,
    place: Place | None = None,
) -> Scene:
    """Draw a scene.

    Args:
        rng: what everything is drawn from; equal states draw equal scenes.
        size: height and width in px, at least 32.
        classes: C, 1 to `creatures.MAX_CLASSES`.
        main: a class (0..C-1) that shall be there; None leaves it to chance.
        single: exactly one creature, and never an empty scene.
        place: where the scene is; its ground is the place's, and its class is in `MAIN_OF_PLACE` of the scenes.
    """
    if place is not None and main is None and rng.random() < MAIN_OF_PLACE:
        main = place.main
    wanted = _choose_classes(rng, classes, main, single)
    if place is None:
        ground_rng = rng
        ground = wanted[0] if wanted and rng.random() < GROUND_OF_CLASS else int(rng.integers(classes))
    else:
        ground_rng, ground = np.random.default_rng(place.seed), place.kind
    colours = _ground_colours(ground_rng)
    period = size * ground_rng.uniform(0.08, 0.16)
    image = blend(*colours, pattern(ground_rng, GROUNDS[ground % len(GROUNDS)], size, period))
    instances = np.zeros((size, size), np.uint8)
    drawn: list[int] = []
    heads: list[np.ndarray] = []
    bodies: list[np.ndarray] = []
    for kind in wanted:
        for _ in range(TRIES):
            creature = Creature.of_class(rng, size, kind)
            if creature.head.min() <= -1 or creature.head.max() >= size + 1:
                continue
            body = cover(size, [creature.body, creature.head], creature.limbs, outline=creature.line) > 0.5
            visible = [instances == number for number in range(1, len(drawn) + 1)]
            if _hides(body, heads, heads, MAX_HIDDEN_HEAD) or _hides(body, visible, bodies, MAX_HIDDEN_BODY):
                continue
            image = creature.paint(rng, image, colours)
            drawn.append(kind)
            heads.append(cover(size, [creature.head]) > 0.5)
            bodies.append(body)
            instances[body] = len(drawn)
            break
    kind_of_ground = ground % len(GROUNDS)
    return Scene(_photograph(rng, image), _labels(instances, drawn), instances, tuple(drawn), kind_of_ground)


def _hides(new: np.ndarray, visible: list[np.ndarray], whole: list[np.ndarray], limit: float) -> bool:
    """Whether a new creature would hide, of any other, a share of the whole of `limit` or more."""
    return any((new & seen).sum() >= limit * all_of_it.sum() for seen, all_of_it in zip(visible, whole, strict=True))


def _choose_classes(rng: np.random.Generator, classes: int, main: int | None, single: bool) -> list[int]:
    share = np.arange(1, classes + 1) ** -TAIL
    count = 1 if single else 1 + int(rng.choice(len(COUNTS), p=COUNTS))
    if main is None and not single and rng.random() < NO_CREATURE:
        count = 0
    wanted = [int(rng.choice(classes, p=share / share.sum())) for _ in range(count)]
    return wanted if main is None else [main, *wanted[1:]]


def _ground_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    colour = hsv(rng.random(), rng.uniform(0.15, 0.5), rng.uniform(0.4, 0.85))
    return colour, near(rng, colour * rng.uniform(0.65, 0.85))


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Uneven light, grain and noise: uint8."""
    size = len(image)
    light = 1 + 0.2 * bumps(rng, size, 2)
    grain = 10 * bumps(rng, size, size // 4)
    image = image * light[..., None] + grain[..., None] + rng.normal(0, 5, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _labels(instances: np.ndarray, classes: list[int]) -> np.ndarray:
    """Class labels; pixels next to a creature further in front, above, below or beside, are ignored (255)."""
    labels = np.array([0, *(cls + 1 for cls in classes)], dtype=np.uint8)[instances]
    padded = np.pad(instances, 1, mode="edge")
    around = (padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1])
    labels[np.max(around, axis=0) > instances] = IGNORE
    return labels
