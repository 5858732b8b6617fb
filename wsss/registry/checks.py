"""What the gate asked of a candidate at the time, from the ledger alone: nothing is measured anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import numpy as np

from wsss.registry.ledger import Ledger
from wsss.registry.promotion import CANDIDATE_MIOU, CHAMPION_MIOU, PromotionRecord
from wsss.registry.rules import GateSettings, Rule, points
from wsss.registry.verdict import (
    NOT_BETTER,
    Check,
    Measured,
    difference_check,
    first_check,
    floor_checks,
    is_better,
    limit_checks,
)
from wsss.scores.bootstrap import Difference
from wsss.scores.evaluation import Evaluation, decode
from wsss.storage import read_bytes


def checks_of(record: PromotionRecord, ledger: Ledger) -> list[Check]:
    """The gate's questions of a record with what was given, as a promotion prints them.

    Figures are those of the record; classes are read from the evaluations beside it, and left out where these are gone.
    Nothing for a record without a look at the masks.

    Args:
        record: of the ledger.
        ledger: it stands in.

    Raises:
        UserError: an evaluation is damaged.
    """
    metrics = record.metrics
    if CANDIDATE_MIOU not in metrics:
        return []
    rule, compared = _rule(record), CHAMPION_MIOU in metrics
    if not compared:
        checks = [first_check(metrics[CANDIDATE_MIOU], rule.settings)]
    else:
        checks = [Check("mIoU", points(metrics[CANDIDATE_MIOU]), points(metrics[CHAMPION_MIOU]), "", None)]
        if found := difference_of(record):
            passed = not any(sentence.startswith(NOT_BETTER) for sentence in record.against)
            cheap = [word for word in ("faster", "smaller") if word in record.why]
            cheaper = cheap if passed and not is_better(found, rule.settings) else []
            checks.append(difference_check(found, rule.settings, cheaper, passed))
    candidate = _measured("candidate", metrics, _evaluation(record, "candidate", ledger))
    champion = _measured("champion", metrics, _evaluation(record, "champion", ledger)) if compared else None
    if candidate is None:
        return checks
    if candidate.evaluation.classes and (champion is None or champion.evaluation.classes):
        checks += [check for check, _ in floor_checks(candidate, champion, rule)]
    return checks + [check for check, _ in limit_checks(candidate, champion, rule.settings)]


def difference_of(record: PromotionRecord) -> Difference | None:
    """The difference of the mean IoUs that a record has, candidate less champion; None where it has none."""
    names = ("difference/miou", "difference/low", "difference/high", "difference/chance")
    if any(name not in record.metrics for name in names):
        return None
    return Difference(*(float(record.metrics[name]) for name in names))


def _rule(record: PromotionRecord) -> Rule:
    known = {field.name for field in fields(GateSettings)}
    settings = {key: value for key, value in record.rule.items() if key in known}
    return Rule(GateSettings(**settings), dict(record.rule.get("floors", {})))


def _evaluation(record: PromotionRecord, who: str, ledger: Ledger) -> Evaluation:
    sha256 = record.evaluations.get(who, "")
    try:
        url = ledger.evaluation(sha256)
        if sha256:
            return decode(read_bytes(url), url)
    except FileNotFoundError:
        pass
    return Evaluation(record.split, "", (), (), np.zeros((0, 0, 0), np.int64))


def _measured(who: str, metrics: Mapping[str, float], evaluation: Evaluation) -> Measured | None:
    """What a record has of a model; None where it has neither its time nor its size (format 1)."""
    latency, weights = metrics.get(f"{who}/latency_ms"), metrics.get(f"{who}/weights_mb")
    if latency is None or weights is None:
        return None
    return Measured(evaluation, np.array([latency]), round(1e6 * weights))
