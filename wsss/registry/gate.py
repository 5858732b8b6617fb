"""The gate: a candidate becomes champion when it is better than the champion on val, both measured here and now."""

from __future__ import annotations

from datetime import UTC, datetime

from wsss.data import Dataset
from wsss.errors import UserError
from wsss.registry.ledger import PromotionRecord, entry
from wsss.registry.models import CHAMPION, PREVIOUS, ModelVersion, find_version, set_alias, with_alias
from wsss.scores import Evaluation, Masks
from wsss.serving.evaluate import evaluate_model
from wsss.serving.package import load_package

SPLIT = "val"


def promote(candidate: str, name: str, dataset: Dataset, force: str | None = None) -> PromotionRecord:
    """Compare a candidate with the champion; move the aliases if it is better, if there is no champion, or by force.

    The served models of both are run over the frozen val split, so that neither is judged by figures of another day,
    mask or code. The former champion keeps the alias `previous`. The look is in the ledger whatever comes of it.

    Args:
        candidate: a version's number or a run's id.
        name: the registered model.
        dataset: what both are compared on.
        force: why the candidate is promoted whatever the figures say.

    Raises:
        UserError: no such candidate, it is the champion already, its classes are not the dataset's, or there are no
            masks to compare with and no `force`.
    """
    if force is not None and not force.strip():
        raise UserError("a forced promotion needs a reason: --force WHY")
    masked = bool(Masks(dataset).ids(SPLIT))
    if not masked and not force:
        raise UserError(
            f"dataset {dataset.name} has no masks for its split {SPLIT}, so no figure can say that the candidate is "
            "better; to promote it all the same give a reason: --force WHY"
        )
    version = find_version(candidate, name)
    champion = with_alias(name, CHAMPION)
    if champion == version:
        raise UserError(f"{version} is the champion already")

    evaluations: dict[str, Evaluation] = {}
    if masked:
        contenders = {"candidate": version, "champion": champion}
        evaluations = {who: _evaluate(held, dataset) for who, held in contenders.items() if held}
    mious = {who: evaluation.scores.miou for who, evaluation in evaluations.items()}
    better = masked and (champion is None or mious["candidate"] > mious["champion"])
    record = PromotionRecord(
        model=name,
        candidate=version.number,
        champion=champion.number if champion else "",
        promoted=better or bool(force),
        forced=force or "",
        dataset=dataset.name,
        split=SPLIT,
        masks=evaluations["candidate"].masks if masked else "",
        candidate_miou=mious.get("candidate"),
        champion_miou=mious.get("champion"),
        time=datetime.now(UTC),
    )
    with entry(record, evaluations):
        if record.promoted:
            if champion:
                set_alias(champion, PREVIOUS)
            set_alias(version, CHAMPION)
    return record


def sentence(record: PromotionRecord) -> str:
    """What came of a record."""
    own = "not measured" if record.candidate_miou is None else f"{record.candidate_miou:.2%}"
    other = "not measured" if record.champion_miou is None else f"{record.champion_miou:.2%}"
    held = f"version {record.champion} has {other}" if record.champion else "there was none"
    figures = f"its mIoU on {record.dataset}/{record.split} is {own}; of the champion until now: {held}"
    if record.forced:
        return f"{record.model} version {record.candidate} is champion, by force ({record.forced}); {figures}"
    if record.promoted:
        return f"{record.model} version {record.candidate} is champion; {figures}"
    return f"{record.model} version {record.candidate} is not promoted, it is not better; {figures}"


def _evaluate(version: ModelVersion, dataset: Dataset) -> Evaluation:
    return evaluate_model(load_package(version.address), dataset, SPLIT)
