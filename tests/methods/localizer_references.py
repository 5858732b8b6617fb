"""What the formulas of MCIS, DCSM and WILDCAT give on small arrays: `python tests/methods/localizer_references.py`.

This writes references/localizers.npz, inputs and results, float64 but for labels. The formulas are written here once
more, on NumPy alone, cell by cell and without a look at `wsss`; gradients are complex steps, Im f(x + ih) / h, exact to
rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

FILE = Path(__file__).parents[1] / "references" / "localizers.npz"
Arrays = dict[str, np.ndarray]
VIEWS = ("pair", "flip", "0.75", "2")
"""Of MCIS, each with its grid: 4, 4, 3 and 7 cells a side."""
SIDES = dict(zip(VIEWS, (4, 4, 3, 7), strict=True))
WILDCAT = {"paper": (False, False), "half": (True, False), "grad": (False, True)}
"""What of the released code is kept: half of the score, gradients M times too large."""


def gradient(function: Callable[[np.ndarray], complex], x: np.ndarray) -> np.ndarray:
    """The derivative of a function by each entry of x."""
    found, step = np.zeros(x.shape), 1e-30
    for place in np.ndindex(*x.shape):
        moved = x.astype(complex)
        moved[place] += 1j * step
        found[place] = function(moved).imag / step
    return found


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def cross_entropy(scores: np.ndarray, tags: np.ndarray) -> complex:
    """The mean over images and classes of the sigmoid cross-entropy."""
    return -(tags * np.log(sigmoid(scores)) + (1 - tags) * np.log(sigmoid(-scores))).mean()


def attend(m: np.ndarray, n: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A_m and A_n of one pair, from d x cells and d x cells."""
    affinity = np.exp(m.T @ w @ n)
    return n @ (affinity / affinity.sum(1, keepdims=True)).T, m @ (affinity / affinity.sum(0, keepdims=True))


def mcis_losses(x: Arrays) -> dict[str, complex]:
    """The ten terms: {basic, co} x views, and the two of what one image has and the other has not."""
    own, tags, other = x["image"], x["tags"], x["pair_tags"]

    def basic(features: np.ndarray) -> np.ndarray:
        return np.array([(x["basic.weight"] @ f).mean(1) + x["basic.bias"] for f in features])

    def shared(features: list[np.ndarray]) -> np.ndarray:
        return np.array([(x["shared.weight"] @ f).mean(1) for f in features])

    terms: dict[str, complex] = {}
    for view in VIEWS:
        seen = [attend(m, n, x["affinity.weight"]) for m, n in zip(own, x[view], strict=True)]
        theirs = other if view == "pair" else tags
        terms[f"basic/{view}"] = cross_entropy(np.r_[basic(own), basic(x[view])], np.r_[tags, theirs])
        common = tags * theirs
        scores = np.r_[shared([a for a, _ in seen]), shared([b for _, b in seen])]
        terms[f"co/{view}"] = cross_entropy(scores, np.r_[common, common])
        if view == "pair":
            left = [
                [f * (1 - sigmoid(x["gate.weight"] @ a)) for f, a in zip(features, attended, strict=True)]
                for features, attended in ((own, [a for a, _ in seen]), (x[view], [b for _, b in seen]))
            ]
            for name, rest, only in (
                ("first", left[0], tags * (1 - theirs)),
                ("second", left[1], theirs * (1 - tags)),
            ):
                terms[f"contrast/{name}"] = cross_entropy(shared(rest), only) if only.any() else 0j
    return terms


def mcis(draw: np.random.Generator) -> Arrays:
    """Two pairs of images with their views, the losses, their sum's gradients, and a fused map with its labels."""
    depth, classes = 5, 3
    x: Arrays = {"image": draw.random((2, depth, 16))}
    x |= {view: draw.random((2, depth, side * side)) for view, side in SIDES.items()}
    x |= {"tags": np.array([[1.0, 1, 0], [0, 1, 0]]), "pair_tags": np.array([[1.0, 0, 1], [0, 1, 0]])}
    shapes = {"basic": (classes, depth), "shared": (classes, depth), "gate": (1, depth), "affinity": (depth, depth)}
    x |= {f"{name}.weight": draw.normal(size=shape) for name, shape in shapes.items()}
    x["basic.bias"] = draw.normal(size=classes)
    learned = ("image", "basic.weight", "basic.bias", "shared.weight", "gate.weight", "affinity.weight")
    results = {f"loss.{name}": np.array(value.real) for name, value in mcis_losses(x).items()}
    for name in learned:
        results[f"gradient.{name}"] = gradient(
            lambda moved, name=name: sum(mcis_losses(x | {name: moved}).values()), x[name]
        )
    maps = draw.normal(scale=2, size=(5, 2, 4, 4)) - np.array([0, 0, 0, 0, 6])[:, None, None, None]
    fused = np.zeros((2, 4, 4))
    for number, own in np.ndindex(5, 2):
        if number == 0 or sigmoid(maps[number, own].mean()) > 0.1:
            fused[own] += np.maximum(maps[number, own], 0) / maps[number, own].max() / 5
    attention, saliency = draw.random((2, 12, 12)) ** 2, draw.integers(0, 256, (12, 12)).astype(np.uint8)
    saliency[:4] = 0
    labels = saliency_labels(attention, saliency)
    return x | results | {"maps": maps, "fused": fused, "attention": attention, "saliency": saliency, "labels": labels}


def saliency_labels(attention: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """The published rule, pixel by pixel; the classes are 1 and 2."""
    labels = np.zeros(saliency.shape, np.uint8)
    stretched = [(m - m.min()) / (m.max() - m.min()) for m in attention]
    for place in np.ndindex(*saliency.shape):
        channels = [1 - saliency[place] / 255, *(m[place] for m in stretched)]
        channels = [value if value >= 0.3 else 0.0 for value in channels]
        label = int(np.argmax(channels))
        doubtful = saliency[place] >= 32 or max(m[place] for m in stretched) > 0.95
        if sum(value > 0.99 for value in channels) > 1 or (label == 0 and doubtful):
            label = 255
        labels[place] = label
    return labels


def dcsm(draw: np.random.Generator) -> Arrays:
    """Guided gradients of a convolution, a rectifier and a head; the subtraction of four classes; the aggregation."""
    x, first, head = draw.random((3, 5, 5)), draw.normal(size=(4, 3, 3, 3)), draw.normal(size=(2, 4))
    before = np.zeros((4, 3, 3))
    for c, i, j in np.ndindex(4, 3, 3):
        before[c, i, j] = (first[c] * x[:, i : i + 3, j : j + 3]).sum()
    guided = np.zeros((2, 3, 5, 5))
    for k, c, i, j in np.ndindex(2, 4, 3, 3):
        if before[c, i, j] > 0 and head[k, c] > 0:
            guided[k, :, i : i + 3, j : j + 3] += head[k, c] * first[c]
    saliency = draw.random((2, 4, 6, 6)) * np.array([1.0, 1, 1, 0.02])[:, None, None]
    total = np.zeros((4, 6, 6))
    for layer in saliency:
        for c, other in np.ndindex(4, 4):
            difference = layer[c] - layer[other]
            if c != other and difference.max() > 0:
                total[c] += np.maximum(np.tanh(3 * difference / difference.max()), 0)
    peaks = total.max((1, 2), keepdims=True)
    maps = np.tanh(3 * total / np.where(peaks > 0, peaks, 1))
    return {"x": x, "first": first, "head": head, "guided": guided, "saliency": saliency, "total": total, "maps": maps}


def wildcat(draw: np.random.Generator) -> Arrays:
    """The scores of two classes with three maps each, and the gradient of a weighted sum of them."""
    maps, weights = draw.normal(size=(2, 6, 4, 4)), draw.normal(size=(2, 2))
    found: Arrays = {"maps": maps, "weights": weights}
    for name, (half, scaled) in WILDCAT.items():

        def scores(x: np.ndarray, half: bool = half) -> np.ndarray:
            z = np.stack([x[:, :3].mean(1), x[:, 3:].mean(1)], 1).reshape(2, 2, 16)
            rising = np.take_along_axis(z, z.real.argsort(2), 2)
            k = round(0.2 * 16)
            return (rising[:, :, -k:].mean(2) + 0.7 * rising[:, :, :k].mean(2)) / (2 if half else 1)

        found[f"{name}.scores"] = scores(maps)
        found[f"{name}.gradient"] = gradient(lambda x: (scores(x) * weights).sum(), maps) * (3 if scaled else 1)
    return found


def references() -> Arrays:
    """All of them, under METHOD/NAME."""
    made = {"mcis": mcis, "dcsm": dcsm, "wildcat": wildcat}
    return {
        f"{method}/{name}": array
        for number, (method, make) in enumerate(made.items())
        for name, array in make(np.random.default_rng(number)).items()
    }


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **references())
