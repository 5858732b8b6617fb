"""What the gate asks of a candidate, figure by figure, and what comes of it; nothing is measured or written here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from wsss.registry.promotion import CANDIDATE_MIOU, CHAMPION_MIOU
from wsss.registry.rules import GateSettings, Rule, points
from wsss.scores import Evaluation
from wsss.scores.bootstrap import Difference, difference

NOT_BETTER = "it is not shown to be better"
"""How the sentence against a candidate begins that the comparison with the champion speaks against."""


class Check(NamedTuple):
    """One question of the gate, as people read it.

    Attributes:
        what: is looked at.
        candidate, champion: their figures; empty where there is none.
        asked: what the rule asks for.
        passed: whether the candidate gives it; None where nothing is asked.
    """

    what: str
    candidate: str
    champion: str
    asked: str
    passed: bool | None


@dataclass(frozen=True)
class Measured:
    """What was measured of a model.

    Attributes:
        evaluation: on the evaluation set.
        times: the milliseconds for each of some images, alone; float64 N, the same images for all.
        weights: bytes.
    """

    evaluation: Evaluation
    times: np.ndarray
    weights: int

    @property
    def latency(self) -> float:
        """The milliseconds for an image, the mean."""
        return float(self.times.mean())

    @property
    def miou(self) -> float:
        return self.evaluation.scores.miou


@dataclass(frozen=True)
class Verdict:
    """What came of a comparison.

    Attributes:
        checks: all of them.
        better: why the candidate may become champion; empty where it is neither better nor as good and cheaper.
        against: what the gate holds against it, a sentence each.
        metrics: the figures by name, for the record.
    """

    checks: Sequence[Check]
    better: str
    against: Sequence[str]
    metrics: Mapping[str, float]

    @property
    def promoted(self) -> bool:
        """Whether the candidate passes."""
        return not self.against

    @property
    def why(self) -> str:
        """The reason, as the ledger keeps it."""
        return "; ".join(self.against) or self.better


def judge(candidate: Measured, champion: Measured | None, rule: Rule, groups: Sequence[str] = ()) -> Verdict:
    """Compare a candidate with the champion on the same images.

    A candidate passes when the lower bound of the difference of their mean IoUs is above the margin and equal models
    would hardly give it, or when that bound is above minus the tolerance and it is faster or smaller by the gain; and
    when it keeps every floor and limit. A first model has to reach `first`, its floors and its limits.

    Args:
        candidate, champion: what was measured; no champion for a first model.
        rule: of the name.
        groups: of each image, where the bootstrap is to draw groups; empty where each is its own.
    """
    settings = rule.settings
    metrics = {CANDIDATE_MIOU: candidate.miou, "candidate/latency_ms": candidate.latency}
    metrics["candidate/weights_mb"] = candidate.weights / 1e6
    if champion is None:
        checks = [first_check(candidate.miou, settings)]
        enough = checks[0].passed
        better = "there was no champion" if enough else ""
        against = (
            [] if enough else [f"its mIoU of {points(candidate.miou)} is below the {settings.first:g} of a first model"]
        )
    else:
        ids = candidate.evaluation.ids, candidate.evaluation.masks
        assert ids == (champion.evaluation.ids, champion.evaluation.masks)
        found = difference(
            candidate.evaluation.matrices,
            champion.evaluation.matrices,
            groups=groups,
            classes=candidate.evaluation.indices,
            samples=settings.samples,
            confidence=settings.confidence,
        )
        metrics |= {
            CHAMPION_MIOU: champion.miou,
            "champion/latency_ms": champion.latency,
            "champion/weights_mb": champion.weights / 1e6,
            "difference/miou": found.value,
            "difference/low": found.low,
            "difference/high": found.high,
            "difference/chance": found.chance,
        }
        checks, better, against = _compared(candidate, champion, found, settings)
    for check, sentence in (*floor_checks(candidate, champion, rule), *limit_checks(candidate, champion, settings)):
        checks.append(check)
        if check.passed is False:
            against.append(sentence)
    return Verdict(checks, better, against, metrics)


def is_better(found: Difference, settings: GateSettings) -> bool:
    """Whether a difference is above the margin with the stated confidence, and not what equal models give."""
    return 100 * found.low > settings.margin and found.chance <= 1 - settings.confidence


def _compared(
    candidate: Measured, champion: Measured, found: Difference, settings: GateSettings
) -> tuple[list[Check], str, list[str]]:
    better = is_better(found, settings)
    as_good = 100 * found.low > -settings.tolerance
    # On each of the images: a busy machine makes one of two equal models slower now and then.
    faster = bool((candidate.times <= (1 - settings.gain) * champion.times).all())
    smaller = candidate.weights <= (1 - settings.gain) * champion.weights
    cheaper = [word for word, holds in (("faster", faster), ("smaller", smaller)) if holds]
    signed = [f"{100 * value:+.1f}" for value in (found.value, found.low)]
    checks = [
        Check("mIoU", points(candidate.miou), points(champion.miou), "", None),
        difference_check(found, settings, cheaper, better or (as_good and bool(cheaper))),
    ]
    if better:
        return checks, f"it is better by {signed[0]} points, at least {signed[1]}", []
    if as_good and cheaper:
        return checks, f"it is {' and '.join(cheaper)}, and at most {settings.tolerance:g} points worse", []
    sentence = f"{NOT_BETTER}: the difference is {signed[0]} points, its lower bound {signed[1]}"
    if cheaper:
        sentence += f", nor to be at most {settings.tolerance:g} points worse, being {' and '.join(cheaper)}"
    return checks, "", [sentence]


def first_check(miou: float, settings: GateSettings) -> Check:
    """What a first model is asked; `miou` in 0..1."""
    enough = bool(100 * miou >= settings.first)
    return Check("mIoU", points(miou), "", f"a first model: at least {settings.first:g}", enough)


def difference_check(found: Difference, settings: GateSettings, cheaper: Sequence[str], passed: bool) -> Check:
    """What is asked of the difference to the champion.

    Args:
        found: the difference.
        settings: the gate's.
        cheaper: "faster", "smaller", or both, where the candidate is.
        passed: what came of it.
    """
    bound = f"{settings.confidence:.1%}".replace(".0%", "%")
    asked = f"lower bound ({bound}) above {settings.margin:g}, chance at most {1 - settings.confidence:.3g}"
    if cheaper:
        asked += f"; or, being {' and '.join(cheaper)}, above -{settings.tolerance:g}"
    given = f"{100 * found.value:+.1f}, at least {100 * found.low:+.1f}, chance {found.chance:.3f}"
    return Check("difference", given, "", asked, passed)


def floor_checks(candidate: Measured, champion: Measured | None, rule: Rule) -> Iterator[tuple[Check, str]]:
    """What is asked of each class, and the sentence for a candidate that does not give it."""
    for index, name in enumerate(candidate.evaluation.classes):
        iou, floor = candidate.evaluation.scores.iou[index], rule.floor(name)
        other = points(champion.evaluation.scores.iou[index]) if champion else ""
        asked = bool(floor) and bool(np.isfinite(iou))
        check = Check(
            f"IoU {name}",
            points(iou),
            other,
            f"at least {floor:g}" if floor else "",
            bool(100 * iou >= floor) if asked else None,
        )
        yield check, f"its IoU of {points(iou)} for {name} is below the floor of {floor:g}"


def limit_checks(candidate: Measured, champion: Measured | None, settings: GateSettings) -> Iterator[tuple[Check, str]]:
    """What is asked of time and size, and the sentence for a candidate that does not give it."""
    rows = (
        (
            "time for an image, ms",
            candidate.latency,
            champion and champion.latency,
            settings.latency,
            "ms for an image",
        ),
        ("weights, MB", candidate.weights / 1e6, champion and champion.weights / 1e6, settings.size, "MB of weights"),
    )
    for what, value, other, limit, unit in rows:
        check = Check(
            what,
            f"{value:.1f}",
            f"{other:.1f}" if other is not None else "",
            f"at most {limit:g}" if limit is not None else "",
            value <= limit if limit is not None else None,
        )
        yield check, f"its {value:.1f} {unit} are above the limit of {limit or 0:g}"
