"""Confusion matrices and the figures made from them, against loops over pixels and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from wsss.errors import UserError
from wsss.scores import Masks, Scores, ThresholdSweep, bootstrap, confusion, mean_average_precision


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
    sweep = ThresholdSweep(classes=3, thresholds=10)
    images = [
        (
            draw.choice([0, 1, 2, 3, 255], (9, 11)).astype(np.uint8),
            draw.integers(1, 4, (9, 11)).astype(np.uint8),
            draw.choice(np.append(np.arange(101) / 100, -1.0), (9, 11)),
        )
        for _ in range(4)
    ]
    for image in images:
        sweep.add(*image)
    for threshold, matrix in zip(sweep.thresholds, sweep.matrices(), strict=True):
        slow = sum(
            slow_confusion(mask, np.where(score >= threshold - 1e-9, foreground, 0), 3)
            for mask, foreground, score in images
        )
        assert (matrix == slow).all()
    best, mean = sweep.best()
    assert mean == pytest.approx(max(Scores.of(m).miou for m in sweep.matrices()))
    assert best in sweep.thresholds


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
