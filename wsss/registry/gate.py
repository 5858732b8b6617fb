"""The gate: a candidate becomes champion when the name's rule says so, both measured here and now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from wsss.data import Dataset
from wsss.errors import UserError
from wsss.registry.ledger import Ledger
from wsss.registry.lineage import unseen
from wsss.registry.measure import measure
from wsss.registry.models import ModelVersion, find_version, promoted_copy
from wsss.registry.packages import PackageFiles, package_files
from wsss.registry.promotion import (
    CANDIDATE_MIOU,
    CHALLENGE,
    CHAMPION_MIOU,
    FORCED,
    PROMOTION,
    REFUSAL,
    PromotionRecord,
    signed,
)
from wsss.registry.rules import Rule, read_groups, read_rule
from wsss.registry.standing import Standing, enter_name, read, settle
from wsss.registry.supervision import allowed_supervision
from wsss.registry.verdict import Check, Measured, Verdict, judge
from wsss.scores import Masks
from wsss.serving.package import load_package
from wsss.serving.segmenter import Segmenter

SPLIT = "val"


@dataclass(frozen=True)
class Look:
    """What came of asking for a promotion.

    Attributes:
        record: as it stands in the ledger; after a dry run, as it would.
        checks: what was asked, before and after measuring.
        changed: what differs from the evaluation set of the champion's promotion; empty where nothing does.
    """

    record: PromotionRecord
    checks: Sequence[Check]
    changed: str = ""


def promote(
    candidate: str,
    name: str,
    dataset: Dataset,
    force: str | None = None,
    dry_run: bool = False,
    why: str = "",
    through: str = "",
) -> Look:
    """Compare a candidate with the champion by the rule of the name; make it champion if it passes, or by force.

    The packaged models of both are run over the evaluation set, the dataset's val images with a mask, so that neither
    is judged by figures of another day, mask or code. The look is in the ledger whatever comes of it; the record is the
    decision, and the aliases follow it. What a candidate has to be before anybody looks (known classes, allowed
    supervision, no evaluation image among what it learnt from) is an error without a look.

    Args:
        candidate: as `find_version` takes it.
        name: the registered model.
        dataset: what both are compared on.
        force: why the candidate is promoted whatever the gate says.
        dry_run: write nothing: neither versions nor records nor aliases.
        why: it was asked for; stands in the record behind what the gate says. By force, the force's reason is all.
        through: what it was asked through, as in `signed`.

    Raises:
        UserError: no such candidate, it can't be loaded or is the champion already; another became champion meanwhile;
            and without `force`: no masks, or it fails one of the conditions above.
    """
    if force is not None and not force.strip():
        raise UserError("a forced promotion needs a reason: --force WHY")
    rule = read_rule(name, dataset.classes)
    ids = Masks(dataset).ids(SPLIT)
    if not ids and not force:
        raise UserError(
            f"dataset {dataset.name} has no masks for its split {SPLIT}, so no figure can say that the candidate is "
            "better; to promote it all the same give a reason: --force WHY"
        )
    version = find_version(candidate, name, enter=not dry_run)
    ledger = Ledger(name)
    standing = _begin(ledger, dry_run)
    champion = standing.champion
    present = promoted_copy(version, name, enter=False)
    if present and present.number == champion:
        raise UserError(f"{version} is the champion already")
    model, files = load_package(version.address), package_files(version.address)
    checks, against = _conditions(version, name, standing, dataset, ids, rule)
    if against and not force:
        raise UserError(f"{version} is no candidate of {name}: {'; '.join(against)}; or give a reason: --force WHY")
    measured: dict[str, Measured] = {}
    verdict = Verdict((), "", ("nothing could be measured",), {})
    try:
        if ids:
            groups = read_groups(rule.settings.groups, ids) if rule.settings.groups else dataset.groups_of(ids)
            measured = _measure(model, files, name, champion, dataset)
            verdict = judge(measured["candidate"], measured.get("champion"), rule, groups)
    except UserError as error:
        if not force:
            raise UserError(
                f"nothing says that {version} is better: {error}; to promote it all the same give a reason: --force WHY"
            ) from None
        verdict = replace(verdict, against=(str(error),))
    kind = FORCED if force else PROMOTION if verdict.promoted else REFUSAL
    masks = Masks(dataset).digest_of(ids) if measured else ""
    record = PromotionRecord(
        model=name,
        kind=kind,
        candidate=_asked(version, name),
        from_=champion,
        to=champion,
        why=force or "; asked for because: ".join(filter(None, (verdict.why, why))),
        dataset=dataset.name,
        split=SPLIT,
        masks=masks,
        metrics=verdict.metrics,
        package=files.sha256,
        looks=ledger.looks(masks) + 1 if measured else 0,
        rule=rule.content,
        against=(*against, *verdict.against),
    )
    look = Look(signed(record, through), (*checks, *verdict.checks), _changed(standing, masks))
    if dry_run:
        return look
    kept = ledger.keep({who: each.evaluation for who, each in measured.items()})
    to = champion if kind == REFUSAL else _entered(version, name).number
    appended = ledger.append(replace(look.record, to=to, evaluations=kept))
    settle(ledger)
    return replace(look, record=appended)


def challenge(candidate: str, name: str, dataset: Dataset, why: str = "") -> PromotionRecord:
    """Make a candidate the challenger, which a server may ask beside the champion; nobody looks at the masks.

    Args:
        candidate, name: as in `promote`.
        dataset: whose classes it has to know.
        why: for the ledger.

    Raises:
        UserError: as `promote` without a look.
    """
    rule = read_rule(name, dataset.classes)
    version = find_version(candidate, name)
    ledger = Ledger(name)
    standing = _begin(ledger)
    model, files = load_package(version.address), package_files(version.address)
    _, against = _conditions(version, name, standing, dataset, Masks(dataset).ids(SPLIT), rule)
    if model.classes != dataset.classes:
        against.append(f"it knows other classes than dataset {dataset.name}")
    if against:
        raise UserError(f"{version} can't be the challenger of {name}: {'; '.join(against)}")
    number = _entered(version, name).number
    if number == standing.champion:
        raise UserError(f"{version} is the champion already")
    asked = _asked(version, name)
    record = PromotionRecord(name, CHALLENGE, asked, "", "", why, dataset.name, challenger=number, package=files.sha256)
    record = ledger.append(signed(record))
    settle(ledger)
    return record


def sentence(record: PromotionRecord, dry_run: bool = False) -> str:
    """What came of a record, or would have come of it."""
    own, other = (_percent(record.metrics.get(metric)) for metric in (CANDIDATE_MIOU, CHAMPION_MIOU))
    held = f"version {record.from_} has {other}" if record.from_ else "there was none"
    figures = f"its mIoU on {record.dataset}/{record.split} is {own}; of the champion until now: {held}"
    if dry_run:
        verb = "would be" if record.promoted else "would not be"
        return f"{record.asked} {verb} promoted, {record.why}; {figures}; nothing was written"
    if record.kind == FORCED:
        return f"{record.model} version {record.to} is champion, by force ({record.why}); {figures}"
    if record.promoted:
        return f"{record.model} version {record.to} is champion, {record.why}; {figures}"
    return f"{record.asked} is not promoted, {record.why}; {figures}"


def _percent(miou: float | None) -> str:
    return "not measured" if miou is None else f"{miou:.2%}"


def _begin(ledger: Ledger, dry_run: bool = False) -> Standing:
    """What the ledger says; but for a dry run the name, the ledger and the aliases are put in order first."""
    if dry_run:
        return read(ledger)
    ledger.check_exclusive()
    enter_name(ledger.model)
    return settle(ledger, take_over=True)


def _conditions(
    version: ModelVersion, name: str, standing: Standing, dataset: Dataset, ids: Sequence[str], rule: Rule
) -> tuple[list[Check], list[str]]:
    """What a candidate has to be before anybody looks at its figures, and what speaks against it."""
    checks, against = [], []
    evaluation_set = Masks(dataset).digest_of(ids) if ids else ""
    pinned = rule.settings.evaluation_set
    questions = (
        ("supervision", lambda: allowed_supervision(version, name, standing.champion, dataset, rule)),
        ("evaluation images seen", lambda: unseen(version.run, dataset, ids)),
    )
    for what, ask in questions:
        try:
            checks.append(Check(what, ask(), "", "", True))
        except UserError as error:
            checks.append(Check(what, str(error), "", "", False))
            against.append(str(error))
    if pinned and not (evaluation_set.startswith(pinned)):
        problem = f"the evaluation set is {evaluation_set[:16]}, the rule asks for {pinned} (gate.evaluation_set)"
        checks.append(Check("evaluation set", evaluation_set[:16], "", pinned, False))
        against.append(problem)
    return checks, against


def _measure(model: Segmenter, files: PackageFiles, name: str, champion: str, dataset: Dataset) -> dict[str, Measured]:
    models, packages = {"candidate": model}, {"candidate": files}
    if champion:
        address = f"models:/{name}/{champion}"
        models["champion"], packages["champion"] = load_package(address), package_files(address)
    return measure(models, packages, dataset, SPLIT)


def _changed(standing: Standing, masks: str) -> str:
    """What a reader has to know when the champion was promoted on another evaluation set."""
    acts = [record for record in standing.records if record.promoted and record.to == standing.champion]
    before = acts[-1].masks if acts else ""
    if not masks or not before or before == masks:
        return ""
    return f"version {standing.champion} became champion on another evaluation set ({before[:12]}, now {masks[:12]})"


def _entered(version: ModelVersion, name: str) -> ModelVersion:
    entered = promoted_copy(version, name)
    assert entered is not None
    return entered


def _asked(version: ModelVersion, name: str) -> str:
    """How the ledger calls a candidate."""
    if version.name == name:
        return version.number
    return f"{version.name}/{version.number}" if version.number else version.source
