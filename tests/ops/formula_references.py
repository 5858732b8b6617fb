"""What published formulas give for small inputs, in plain Python: `python tests/ops/formula_references.py`.

This writes references/formulas.npz, from the equations alone and none of wsss: AffinityNet's pairs, labels, loss and
its gradient (Ahn and Kwak, CVPR 2018, as released: sources with a margin, the mean of the L1 distance, 1e-5 in the
logarithms, each term over its own pairs), IRNet's affinity along paths (Ahn, Cho and Kwak, CVPR 2019, as released: the
pixels nearer than 1 to the line), VOC's evaluation, and the mean IoU at every threshold of a constant background.

    affinity.features    float64 3 x 9 x 13      affinity.labels  int64 9 x 13, 255 is no label
    affinity.pairs       float64 34 x 5 x 5, W of radius 5
    affinity.alike       int8 34 x 5 x 5: 0 alike in the background, 1 in the foreground, 2 different, -1 none
    affinity.loss        float64                 affinity.gradient  float64 3 x 9 x 13, by the features
    paths.boundaries     float64 12 x 20         paths.RADIUS  float64 P x h x w, for the radii 5 and 10
    scores.masks, scores.predictions  uint8 6 x 7 x 8
    scores.matrix        int64 5 x 5             scores.iou, scores.fp, scores.fn  float64 5
    sweep.best, sweep.scores  uint8 and float64 in [0, 1], 6 x 7 x 8
    sweep.miou           float64 101
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

FILE = Path(__file__).parents[1] / "references" / "formulas.npz"
RADIUS, PATH_RADII = 5, (5, 10)
SMALL = 1e-5
CLASSES = 4


def offsets(radius: int) -> list[tuple[int, int]]:
    """The half plane of neighbours nearer than the radius, the row of the source first."""
    reach = range(-radius + 1, radius)
    return [
        (dy, dx) for dy in range(radius) for dx in reach if (dy > 0 or dx > 0) and math.hypot(dy, dx) < radius
    ]  # fmt: skip


def pairs(
    size: tuple[int, int], radius: int
) -> Iterator[tuple[tuple[int, int, int], tuple[int, int], tuple[int, int]]]:
    """Each pair: its place P x h x w, its source and its partner; sources keep a margin to three borders."""
    margin = radius - 1
    for number, (dy, dx) in enumerate(offsets(radius)):
        for y in range(size[0] - margin):
            for x in range(margin, size[1] - margin):
                yield (number, y, x - margin), (y, x), (y + dy, x + dx)


def rectangle(size: tuple[int, int], radius: int) -> tuple[int, int, int]:
    return len(offsets(radius)), size[0] - (radius - 1), size[1] - 2 * (radius - 1)


def affinity_references(draw: np.random.Generator) -> dict[str, np.ndarray]:
    """W_ij, the kind of each pair, the loss and its gradient."""
    size = (9, 13)
    features = draw.normal(size=(3, *size))
    labels = draw.choice([0, 0, 1, 2, 255], size=size)
    weights, alike = np.zeros(rectangle(size, RADIUS)), np.full(rectangle(size, RADIUS), -1, np.int8)
    for place, i, j in pairs(size, RADIUS):
        weights[place] = math.exp(-sum(abs(features[k][i] - features[k][j]) for k in range(3)) / 3)
        if 255 not in (labels[i], labels[j]):
            alike[place] = 2 if labels[i] != labels[j] else min(int(labels[i]), 1)
    counts = [int((alike == kind).sum()) for kind in range(3)]
    shares = [1 / 4, 1 / 4, 1 / 2]
    loss, gradient = 0.0, np.zeros_like(features)
    for place, i, j in pairs(size, RADIUS):
        kind, w = int(alike[place]), float(weights[place])
        if kind < 0:
            continue
        say = shares[kind] / counts[kind]
        loss -= say * math.log(1 + SMALL - w if kind == 2 else w + SMALL)
        by_weight = say / (1 + SMALL - w) if kind == 2 else -say / (w + SMALL)
        for k in range(3):
            change = by_weight * -w * np.sign(features[k][i] - features[k][j]) / 3
            gradient[k][i] += change
            gradient[k][j] -= change
    found = {"features": features, "labels": labels, "pairs": weights, "alike": alike, "gradient": gradient}
    return {f"affinity.{name}": array for name, array in found.items()} | {"affinity.loss": np.array(loss)}


def path_references(draw: np.random.Generator) -> dict[str, np.ndarray]:
    """1 - the highest boundary among the pixels of the way that are nearer than 1 to its line."""
    size = (12, 20)
    boundaries = draw.random(size)
    found = {"paths.boundaries": boundaries}
    for radius in PATH_RADII:
        weights = np.zeros(rectangle(size, radius))
        for place, (y, x), (y_end, x_end) in pairs(size, radius):
            dy, dx = y_end - y, x_end - x
            on_the_way = [
                boundaries[y + a, x + b]
                for a in range(min(0, dy), max(0, dy) + 1)
                for b in range(min(0, dx), max(0, dx) + 1)
                if abs(dy * b - dx * a) / math.hypot(dy, dx) < 1
            ]
            weights[place] = 1 - max(on_the_way)
        found[f"paths.{radius}"] = weights
    return found


def matrix_of(masks: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """The confusion matrix over all pixels that the masks don't ignore; row the truth."""
    matrix = np.zeros((CLASSES + 1, CLASSES + 1), np.int64)
    for truth, found in zip(masks.ravel(), predictions.ravel(), strict=True):
        if truth != 255:
            matrix[truth, 0 if found == 255 else found] += 1
    return matrix


def score_references(draw: np.random.Generator) -> dict[str, np.ndarray]:
    """IoU and both errors of each class; one class is in no mask and no prediction. The mean at each threshold."""
    shape = (6, 7, 8)
    masks = draw.choice([0, 0, 1, 2, 3, 255], size=shape).astype(np.uint8)
    best = draw.choice([1, 2, 3], size=shape).astype(np.uint8)
    scores = draw.integers(0, 2001, shape) / 2000
    predictions = np.where(scores >= 0.4, best, 0).astype(np.uint8)
    predictions[0, 0, :3] = 255
    matrix = matrix_of(masks, predictions)
    rows: dict[str, list[float]] = {"iou": [], "fp": [], "fn": []}
    for c in range(CLASSES + 1):
        hit, missed, wrong = matrix[c, c], matrix[c].sum() - matrix[c, c], matrix[:, c].sum() - matrix[c, c]
        union = hit + missed + wrong
        for name, value in (("iou", hit), ("fp", wrong), ("fn", missed)):
            rows[name].append(value / union if union else math.nan)
    means = []
    for step in range(101):
        at = matrix_of(masks, np.where(scores >= step / 100, best, 0))
        unions = [at[c].sum() + at[:, c].sum() - at[c, c] for c in range(CLASSES + 1)]
        means.append(np.mean([at[c, c] / union for c, union in enumerate(unions) if union]))
    found = {"masks": masks, "predictions": predictions, "matrix": matrix, **{k: np.array(v) for k, v in rows.items()}}
    sweep = {"sweep.best": best, "sweep.scores": scores, "sweep.miou": np.array(means)}
    return {f"scores.{name}": array for name, array in found.items()} | sweep


def references() -> dict[str, np.ndarray]:
    """The arrays of the file."""
    draw = np.random.default_rng(0)
    return affinity_references(draw) | path_references(draw) | score_references(draw)


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **references())
    print(f"{FILE.name}: {FILE.stat().st_size:,} bytes")
