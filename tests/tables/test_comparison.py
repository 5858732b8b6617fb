"""Runs beside each other: each figure of the comparison is the one that its matrices give."""

from dataclasses import replace

import numpy as np
import pytest
from comparison_examples import compared, evaluation, record

from wsss.classes import BACKGROUND, VOC
from wsss.errors import UserError
from wsss.scores.bootstrap import bootstrap, paired_bootstrap
from wsss.tables.comparison import (
    compare,
    facts_that_differ,
    ladder,
    places,
    references,
    restricted,
    seconds,
    settings_that_differ,
)
from wsss.tracking.curves import POINTS, losses
from wsss.tracking.names import CORES, KIND, METHOD_RUN, MLFLOW_PARENT, STAGE, STAGE_RUN


def by_hand(matrices, index, measure):
    """Pixel by pixel of the summed matrix, as the definition says."""
    total = matrices.sum(0)
    hit = total[index, index]
    missed, false = total[index].sum() - hit, total[:, index].sum() - hit
    return {"iou": hit, "fp": false, "fn": missed}[measure] / (hit + missed + false)


@pytest.mark.parametrize("measure", ["iou", "fp", "fn"])
def test_figures_are_those_of_the_matrices(measure) -> None:
    found = {"a": evaluation(1), "b": evaluation(2)}
    comparison = compared(found)
    for run_id, of_run in found.items():
        expected = [by_hand(of_run.matrices, index, measure) for index in range(3)]
        assert comparison.figures(run_id, measure) == pytest.approx(expected)
        assert comparison.mean(run_id, measure) == pytest.approx(np.mean(expected))
        assert comparison.interval(run_id) == bootstrap(of_run.matrices) == of_run.interval


def test_a_better_run_is_above_the_base_and_the_base_below_it() -> None:
    found = {"base": evaluation(1), "better": evaluation(1, better=60)}
    comparison = compared(found)
    up, down = comparison.difference("better", "base"), comparison.difference("base", "better")
    assert up.value > 0 and up.low > 0 and (up.lows > 0).all()
    assert down.value == pytest.approx(-up.value)
    assert (down.low, down.high) == pytest.approx((-up.high, -up.low))
    assert (up.low, up.high) == paired_bootstrap(found["better"].matrices, found["base"].matrices)
    assert up.of_classes == pytest.approx(comparison.figures("better", "iou") - comparison.figures("base", "iou"))
    assert (up.lows <= up.of_classes).all() and (up.of_classes <= up.highs).all()
    assert up.images == 12


def test_only_images_that_both_have_with_the_same_mask_are_paired() -> None:
    of_base, of_other = evaluation(1), evaluation(2)
    matrices = of_other.matrices.copy()
    matrices[3, 0, 0] += 5
    some = replace(of_other, ids=of_other.ids[:6], matrices=matrices[:6])
    found = compared({"base": of_base, "other": some}).difference("other", "base")
    kept = [0, 1, 2, 4, 5]
    assert found.images == 5
    assert (found.low, found.high) == paired_bootstrap(of_other.matrices[kept], of_base.matrices[kept])
    elsewhere = replace(of_other, ids=tuple(f"other {id}" for id in of_other.ids))
    assert compared({"base": of_base, "other": elsewhere}).difference("other", "base") is None


def test_classes_that_differ_are_compared_over_those_they_share() -> None:
    found = {
        "a": evaluation(1, classes=("background", "cat", "dog", "cow")),
        "b": evaluation(2, classes=("background", "dog", "emu")),
    }
    comparison = compared(found)
    assert comparison.classes == ("background", "dog")
    assert comparison.left_out == ("cat", "cow", "emu")
    assert comparison.figures("a", "iou")[1] == pytest.approx(by_hand(found["a"].matrices, 2, "iou"))
    assert comparison.figures("b", "iou")[1] == pytest.approx(by_hand(found["b"].matrices, 1, "iou"))
    assert comparison.interval("a") == bootstrap(found["a"].matrices, classes=[0, 2])


def test_other_classes_as_one_leave_every_iou_what_it_was() -> None:
    matrices = evaluation(3, classes=tuple("abcde")).matrices
    kept = [3, 1]
    smaller = restricted(matrices, kept)
    assert smaller.shape == (12, 3, 3) and smaller.sum() == matrices.sum()
    for place, index in enumerate(kept):
        assert by_hand(smaller, place, "iou") == by_hand(matrices, index, "iou")


def test_what_can_not_be_read_is_said_and_the_rest_compared() -> None:
    runs = [
        record("whole"),
        record("gone"),
        record("running", figures={"train/cam": 0.4}, status="RUNNING"),
        record("labels", figures={"train/labels": 0.4}),
        record("no masks", metrics={}),
        record("away"),
    ]

    def read(run, split, what):
        if run.id == "away":
            raise UserError("the store is away")
        return evaluation(1) if run.id == "whole" else None

    comparison = compare(runs, "val", "pred_crf", read)
    assert set(comparison.evaluations) == {"whole"}
    assert "confusion/val/pred_crf.npz, is gone from its artifacts" in comparison.absent["gone"]
    assert "still going" in comparison.absent["running"]
    assert comparison.absent["labels"] == "It has no pred_crf on val; it has labels on train."
    assert comparison.absent["no masks"] == "It scored nothing: its dataset has no masks."
    assert comparison.absent["away"] == "the store is away."
    assert np.isnan(comparison.figures("gone", "iou")).all()
    assert comparison.difference("gone", "whole") is None


def test_published_rows_stand_beside_voc_classes_alone() -> None:
    runs = [record("a", method="affinity")]
    of_voc = compared({"a": evaluation(1, classes=(BACKGROUND, *VOC))}, runs)
    found = references(of_voc)
    assert found and {(each.method, each.split) for each in found} == {("affinity", "val")}
    assert references(compared({"a": evaluation(1)}, runs)) == []
    assert references(replace(of_voc, split="train")) == []
    assert references(replace(of_voc, what="labels_crf")) == []


def test_the_ladder_has_each_thing_that_was_scored_in_the_order_of_the_method() -> None:
    figures = {"val/pred_crf": 0.6, "train/labels_crf": 0.5, "train/cam": 0.4, "val/direct": 0.3}
    run = record("a", figures=figures)
    assert list(ladder(run).items()) == [
        (("train", "cam"), 0.4), (("train", "labels_crf"), 0.5), (("val", "direct"), 0.3), (("val", "pred_crf"), 0.6),
    ]  # fmt: skip
    assert places([run])[0] == ("val", "pred_crf")


def test_settings_and_facts_that_differ() -> None:
    runs = [
        record("a", params={"beta": "8", "t": "1"}, tags={CORES: "2"}),
        record("b", params={"beta": "4", "t": "1", "rounds": "3"}, tags={CORES: "4"}),
    ]
    assert settings_that_differ(runs) == {"beta": ["8", "4"], "rounds": ["", "3"]}
    assert facts_that_differ(runs) == {"cores": ["2", "4"]}


def test_seconds_come_in_the_order_of_the_stages() -> None:
    run = record("a", metrics={"time/segment.train_s": 3.0, "time/localize.train_s": 1.0, "time/refine.crf_s": 2.0})
    assert seconds([run]) == {"localize.train": [1.0], "refine.crf": [2.0], "segment.train": [3.0]}


def test_losses_are_read_of_each_stage_thinned_out_and_without_what_was_written_twice(store) -> None:
    from mlflow.entities import Metric

    run = store.create_run("0", tags={KIND: METHOD_RUN})
    tags = {KIND: STAGE_RUN, STAGE: "segment", MLFLOW_PARENT: run.info.run_id}
    stage = store.create_run("0", tags=tags).info.run_id
    store.log_batch(stage, [Metric("train/loss", 100 - step / 10, step, step) for step in range(900)])
    store.log_batch(stage, [Metric("train/loss", 7.0, 5000, 899), Metric("tags/map", 0.5, 1, 0)])
    (curve,) = losses(record(run.info.run_id))
    assert (curve.stage, curve.name) == ("segment", "train/loss")
    assert len(curve.steps) == len(curve.values) == POINTS
    assert (curve.steps[0], curve.values[0]) == (0, 100.0)
    assert (curve.steps[-1], curve.values[-1]) == (899, 7.0)
    assert list(curve.steps) == sorted(set(curve.steps))
