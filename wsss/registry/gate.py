"""The gate: a candidate becomes champion when it is better than the champion on val, both measured here and now."""

from __future__ import annotations

from datetime import UTC, datetime

from wsss.data import Dataset
from wsss.errors import UserError
from wsss.evaluation import Masks
from wsss.registry.ledger import Look, entry
from wsss.registry.models import CHAMPION, PREVIOUS, Version, find, set_alias, with_alias
from wsss.serving.evaluate import Evaluation, evaluate_model
from wsss.serving.package import load_package

SPLIT = "val"


def promote(candidate: str, name: str, dataset: Dataset, force: str | None = None) -> Look:
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
    version = find(candidate, name)
    champion = with_alias(name, CHAMPION)
    if champion == version:
        raise UserError(f"{version} is the champion already")

    evaluations: dict[str, Evaluation] = {}
    if masked:
        contenders = {"candidate": version, "champion": champion}
        evaluations = {who: _evaluate(held, dataset) for who, held in contenders.items() if held}
    figures = {who: evaluation.scores.miou for who, evaluation in evaluations.items()}
    better = masked and (champion is None or figures["candidate"] > figures["champion"])
    look = Look(
        model=name,
        candidate=version.number,
        champion=champion.number if champion else "",
        promoted=better or bool(force),
        forced=force or "",
        dataset=dataset.name,
        split=SPLIT,
        masks=evaluations["candidate"].masks if masked else "",
        candidate_miou=figures.get("candidate"),
        champion_miou=figures.get("champion"),
        time=datetime.now(UTC),
    )
    with entry(look, evaluations):
        if look.promoted:
            if champion:
                set_alias(champion, PREVIOUS)
            set_alias(version, CHAMPION)
    return look


def sentence(look: Look) -> str:
    """What came of a look."""
    own = "not measured" if look.candidate_miou is None else f"{look.candidate_miou:.2%}"
    other = "not measured" if look.champion_miou is None else f"{look.champion_miou:.2%}"
    held = f"version {look.champion} has {other}" if look.champion else "there was none"
    figures = f"its mIoU on {look.dataset}/{look.split} is {own}; of the champion until now: {held}"
    if look.forced:
        return f"{look.model} version {look.candidate} is champion, by force ({look.forced}); {figures}"
    if look.promoted:
        return f"{look.model} version {look.candidate} is champion; {figures}"
    return f"{look.model} version {look.candidate} is not promoted, it is not better; {figures}"


def _evaluate(version: Version, dataset: Dataset) -> Evaluation:
    return evaluate_model(load_package(version.address), dataset, SPLIT)
