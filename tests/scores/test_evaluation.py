"""Confusion matrices and the figures made from them, against loops over pixels and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from wsss.errors import UserError
from wsss.scores import (
    Evaluation,
    Masks,
    Scores,
    ThresholdSweep,
    bootstrap,
    confusion,
    levels_of,
    mean_average_precision,
)
from wsss.scores.evaluation import decode, encode


def slow_confusion(mask: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    for truth, guess in zip(mask.ravel(), prediction.ravel(), strict=True):
        if truth <= classes:
            matrix[truth, 0 if guess == 255 else guess] += 1
    return matrix


@pytest.mark.parametrize("classes", [1, 20, 60, 254])
def test_confusion_equals_a_loop_over_pixels(classes: int) -> None:
    draw = np.random.default_rng(classes)
    values = np.array([*range(classes + 1), 255])
    mask, prediction = (draw.choice(values, (37, 23)).astype(np.uint8) for _ in range(2))
    assert (confusion(mask, prediction, classes) == slow_confusion(mask, prediction, classes)).all()


def test_ignored_truth_is_left_out_and_an_open_prediction_counts_as_background() -> None:
    mask = np.array([[0, 1, 255, 1]], dtype=np.uint8)
    prediction = np.array([[255, 255, 1, 1]], dtype=np.uint8)
    assert confusion(mask, prediction, 1).tolist() == [[1, 0], [1, 1]]


def test_a_prediction_of_another_size_is_refused() -> None:
    with pytest.raises(UserError, match="2 x 3 px, its mask 3 x 2 px"):
        confusion(np.zeros((3, 2), np.uint8), np.zeros((2, 3), np.uint8), 1)


def test_a_prediction_that_is_no_class_is_refused() -> None:
    with pytest.raises(UserError, match=r"neither a class \(0\.\.1\) nor 255"):
        confusion(np.zeros((1, 1), np.uint8), np.full((1, 1), 7, np.uint8), 1)


def test_scores_worked_by_hand() -> None:
    # Class 1: 3 of 4 pixels found, 1 of the background's taken; class 2 does not occur.
    scores = Scores.of(np.array([[5, 1, 0], [1, 3, 0], [0, 0, 0]]))
    assert scores.iou[:2] == pytest.approx([5 / 7, 3 / 5])
    assert np.isnan(scores.iou[2])
    assert scores.fp[:2] == pytest.approx([1 / 7, 1 / 5])
    assert scores.fn[:2] == pytest.approx([1 / 7, 1 / 5])
    assert scores.miou == pytest.approx((5 / 7 + 3 / 5) / 2)
    assert scores.pixel_accuracy == pytest.approx(8 / 10)


def test_the_mean_is_over_the_whole_split_not_over_images() -> None:
    one, two = np.array([[0, 0], [0, 100]]), np.array([[0, 1], [0, 0]])
    assert Scores.of(one + two).iou[1] == pytest.approx(100 / 101)


def test_the_bootstrap_interval_holds_the_mean_and_shrinks_with_images() -> None:
    draw = np.random.default_rng(0)
    few, many = (draw.integers(1, 20, (n, 3, 3)) + 40 * np.eye(3, dtype=int) for n in (10, 1000))
    for matrices in (few, many):
        low, high = bootstrap(matrices)
        assert low < Scores.of(matrices.sum(0)).miou < high
    assert np.diff(bootstrap(many))[0] < np.diff(bootstrap(few))[0] / 5


def test_the_bootstrap_over_some_classes_is_theirs() -> None:
    matrices = np.array([[[10, 0], [10, 10]], [[10, 0], [10, 10]]])
    assert bootstrap(matrices, classes=[1]) == pytest.approx((0.5, 0.5))


def test_the_sweep_equals_labelling_at_each_threshold() -> None:
    draw = np.random.default_rng(1)
    sweep = ThresholdSweep(classes=3)
    images = [
        (
            draw.choice([0, 1, 2, 3, 255], (9, 11)).astype(np.uint8),
            draw.integers(1, 4, (9, 11)).astype(np.uint8),
            draw.choice(np.append(np.arange(101) / 100, -1.0), (9, 11)),
        )
        for _ in range(4)
    ]
    for image in images:
        sweep.add(levels_of(*image, 3))
    for threshold, matrix in zip(sweep.thresholds, sweep.matrices(), strict=True):
        slow = sum(
            slow_confusion(mask, np.where(score >= threshold - 1e-9, foreground, 0), 3)
            for mask, foreground, score in images
        )
        assert (matrix == slow).all()
    best, mean = sweep.best()
    assert mean == pytest.approx(max(Scores.of(m).miou for m in sweep.matrices()))
    assert best in sweep.thresholds
    some = [Scores.of(m).iou[[1, 2]].mean() for m in sweep.matrices()]
    assert sweep.best([1, 2]) == (sweep.thresholds[int(np.argmax(some))], pytest.approx(max(some)))


def test_an_evaluation_of_score_maps_is_known_at_every_threshold_and_after_it_was_kept() -> None:
    """Class 1 is sure of itself and class 2 is not: each has a threshold of its own, and both together a third."""
    mask = np.array([[0, 0, 1, 1, 2, 2, 0, 255]], np.uint8)
    best = np.array([[1, 1, 1, 1, 2, 2, 2, 2]], np.uint8)
    score = np.array([[0.55, 0.5, 0.9, 0.8, 0.35, 0.3, 0.1, 1.0]])
    levels = levels_of(mask, best, score, 2)
    assert levels[:, 3].sum() == 7
    both = np.concatenate([np.insert(levels, 0, number, axis=1) for number in (0, 1)])
    at_all = np.stack([confusion(mask, np.where(score >= 0.3, best, 0).astype(np.uint8), 2)] * 2)
    kept = Evaluation("dev", "cam", ("a", "b"), ("background", "x", "y"), at_all.astype(np.int32), levels=both)
    found = decode(encode(kept), "here")
    assert np.array_equal(found.levels, both)
    assert np.array_equal(found.at(0.3).matrices, at_all)
    for classes in ([1], [2], None):
        chosen = found.at(found.best_threshold(classes))
        iou = chosen.scores.iou if classes is None else chosen.scores.iou[classes]
        others = [found.at(step / 100).scores.iou for step in range(101)]
        assert iou.mean() == pytest.approx(max(o.mean() if classes is None else o[classes].mean() for o in others))
    assert found.best_threshold([1]) > 0.55 and found.best_threshold([2]) <= 0.3
    plain = Evaluation("dev", "labels", ("a",), ("background", "x", "y"), at_all[:1])
    assert decode(encode(plain), "here").levels.shape == (0, 5)


def test_average_precision_worked_by_hand() -> None:
    # Ranks of the positives: 1 and 3, so (1/1 + 2/3) / 2; the second class has no positive and does not count.
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    tags = np.array([[True, False], [False, False], [True, False]])
    assert mean_average_precision(scores, tags) == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(mean_average_precision(scores[:, 1:], tags[:, 1:]))


def test_masks_are_found_by_split_and_change_their_digest(tiny_shapes) -> None:
    masks = Masks(tiny_shapes)
    assert masks.ids("val") == tiny_shapes.splits["val"]
    mask = masks.read(tiny_shapes.splits["val"][0])
    assert mask.shape == tiny_shapes.size(tiny_shapes.splits["val"][0])
    assert set(np.unique(mask)) <= {0, 1, 2, 3, 255}
    assert masks.digest("val") != masks.digest("dev")
    with pytest.raises(UserError, match="has no mask"):
        masks.read("nothing")


def test_an_interval_holds_its_mean_where_classes_are_rare_and_hard() -> None:
    """Draws that lack a class whose IoU is 0 have higher means; the interval is about the mean all the same."""
    matrices = np.zeros((10, 11, 11), int)
    matrices[:, 0, 0] = 90
    for image in range(10):
        matrices[image, image + 1, 0] = 10  # each image has a class of its own, taken for background
    low, high = bootstrap(matrices)
    assert low < Scores.of(matrices.sum(0)).miou < high
