"""Where a run, a model, label maps or a version of data come from, and all that stands on them."""

from __future__ import annotations

from wsss.errors import UserError
from wsss.registry.ancestry.back import data_facts, in_order, made_from, needed
from wsss.registry.ancestry.boxes import DATA, LABELS, MODEL, Ancestry, Box, Layer, run_box
from wsss.registry.ancestry.forward import decisions, standing_on, used_by
from wsss.tracking import names
from wsss.tracking.descent import Look
from wsss.tracking.query import RunRecord, find_run


def of_run(run_id: str, what: str = "") -> Ancestry:
    """The lineage of a method's run.

    Args:
        run_id: MLflow's.
        what: of one of its drawn things alone, such as "labels_crf"; of all that it made by default.

    Raises:
        UserError: there is no such run, it makes no such thing, or the tracking store or a ledger can't be used.
    """
    look = Look()
    run = find_run(run_id)
    made = in_order(run, look.steps_made(run))
    wanted = needed(run, what) if what else None
    shown = [step for step in made if wanted is None or step.key in wanted]
    return Ancestry(run_box(run, what), made_from(look, run, shown), standing_on(look, run, made))


def of_model(address: str) -> Ancestry:
    """The lineage of a version of a registered model.

    Args:
        address: "NAME/VERSION".

    Raises:
        UserError: there is no such version, or the tracking store or a ledger can't be used.
    """
    from mlflow.exceptions import MlflowException

    look = Look()
    name, _, number = address.rpartition("/")
    if not name or not number.isdecimal():
        raise UserError(f"a version of a model is NAME/VERSION, such as wsss-shapes/1, not {address}")
    try:
        version = look.client.get_model_version(name, number)
    except MlflowException:
        known = [model.name for model in look.client.search_registered_models()]
        raise UserError(
            f"there is no version {number} of the registered model {name}; models are {', '.join(known) or 'none'}"
        ) from None
    subject = Box(MODEL, f"{name} version {number}", address, {"logged as": version.source or ""})
    ahead = [layer for layer in decisions(look, [version], alone=True) if layer.boxes]
    run = look.runs_of([version.run_id]).get(version.run_id) if version.run_id else None
    if run is None:
        note = (
            "It comes from no run that is known here." if not version.run_id else f"Its run {version.run_id} is gone."
        )
        return Ancestry(subject, [Layer(note, [])], ahead)
    made = in_order(run, look.steps_made(run))
    return Ancestry(subject, [Layer("Run", [run_box(run)]), *made_from(look, run, made)], ahead)


def of_labels(md5: str, before: int | None = None) -> Ancestry:
    """The lineage of a version of label maps.

    Args:
        md5: DVC's.
        before: of runs, those that were begun before, in milliseconds since 1970.

    Raises:
        UserError: no run has it, or the tracking store or a ledger can't be used.
    """
    look = Look()
    found, more = _runs_on(look, names.LABELS_MD5, md5, before, "label maps")
    oldest = found[-1]
    of = next((used for used in look.data_used(oldest.id) if used.name == names.LABELS), None)
    made = [step for step in in_order(oldest, look.steps_made(oldest)) if step.key.startswith(("localize", "refine"))]
    subject = Box(LABELS, f"Label maps {md5[:8]}", md5, data_facts(of) if of else {})
    return Ancestry(subject, made_from(look, oldest, made, labels=False), used_by(look, found, more))


def of_data(md5: str, before: int | None = None) -> Ancestry:
    """The lineage of a version of a dataset: it was made by people, so all of it is ahead.

    Args, Raises: as of `of_labels`.
    """
    look = Look()
    found, more = _runs_on(look, names.DATA_MD5, md5, before, "data")
    of = next((used for used in look.data_used(found[0].id) if used.md5 == md5), None)
    labels: dict[str, list[RunRecord]] = {}
    for run in found:
        if version := run.tags.get(names.LABELS_MD5):
            labels.setdefault(version, []).append(run)
    made = [Box(LABELS, f"Label maps {version[:8]}", version, runs={"of": own}) for version, own in labels.items()]
    subject = Box(DATA, f"Dataset {found[0].dataset}, version {md5[:8]}", md5, data_facts(of) if of else {})
    return Ancestry(subject, [], [*used_by(look, found, more, in_service=md5), Layer("Label maps", made)])


def _runs_on(look: Look, tag: str, md5: str, before: int | None, what: str) -> tuple[list[RunRecord], bool]:
    found, more = look.runs_with(tag, md5, before)
    if not found:
        raise UserError(f"no run has {what} of the version {md5}; a run's page of lineage names those that it has")
    return found, more
