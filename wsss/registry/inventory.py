"""What there is, what needs what, what is needed for itself: read from MLflow, the ledgers, DVC, git and the store."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from wsss.registry.ledger import Ledger
from wsss.registry.promotion import PromotionRecord
from wsss.registry.reach import Thing
from wsss.registry.standing import settle
from wsss.run.kept import folders, outputs
from wsss.run.lease import held
from wsss.run.store import StepStore
from wsss.tracking import names
from wsss.tracking.artifacts import read_artifact
from wsss.tracking.connection import mlflow_client
from wsss.tracking.liveness import mark_dead_runs
from wsss.tracking.outbox import SPOOL
from wsss.tracking.query import PAGE, every, experiments, search
from wsss.versions.unused import Cached, cached, fingerprints_in, fingerprints_of, locked

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

VERSION, MODEL, RUN, LABELS = "version", "model", "run", "labels"
OUTPUT, CACHE, SCRATCH = "output", "cache", "scratch"
KINDS = (VERSION, MODEL, RUN, LABELS, OUTPUT, CACHE, SCRATCH)
"""In the order in which they go: nothing that is left refers to what went before it."""


@dataclass(frozen=True)
class Found:
    """What is known of a thing.

    Attributes:
        used: when it was made or last used (seconds since 1970).
        size: its bytes; 0 where nobody counts them.
        note: what people know it by.
        artifacts: of a run and its parts, or a model: id to the address of its artifacts.
    """

    used: float
    size: int = 0
    note: str = ""
    artifacts: dict[str, str] = field(default_factory=dict)


@dataclass
class Inventory:
    """Everything that could go, and why it may not.

    Attributes:
        since: what was made or used after this time is needed (seconds since 1970).
        things: what there is.
        references: from a thing to those that it needs.
        needed: what is needed for itself, and why.
        cache: DVC's; None where there is none, or it is not this workspace's own.
        locked: the md5s that git needs of it.
    """

    since: float
    things: dict[Thing, Found] = field(default_factory=dict)
    references: dict[Thing, set[Thing]] = field(default_factory=lambda: defaultdict(set))
    needed: dict[Thing, str] = field(default_factory=dict)
    cache: Cached | None = None
    locked: set[str] = field(default_factory=set)

    def add(self, thing: Thing, found: Found) -> None:
        """Take a thing in; a young one is needed."""
        self.things[thing] = found
        if found.used >= self.since:
            self.needed.setdefault(thing, f"used since {datetime.fromtimestamp(self.since):%Y-%m-%d %H:%M}")


def take_inventory(store: StepStore, work: Path, records: int, since: float) -> Inventory:
    """Look at everything.

    Args:
        store: of step outputs.
        work: the local folder of scratch and cache.
        records: so many of each ledger's last records count, and so many of its last promotions.
        since: see `Inventory`.

    Raises:
        UserError: something that says what is needed can't be read.
    """
    inventory = Inventory(since)
    client = mlflow_client()
    mark_dead_runs(client)
    by_fingerprint = _add_steps(inventory, store, work)
    _add_runs(inventory, client, work, by_fingerprint)
    _add_models(inventory, client)
    _add_versions(inventory, client, records)
    _add_labels(inventory, client, work, by_fingerprint)
    return inventory


def _add_steps(inventory: Inventory, store: StepStore, work: Path) -> dict[str, Thing]:
    """Outputs, their local copies, scratch folders; the outputs by fingerprint."""
    found = outputs(store)
    by_fingerprint = {name.rpartition("/")[2]: Thing(OUTPUT, name) for name in found}
    for name, kept in found.items():
        output = Thing(OUTPUT, name)
        inventory.add(output, Found(kept.used, kept.size, "" if kept.whole else "not complete"))
        inputs = {by_fingerprint[each] for each in kept.inputs if each in by_fingerprint}
        inventory.references[output] |= inputs | {Thing(CACHE, name)}
    for kind in (CACHE, SCRATCH):
        for name, kept in folders(work / kind).items():
            inventory.add(Thing(kind, name), Found(kept.used, kept.size))
    for lease, holder in held(store.url).items():
        name = "/".join(lease.rsplit(".", 1))
        for kind in (OUTPUT, CACHE, SCRATCH):
            inventory.needed[Thing(kind, name)] = f"computed now by {holder}"
    return by_fingerprint


def _add_runs(inventory: Inventory, client: MlflowClient, work: Path, by_fingerprint: dict[str, Thing]) -> None:
    """The runs of methods and searches, with those of their stages and trials."""
    parts: dict[str, list[Run]] = defaultdict(list)
    for kind in (names.STAGE_RUN, names.TRIAL_RUN):
        for part in search(client, f"tags.`{names.KIND}` = '{kind}'"):
            parts[part.data.tags.get(names.MLFLOW_PARENT, "")].append(part)
    for kind in (names.METHOD_RUN, names.SEARCH_RUN):
        for run in search(client, f"tags.`{names.KIND}` = '{kind}'"):
            thing, tags, own = Thing(RUN, run.info.run_id), run.data.tags, parts[run.info.run_id]
            what = [kind, tags.get(names.METHOD), tags.get(names.PRESET), tags.get(names.DATASET), run.info.status]
            inventory.add(
                thing,
                Found(
                    used=(run.info.end_time or run.info.start_time) / 1000,
                    note=", ".join(filter(None, what)),
                    artifacts={each.info.run_id: each.info.artifact_uri for each in (run, *own)},
                ),
            )
            if run.info.status == "RUNNING":
                inventory.needed[thing] = "it is running"
            elif names.KEEP in tags:
                inventory.needed[thing] = f"kept: {tags[names.KEEP]}"
            elif (work / SPOOL / run.info.run_id).exists():
                inventory.needed[thing] = "some of it was not sent yet"
            # A model's search keeps its record, but not the outputs of all its trials.
            trials = kind == names.SEARCH_RUN and thing in inventory.needed
            used = {each for part in own for each in _fingerprints(part, trials)}
            inventory.references[thing] |= {by_fingerprint[each] for each in used if each in by_fingerprint}
            for key, kind_of in ((names.LABELS_MD5, LABELS), (names.MLFLOW_PARENT, RUN)):
                if key in tags:
                    inventory.references[thing].add(Thing(kind_of, tags[key]))


def _fingerprints(part: Run, trials: bool) -> set[str]:
    """Those of the steps of a stage's run and, where it is asked for, of a trial's."""
    start = names.step_fingerprint("")
    found = {value for key, value in part.data.tags.items() if key.startswith(start)}
    if trials and part.data.tags[names.KIND] == names.TRIAL_RUN:
        try:
            steps = json.loads(read_artifact(part.info.run_id, names.TRIAL_STEPS))["steps"]
        except FileNotFoundError:
            return found
        found |= {fingerprint for step in steps for fingerprint in step["fingerprints"]}
    return found


def _add_models(inventory: Inventory, client: MlflowClient) -> None:
    """The models that runs logged; those of others are theirs."""
    places = experiments(client)
    models = every(lambda page: client.search_logged_models(places, max_results=PAGE // 10, page_token=page))
    for model in models:
        _add_model(inventory, model)


def _add_model(inventory: Inventory, model: LoggedModel) -> None:
    run = Thing(RUN, model.source_run_id or "")
    if run in inventory.things:
        thing = Thing(MODEL, model.model_id)
        used = (model.last_updated_timestamp or model.creation_timestamp) / 1000
        inventory.add(thing, Found(used, note=model.name, artifacts={model.model_id: model.artifact_location}))
        inventory.references[thing].add(run)
        inventory.references[run].add(thing)


def _add_versions(inventory: Inventory, client: MlflowClient, records: int) -> None:
    """The versions of every registered model, whatever its name, with its aliases and its ledger."""
    for version in every(lambda page: client.search_model_versions(max_results=PAGE, page_token=page)):
        _add_version(inventory, version)
    for registered in every(lambda page: client.search_registered_models(max_results=PAGE, page_token=page)):
        inventory.needed |= versions_needed(registered, records)


def _add_version(inventory: Inventory, version: ModelVersion) -> None:
    thing = Thing(VERSION, f"{version.name}/{version.version}")
    inventory.add(thing, Found((version.last_updated_timestamp or version.creation_timestamp or 0) / 1000))
    sources = {Thing(MODEL, version.model_id or ""), Thing(RUN, version.run_id or "")}
    _, scheme, source = str(version.source).partition("models:/")
    if scheme:
        sources.add(Thing(VERSION if "/" in source else MODEL, source))
    inventory.references[thing] |= sources
    run = Thing(RUN, version.run_id or "")
    inventory.references[run].add(thing)
    if run not in inventory.things:
        inventory.needed[thing] = "it is of no run that is known here"


def versions_needed(registered: RegisteredModel, records: int) -> dict[Thing, str]:
    """The versions that a registered model's aliases and its ledger's last records name, and which of these.

    Raises:
        UserError: the ledger can't be read, or is not the one that the registry knows.
    """
    name = registered.name
    needed = {}
    ledger = settle(Ledger(name)).records
    acts = [record for record in ledger if record.promoted]
    for record in (*_last(ledger, records), *_last(acts, records)):
        for number in filter(None, (record.candidate, record.from_, record.to)):
            for each in (f"{name}/{number}", f"{name}-candidates/{number}", number.removeprefix("models:/")):
                needed[Thing(VERSION, each)] = f"in record {record.number} of the ledger of {name}"
    # Read after the ledger, which may have put an alias right.
    aliases = mlflow_client().get_registered_model(name).aliases
    return needed | {Thing(VERSION, f"{name}/{number}"): f"{name}@{alias}" for alias, number in aliases.items()}


def _last(ledger: Sequence[PromotionRecord], records: int) -> Sequence[PromotionRecord]:
    return ledger[max(0, len(ledger) - records) :]


def _add_labels(inventory: Inventory, client: MlflowClient, work: Path, by_fingerprint: dict[str, Thing]) -> None:
    """The label maps of runs in DVC's cache, and what `.dvc` files and `dvc.lock` of any branch or tag need."""
    cache = cached()
    if cache is None:
        return
    inventory.locked = locked()
    pipeline = {each for path in (work / "pipeline").rglob("*.json") for each in fingerprints_of(path)}
    for fingerprint in pipeline | fingerprints_in(cache, inventory.locked):
        if fingerprint in by_fingerprint:
            inventory.needed[by_fingerprint[fingerprint]] = "a stage of dvc.yaml, in dvc.lock or done here"
    if cache.shared:
        return
    inventory.cache = cache
    # Those of deleted runs too: their removal may have been cut off.
    deleted = search(client, f"tags.`{names.KIND}` = '{names.METHOD_RUN}'", deleted=True)
    made = {Thing(LABELS, run.data.tags.get(names.LABELS_MD5, "")) for run in deleted}
    for thing in made.union(*inventory.references.values()):
        if thing.kind == LABELS and thing.name in cache.trees:
            path, files = cache.path(thing.name), cache.trees[thing.name]
            size = cache.size(cache.only_in({thing.name: files}, inventory.locked) | {thing.name})
            inventory.add(thing, Found(path.stat().st_mtime, size))
            if thing.name in inventory.locked:
                inventory.needed[thing] = "a .dvc file or dvc.lock, here or in a branch or tag"
