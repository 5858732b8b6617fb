"""The gate: a candidate becomes champion when it is better than the champion on val, both measured here and now."""

from __future__ import annotations

from wsss.commands import command
from wsss.data import Dataset
from wsss.errors import UserError
from wsss.registry.ledger import (
    CANDIDATE_MIOU,
    CHAMPION_MIOU,
    FORCED,
    PROMOTION,
    REFUSAL,
    Ledger,
    PromotionRecord,
    signed,
)
from wsss.registry.models import ModelVersion, default_name, find_version, supervision_of_run
from wsss.registry.standing import settle
from wsss.scores import Evaluation, Masks
from wsss.serving.evaluate import evaluate_model
from wsss.serving.package import load_package
from wsss.serving.segmenter import Segmenter

SPLIT = "val"


def promote(candidate: str, name: str, dataset: Dataset, force: str | None = None) -> PromotionRecord:
    """Compare a candidate with the champion; make it champion if it is better, if there is none, or by force.

    The served models of both are run over the frozen val split, so that neither is judged by figures of another day,
    mask or code. The look is in the ledger whatever comes of it; the record is the decision, and the aliases
    `champion` and `previous` follow it.

    Args:
        candidate: a version's number or a run's id.
        name: the registered model.
        dataset: what both are compared on.
        force: why the candidate is promoted whatever the figures say, and where there are none.

    Raises:
        UserError: no such candidate, it can't be loaded or is the champion already; another became champion meanwhile;
            and without `force`: one of both can't be measured, or the candidate's supervision is not the name's.
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
    ledger = Ledger(name)
    champion = settle(ledger, take_over=True).champion
    if champion == version.number:
        raise UserError(f"{version} is the champion already")
    if not force:
        _check_supervision(version, champion, dataset)
    model = load_package(version.address)
    evaluations: dict[str, Evaluation] = {}
    try:
        if masked:
            evaluations["candidate"] = evaluate_model(model, dataset, SPLIT)
            if champion:
                evaluations["champion"] = evaluate_model(_load(name, champion), dataset, SPLIT)
    except UserError as error:
        if not force:
            raise UserError(
                f"nothing says that {version} is better: {error}; to promote it all the same give a reason: --force WHY"
            ) from None
    kind, why = FORCED, force or ""
    if not force:
        mious = {who: evaluation.scores.miou for who, evaluation in evaluations.items()}
        better = not champion or mious["candidate"] > mious["champion"]
        kind = PROMOTION if better else REFUSAL
        why = "it is better" if better and champion else "there was no champion" if better else "it is not better"
    record = PromotionRecord(
        model=name,
        kind=kind,
        candidate=version.number,
        from_=champion,
        to=champion if kind == REFUSAL else version.number,
        why=why,
        dataset=dataset.name,
        split=SPLIT,
        masks=Masks(dataset).digest_of(Masks(dataset).ids(SPLIT)) if evaluations else "",
        metrics={f"{who}/miou": evaluation.scores.miou for who, evaluation in evaluations.items()},
        evaluations=ledger.keep(evaluations),
    )
    record = ledger.append(signed(record))
    settle(ledger)
    return record


def sentence(record: PromotionRecord) -> str:
    """What came of a record."""
    own, other = (_percent(record.metrics.get(metric)) for metric in (CANDIDATE_MIOU, CHAMPION_MIOU))
    held = f"version {record.from_} has {other}" if record.from_ else "there was none"
    figures = f"its mIoU on {record.dataset}/{record.split} is {own}; of the champion until now: {held}"
    if record.kind == FORCED:
        return f"{record.model} version {record.candidate} is champion, by force ({record.why}); {figures}"
    if record.promoted:
        return f"{record.model} version {record.candidate} is champion; {figures}"
    return f"{record.model} version {record.candidate} is not promoted, {record.why}; {figures}"


def _percent(miou: float | None) -> str:
    return "not measured" if miou is None else f"{miou:.2%}"


def _load(name: str, number: str) -> Segmenter:
    return load_package(f"models:/{name}/{number}")


def _check_supervision(version: ModelVersion, champion: str, dataset: Dataset) -> None:
    """Refuse a candidate that has seen something else than the models of its name.

    A default name says itself what its models have seen; any other is held to its champion.
    """
    seen = supervision_of_run(version.run) if version.run else None
    proper = default_name(dataset.name, seen or ())
    tags = default_name(dataset.name)
    if version.name == tags or version.name.startswith(f"{tags}-"):
        fits = version.name == proper
    else:
        fits = not champion or _supervision(version.name, champion) == seen
    if seen is not None and fits:
        return
    words = "it is not known what its run saw" if seen is None else f"it saw {', '.join(['tags', *sorted(seen)])}"
    raise UserError(
        f"{version} can't stand beside the models of {version.name}, {words}; promote its run under {proper} "
        f"({command('wsss', 'promote', version.run or 'RUN', '--name', proper)}), or give a reason: --force WHY"
    )


def _supervision(name: str, number: str) -> frozenset[str] | None:
    run = find_version(number, name).run
    return supervision_of_run(run) if run else None
