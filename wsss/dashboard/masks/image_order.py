"""In which order the page Masks lists images, and which figures stand beside each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from wsss.errors import UserError
from wsss.scores.confusion import Scores
from wsss.scores.evaluation import Evaluation
from wsss.tracking import maps

WORST, DISAGREE, NAME = "worst", "disagree", "name"
SORTS = {WORST: "worst first", DISAGREE: "most disagreement", NAME: "name"}
NONE = "–"


@dataclass(frozen=True)
class Ordered:
    """Images in order.

    Attributes:
        columns: the heads of the figures.
        images: each id with a figure, as text, for each column.
        meaning: what the figures are, a sentence.
    """

    columns: tuple[str, ...]
    images: tuple[tuple[str, tuple[str, ...]], ...]
    meaning: str


def by_name(ids: Sequence[str]) -> Ordered:
    """Without any figures."""
    return Ordered((), tuple((image_id, ()) for image_id in sorted(ids)), "")


def by_score(ids: Sequence[str], evaluations: Mapping[str, Evaluation], sort: str) -> Ordered:
    """By the mean over the runs of each image's mIoU, or of one class's IoU, the worst first, or by name.

    Args:
        ids: the images.
        evaluations: of each run, by the head of its column.
        sort: "worst", "name" or the name of a class; images without the class come last.
    """
    of_class = sort not in SORTS
    columns = {head: _scores(evaluation, ids, sort if of_class else "") for head, evaluation in evaluations.items()}
    table = np.array([[column.get(image_id, np.nan) for column in columns.values()] for image_id in ids])
    means = [float(row[~np.isnan(row)].mean()) if (~np.isnan(row)).any() else np.inf for row in table]
    order = sorted(range(len(ids)), key=lambda n: ids[n] if sort == NAME else (means[n], ids[n]))
    images = tuple((ids[n], tuple(_percent(value) for value in table[n])) for n in order)
    what = next(iter(evaluations.values())).what
    figure = f"IoU of {sort}" if of_class else "mIoU"
    return Ordered(tuple(columns), images, f"The figures are each image's {figure} in %, of {what}.")


def by_confusion(ids: Sequence[str], evaluations: Mapping[str, Evaluation], truth: str, taken: str) -> Ordered:
    """By how many pixels of one class were taken for another, the most first; only images where that happened."""
    counts = {head: _confused(evaluation, truth, taken) for head, evaluation in evaluations.items()}
    rows = {image_id: [column.get(image_id, 0) for column in counts.values()] for image_id in ids}
    order = sorted((image_id for image_id in ids if sum(rows[image_id])), key=lambda i: (-sum(rows[i]), i))
    images = tuple((image_id, tuple(f"{count:,}" for count in rows[image_id])) for image_id in order)
    meaning = (
        f"The figures are pixels of {truth} that were taken for {taken}, in {len(order)} of the {len(ids)} images."
    )
    return Ordered(tuple(counts), images, meaning)


def by_disagreement(ids: Sequence[str], shown: tuple[tuple[str, str], ...]) -> Ordered:
    """By the share of pixels about which label maps differ, the largest first.

    Args:
        ids: the images.
        shown: run and what of each label map, at least two.
    """
    shares = {image_id: _disagreement(shown, image_id) for image_id in ids}
    order = sorted(ids, key=lambda i: (-1.0 if np.isnan(shares[i]) else -shares[i] - 2, i))
    images = tuple((image_id, (_percent(shares[image_id]),)) for image_id in order)
    return Ordered(("differ",), images, "The figures are the share of pixels, in %, about which the maps differ.")


def confusions(ids: Sequence[str], evaluations: Sequence[Evaluation], most: int = 30) -> list[tuple[str, str, int]]:
    """The truth, what it was taken for, and in how many pixels of the images over all runs; the most frequent first."""
    total: dict[tuple[str, str], int] = {}
    for evaluation in evaluations:
        wanted = set(ids)
        rows = [number for number, image_id in enumerate(evaluation.ids) if image_id in wanted]
        matrix = evaluation.matrices[rows].sum(0, dtype=np.int64)
        np.fill_diagonal(matrix, 0)
        for truth, taken in np.argwhere(matrix):
            pair = evaluation.classes[truth], evaluation.classes[taken]
            total[pair] = total.get(pair, 0) + int(matrix[truth, taken])
    return [(*pair, count) for pair, count in sorted(total.items(), key=lambda item: (-item[1], item[0]))[:most]]


def pair_of(text: str, classes: Sequence[str]) -> tuple[str, str] | None:
    """Truth and prediction of "TRUTH:PREDICTED", whose names may hold colons; None where they are no classes."""
    cuts = [place for place, letter in enumerate(text) if letter == ":"]
    pairs = ((text[:cut], text[cut + 1 :]) for cut in cuts)
    return next((pair for pair in pairs if pair[0] in classes and pair[1] in classes), None)


def _scores(evaluation: Evaluation, ids: Sequence[str], name: str) -> dict[str, float]:
    """Of each image the IoU of a class, or without a name the mIoU; NaN where the class does not occur."""
    rows = {image_id: number for number, image_id in enumerate(evaluation.ids)}
    if name and name not in evaluation.classes:
        return {}
    scores = {image_id: Scores.of(evaluation.matrices[rows[image_id]]) for image_id in ids if image_id in rows}
    place = evaluation.classes.index(name) if name else 0
    return {image_id: float(found.iou[place]) if name else found.miou for image_id, found in scores.items()}


def _confused(evaluation: Evaluation, truth: str, taken: str) -> dict[str, int]:
    if truth not in evaluation.classes or taken not in evaluation.classes:
        return {}
    counts = evaluation.matrices[:, evaluation.classes.index(truth), evaluation.classes.index(taken)]
    return dict(zip(evaluation.ids, counts.tolist(), strict=True))


@lru_cache(maxsize=4096)
def _disagreement(shown: tuple[tuple[str, str], ...], image_id: str) -> float:
    """NaN where fewer than two maps of one size are there."""
    found = [maps.read(run, what) for run, what in shown]
    try:
        labels = [read.labels(image_id) for read in found if image_id in read.images]
    except UserError:
        return float("nan")
    alike = [each for each in labels if each.shape == labels[0].shape]
    if len(alike) < 2:
        return float("nan")
    return float(np.any([each != alike[0] for each in alike[1:]], axis=0).mean())


def _percent(value: float) -> str:
    return NONE if np.isnan(value) else f"{100 * value:.1f}"
