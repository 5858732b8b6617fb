"""What stands on runs: their models, what was decided of these, and the runs that used what they computed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from wsss.errors import UserError
from wsss.registry.ancestry.boxes import MODEL, Box, Layer, run_box
from wsss.registry.ledger import Ledger
from wsss.registry.models import CANDIDATES
from wsss.registry.promotion import PromotionRecord
from wsss.registry.standing import read
from wsss.tracking import descent, names
from wsss.tracking.descent import Look, StepMade
from wsss.tracking.query import RunRecord, every

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_REUSED = 20
"""So many runs are named that reused a step."""


def standing_on(look: Look, run: RunRecord, made: Sequence[StepMade]) -> list[Layer]:
    """What stands on a run: its models, what was decided of them, and the runs that used what it computed."""
    versions = _versions(look, [run.id])
    reused = {step: look.reused_by(step, _REUSED + 1) for step in made if not step.reused}
    runs = look.runs_of({each for ids in reused.values() for each in ids if each != run.id})
    boxes = []
    for step, ids in reused.items():
        if own := [runs[each] for each in dict.fromkeys(ids) if each in runs]:
            more = " and older ones" if len(ids) > _REUSED else ""
            boxes.append(Box("step", step.key, facts={"fingerprint": step.fingerprint}, runs={f"reused by{more}": own}))
    layers = [*decisions(look, versions), Layer("Runs that reused its steps", boxes)]
    if name := run.tags.get(names.SEARCH, ""):
        found = look.search_named(name)
        layers.append(Layer("Search", [Box("search", f"Search {name}", found)]))
    return [layer for layer in layers if layer.boxes]


def used_by(look: Look, found: Sequence[RunRecord], more: bool, in_service: str = "") -> list[Layer]:
    """The runs on a version, their models and what was decided of these; what serves is named even of older runs."""
    versions = _versions(look, [run.id for run in found])
    if in_service:
        known = {(version.name, version.version) for version in versions}
        aliased = [v for v in _aliased(look) if (v.name, v.version) not in known]
        there = look.runs_of({version.run_id for version in aliased if version.run_id})
        on_it = {run_id for run_id, run in there.items() if run.tags.get(names.DATA_MD5) == in_service}
        versions = [*(version for version in aliased if version.run_id in on_it), *versions]
    older = int(found[-1].start.timestamp() * 1000) if more else None
    layers = [*decisions(look, versions), Layer("Runs", [run_box(run) for run in found], older)]
    return [layer for layer in layers if layer.boxes]


def decisions(look: Look, versions: Sequence[ModelVersion], *, alone: bool = False) -> list[Layer]:
    """Versions with their aliases, and what was decided of them; of one alone the version itself is left out."""
    client = look.client
    aliases: dict[tuple[str, str], list[str]] = {}
    acts = []
    ours = {f"{version.name}/{version.version}" for version in versions}
    for name in dict.fromkeys(version.name for version in versions):
        for alias, number in client.get_registered_model(name).aliases.items():
            aliases.setdefault((name, str(number)), []).append(alias)
    for name in dict.fromkeys(version.name.removesuffix(CANDIDATES) for version in versions):
        acts += _acts(name, ours)
    boxes = []
    for version in versions:
        named = aliases.get((version.name, str(version.version)), [])
        facts = {"aliases": ", ".join(named)} if named else {}
        title = f"{version.name} version {version.version}" + (f", {', '.join(named)}" if named else "")
        if not alone or named:
            boxes.append(Box(MODEL, title, f"{version.name}/{version.version}", facts))
    return [Layer("Aliases" if alone else "Model versions", boxes), Layer("Decisions of the ledger", acts)]


def _acts(name: str, ours: Collection[str]) -> list[Box]:
    """The records of a ledger that name one of these versions."""
    try:
        records: Iterable[PromotionRecord] = read(Ledger(name)).records
    except UserError as error:
        return [Box("act", f"The ledger of {name} can't be read", facts={"why": str(error)})]
    boxes = []
    for record in records:
        numbers = {f"{name}/{number}" for number in (record.from_, record.to, record.challenger) if number}
        asked = record.candidate if "/" in record.candidate else f"{name}/{record.candidate}"
        if {*numbers, asked}.intersection(ours):
            facts = {
                "when": record.when[:16].replace("T", " "),
                "who": record.who,
                "asked": record.asked,
                "why": record.why,
            }
            if record.promoted:
                facts["champion"] = f"{record.from_ or 'none'} to {record.to}"
            title = f"{record.kind.capitalize()} in the ledger of {name}" + (
                f", record {record.number}" * bool(record.number)
            )
            boxes.append(Box("act", title, facts={key: value for key, value in facts.items() if value}))
    return boxes


def _versions(look: Look, runs: Sequence[str]) -> list[ModelVersion]:
    """The versions of registered models that come from some runs, copies of candidates among them."""
    if not runs:
        return []
    client = look.client
    condition = f"run_id IN ({', '.join(map(descent.quoted, runs))})"
    found = every(lambda page: client.search_model_versions(condition, max_results=descent.MOST, page_token=page))
    return sorted(found, key=lambda version: (version.name.endswith(CANDIDATES), version.name, -int(version.version)))


def _aliased(look: Look) -> list[ModelVersion]:
    """The versions that have an alias."""
    client = look.client
    models = every(lambda page: client.search_registered_models(max_results=descent.MOST, page_token=page))
    numbers = {(model.name, str(number)) for model in models for number in model.aliases.values()}
    return [client.get_model_version(name, number) for name, number in sorted(numbers)]
