"""The gate's rule: what params.yaml may say, and what comes of figures; nothing is measured here."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wsss.classes import Classes
from wsss.errors import UserError
from wsss.registry.rules import GateSettings, Rule, read_groups, read_rule
from wsss.registry.verdict import Measured, Verdict, judge
from wsss.scores import Evaluation
from wsss.scores.bootstrap import difference

CLASSES = Classes(("cat", "dog"))


def matrices(shares: np.ndarray, pixels: int = 1000) -> np.ndarray:
    """Confusion matrices of images that show a class each, of which a share of the pixels is found."""
    result = np.zeros((len(shares), 3, 3), np.int64)
    for image, share in enumerate(shares):
        shown = 1 + image % 2
        result[image, 0, 0] = pixels
        result[image, shown, shown] = round(share * pixels)
        result[image, shown, 0] = pixels - round(share * pixels)
    return result


def measured(shares: np.ndarray, latency: float = 10.0, weights: int = 8_000_000) -> Measured:
    ids = tuple(map(str, range(len(shares))))
    names = ("background", "cat", "dog")
    return Measured(Evaluation("val", "m", ids, names, matrices(shares), "masks"), np.full(4, latency), weights)


RNG = np.random.default_rng(0)
SHARES = RNG.uniform(0.4, 0.8, 40)
BETTER = measured(np.clip(SHARES + RNG.normal(0.05, 0.02, 40), 0, 1))
EQUAL = measured(np.clip(SHARES + RNG.normal(0, 0.02, 40), 0, 1))
CHAMPION = measured(SHARES)


def rule(**settings) -> Rule:
    return Rule(GateSettings(**settings))


def failed(verdict: Verdict) -> list[str]:
    return [check.what for check in verdict.checks if check.passed is False]


def test_better_by_a_margin_with_confidence_is_promoted() -> None:
    verdict = judge(BETTER, CHAMPION, rule(margin=2.0))
    assert verdict.promoted and "it is better by" in verdict.why and not failed(verdict)
    low = 100 * verdict.metrics["difference/low"]
    assert 2 < low < 100 * verdict.metrics["difference/miou"]
    verdict = judge(BETTER, CHAMPION, rule(margin=low + 0.1))
    assert not verdict.promoted and failed(verdict) == ["difference"]
    assert "it is not shown to be better: the difference is +" in verdict.why


@pytest.mark.parametrize(
    ("change", "word"), [({"times": np.full(4, 7.0)}, "faster"), ({"weights": 6_000_000}, "smaller")]
)
def test_not_worse_by_a_margin_is_enough_where_it_is_faster_or_smaller(change, word: str) -> None:
    assert not judge(EQUAL, CHAMPION, rule()).promoted
    verdict = judge(replace(EQUAL, **change), CHAMPION, rule())
    assert verdict.promoted and word in verdict.why
    assert not judge(replace(EQUAL, **change), BETTER, rule()).promoted
    assert not judge(replace(EQUAL, **change), CHAMPION, rule(gain=0.5)).promoted


def test_one_image_on_which_it_is_not_faster_is_one_too_many() -> None:
    assert not judge(replace(EQUAL, times=np.array([7.0, 7.0, 9.0, 7.0])), CHAMPION, rule()).promoted


def test_floors_and_limits_are_kept_whatever_the_mean_says() -> None:
    for limits, what in [
        (Rule(GateSettings(), {"dog": 90.0}), "IoU dog"),
        (rule(floor=70.0), "IoU cat"),
        (rule(latency=9.0), "time for an image, ms"),
        (rule(size=7.5), "weights, MB"),
    ]:
        verdict = judge(BETTER, CHAMPION, limits)
        assert not verdict.promoted and what in failed(verdict), what
        assert ("below the floor" if "IoU" in what else "above the limit") in verdict.why
    assert judge(BETTER, CHAMPION, Rule(GateSettings(floor=70.0), {"cat": 40.0, "dog": 40.0})).promoted


def test_a_first_model_has_a_rule_of_its_own() -> None:
    assert judge(CHAMPION, None, rule()).why == "there was no champion"
    verdict = judge(CHAMPION, None, rule(first=90.0))
    assert not verdict.promoted and "below the 90 of a first model" in verdict.why
    assert not judge(CHAMPION, None, rule(floor=95.0)).promoted
    nothing = replace(CHAMPION, evaluation=replace(CHAMPION.evaluation, matrices=np.zeros((40, 3, 3), int)))
    assert math.isnan(nothing.miou) and not judge(nothing, None, rule()).promoted


def test_the_same_model_again_is_not_better() -> None:
    verdict = judge(CHAMPION, CHAMPION, rule())
    assert not verdict.promoted and verdict.metrics["difference/chance"] == 1.0


def test_groups_are_drawn_as_one() -> None:
    """Forty looks at four patients are four looks: the interval widens, and chance explains what forty would not."""
    shift = np.repeat(RNG.normal(0.05, 0.05, 4), 10)
    first, second = matrices(np.clip(SHARES + shift, 0, 1)), matrices(SHARES)
    alone, grouped = (
        difference(first, second, groups=groups) for groups in ((), [f"patient {i // 10}" for i in range(40)])
    )
    assert alone.value == pytest.approx(grouped.value)
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)
    assert alone.chance < 0.05 < grouped.chance


def test_the_rule_is_read_from_params(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    assert read_rule("wsss-pets", CLASSES, params) == Rule()
    params.write_text(
        "dataset: pets\ngate:\n  margin: 0.5\n  floors: {cat: 40}\n"
        "  names:\n    wsss-pets: {margin: 1, supervision: [tags, saliency], floors: {dog: 30}}\n",
        encoding="utf-8",
    )
    assert read_rule("wsss-other", CLASSES, params) == Rule(GateSettings(margin=0.5), {"cat": 40.0})
    own = read_rule("wsss-pets", CLASSES, params)
    assert own == Rule(GateSettings(margin=1.0, supervision=("tags", "saliency")), {"cat": 40.0, "dog": 30.0})
    assert own.content["floors"] == {"cat": 40.0, "dog": 30.0} and own.content["confidence"] == 0.95


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        (
            "{margn: 1}",
            "unknown setting in section gate of .*: 'margn'; choose from confidence, .*floors.*margin.*names",
        ),
        ("{margin: -1}", "gate.margin = -1.0 is out of range; allowed: 0 to 100 points of mIoU"),
        ("{confidence: much}", "gate.confidence = 'much' is not a valid float"),
        ("{floors: {cow: 3}}", "unknown class in gate.floors of .*: 'cow'; choose from background, cat, dog"),
        ("{floors: {cat: high}}", "gate.floors.cat = 'high'; allowed: 0 to 100 points of IoU"),
        ("{supervision: [masks]}", "gate.supervision = masks lacks tags"),
        ("[1]", r"gate is \[1\]; it has to be keys with values"),
        ("{names: {wsss-pets: {latncy: 3}}}", "unknown setting in section gate of .*: 'latncy'"),
        ("{", "params.yaml can't be read"),
    ],
)
def test_what_params_may_not_say(section: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(f"gate: {section}", encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        read_rule("wsss-pets", CLASSES, tmp_path / "params.yaml")


def test_groups_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "groups.csv"
    file.write_text("id,group\na,1\nb,1\nc,2\n", encoding="utf-8")
    assert read_groups(str(file), ["c", "a"]) == ["2", "1"]
    with pytest.raises(UserError, match="names no group for 1 images of the evaluation set, such as d"):
        read_groups(str(file), ["a", "d"])
    with pytest.raises(UserError, match=r"can't be read"):
        read_groups(str(tmp_path / "none.csv"), ["a"])
    file.write_text("image,patient\na,1\n", encoding="utf-8")
    with pytest.raises(UserError, match="has no column 'id'"):
        read_groups(str(file), ["a"])
