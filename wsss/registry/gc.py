"""`wsss gc`: what nothing needs is found and removed, so that whatever is left half removed does not look whole.

What can't be found again once its removal has begun is written down first, in `work/gc/`; the next call finishes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from wsss import storage
from wsss.errors import UserError, one_line
from wsss.progress import say
from wsss.registry import inventory as kinds
from wsss.registry.inventory import Found, Inventory, take_inventory, versions_needed
from wsss.registry.reach import Thing, chain, reached
from wsss.run.kept import remove_unfinished
from wsss.run.lease import lease
from wsss.run.store import StepStore
from wsss.tracking.connection import mlflow_client
from wsss.tracking.query import run_of
from wsss.versions.unused import cached, locked

if TYPE_CHECKING:
    from mlflow import MlflowClient

JOURNAL = "gc"
"""Below the work folder."""


@dataclass(frozen=True)
class Garbage:
    """What was found.

    Attributes:
        inventory: everything.
        held: what is needed, and what needs it; None for what is needed for itself.
        things: what nothing needs, in the order in which it can go.
    """

    inventory: Inventory
    held: dict[Thing, Thing | None]
    things: tuple[Thing, ...]

    def found(self, thing: Thing) -> Found:
        """What is known of a thing."""
        return self.inventory.things[thing]

    def why(self, text: str) -> list[str]:
        """Sentences that say what holds a thing.

        Args:
            text: a run's id, NAME/VERSION (or models:/...), a path of an output, an md5, a model's id.

        Raises:
            UserError: nothing of that name can be removed by this command.
        """
        name = text.removeprefix("models:/").rstrip("/")
        named = [thing for thing in self.inventory.things if f"/{name}".endswith(f"/{thing.name}")]
        if not named:
            named = [thing for thing in self.inventory.things if len(name) >= 8 and thing.name.endswith(name)]
        if not named:
            raise UserError(
                f"{text} is nothing that gc looks after; name a run's id, NAME/VERSION of a registered model, or "
                "the path of a step's output such as work/store/STEP/FINGERPRINT"
            )
        return [self._sentence(thing) for thing in named]

    def _sentence(self, thing: Thing) -> str:
        if thing not in self.held:
            return f"{thing}: nothing needs it"
        links = chain(thing, self.held)
        reason = self.inventory.needed[links[-1]]
        return f"{' < '.join(map(str, links))}: {reason}"


@dataclass(frozen=True)
class Collector:
    """Finds and removes what nothing needs.

    Attributes:
        store: of step outputs.
        work: the local folder.
        records: so many of each ledger's last records, and of its last promotions, keep their versions.
        since: what was made or used after this time stays (seconds since 1970).
    """

    store: StepStore
    work: Path
    records: int
    since: float

    def find(self, only: Collection[str] = kinds.KINDS) -> Garbage:
        """What nothing needs, of some kinds.

        Raises:
            UserError: something that says what is needed can't be read: then nothing is known to be rubbish.
        """
        inventory = take_inventory(self.store, self.work, self.records, self.since)
        held = reached(inventory.needed, inventory.references)
        things = [each for each in inventory.things if each not in held and each.kind in only]
        things.sort(key=lambda each: (kinds.KINDS.index(each.kind), each.name))
        return Garbage(inventory, held, tuple(things))

    def remove(self, things: Collection[Thing]) -> list[Thing]:
        """Remove things, those of them that nothing needs still; what an earlier call left half removed goes too.

        Returns:
            What went.

        Raises:
            UserError: another process is collecting, or something can't be removed; the same call goes on.
        """
        with lease(self.store.url, "gc", "what gc removes or a backup keeps", wait=False), _mlflow_errors():
            self._finish()
            garbage = self.find()
            gone = [thing for thing in garbage.things if thing in things]
            return [thing for thing in gone if self._remove(thing, garbage)]

    def _finish(self) -> None:
        """Finish what a call that was cut off had begun."""
        remove_unfinished(
            place for place in (self.store.url, self.work / kinds.CACHE, self.work / kinds.SCRATCH) if place
        )
        for path in sorted((self.work / JOURNAL).glob("*.json")):
            entry = json.loads(path.read_bytes())
            say(f"{entry['kind']} {entry['name']} was left half removed; the rest goes now")
            _FINISH[entry["kind"]](entry)
            path.unlink()

    def _remove(self, thing: Thing, garbage: Garbage) -> bool:
        found = garbage.found(thing)
        if thing.kind == kinds.VERSION:
            return self._remove_version(thing)
        if thing.kind in (kinds.MODEL, kinds.RUN):
            with self._journal(thing, artifacts=found.artifacts) as entry:
                _delete(entry)
                _FINISH[thing.kind](entry)
        elif thing.kind == kinds.LABELS:
            cache = garbage.inventory.cache
            assert cache is not None
            with self._journal(thing, files=sorted(cache.trees[thing.name])) as entry:
                cache.remove([thing.name])
                _finish_labels(entry)
        elif thing.kind == kinds.OUTPUT:
            self.store.remove(*thing.name.split("/"))
        elif thing.kind == kinds.CACHE:
            storage.remove_folder(self.work / kinds.CACHE / thing.name)
        else:
            return _remove_scratch(self.work / kinds.SCRATCH / thing.name)
        return True

    def _remove_version(self, thing: Thing) -> bool:
        """Remove a version, unless somebody has promoted it meanwhile."""
        client = mlflow_client()
        name, _, number = thing.name.rpartition("/")
        if thing in versions_needed(client.get_registered_model(name), self.records):
            say(f"{thing} was promoted meanwhile; it stays")
            return False
        client.delete_model_version(name, number)
        return True

    @contextmanager
    def _journal(self, thing: Thing, **facts: Any) -> Iterator[dict[str, Any]]:
        """Write down what is being removed; forgotten when that is done."""
        entry = {"kind": thing.kind, "name": thing.name, **facts}
        path = self.work / JOURNAL / f"{hashlib.sha256(str(thing).encode()).hexdigest()[:16]}.json"
        storage.write_bytes(path, json.dumps(entry).encode())
        yield entry
        path.unlink()


def _delete(entry: dict[str, Any]) -> None:
    """Delete a run or a model in MLflow: from then on it is in no list."""
    client = mlflow_client()
    if entry["kind"] == kinds.MODEL:
        client.delete_logged_model(entry["name"])
    else:
        client.delete_run(entry["name"])


def _finish_run(entry: dict[str, Any]) -> None:
    """Remove the parts of a run that is deleted, and all artifacts; one that is there (again) decides anew."""
    client = mlflow_client()
    if _is_active(client, entry["name"]):
        return
    for run in entry["artifacts"]:
        if _is_active(client, run):
            client.delete_run(run)
    _remove_artifacts(entry)


def _finish_model(entry: dict[str, Any]) -> None:
    """Remove the artifacts of a model that is deleted."""
    from mlflow.exceptions import MlflowException

    try:
        mlflow_client().get_logged_model(entry["name"])
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        _remove_artifacts(entry)


def _finish_labels(entry: dict[str, Any]) -> None:
    """Remove the files of a version whose list is gone, but for those that others have too."""
    cache = cached()
    if cache is not None and entry["name"] not in cache.trees:
        cache.remove(cache.only_in({entry["name"]: entry["files"]}, locked()))


_FINISH: dict[str, Callable[[dict[str, Any]], None]] = {
    kinds.RUN: _finish_run,
    kinds.MODEL: _finish_model,
    kinds.LABELS: _finish_labels,
}


def _is_active(client: MlflowClient, run_id: str) -> bool:
    run = run_of(client, run_id)
    return run is not None and run.info.lifecycle_stage == "active"


def _remove_artifacts(entry: dict[str, Any]) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    for address in entry["artifacts"].values():
        get_artifact_repository(address).delete_artifacts()


def _remove_scratch(folder: Path) -> bool:
    """Remove a scratch folder that no process holds."""
    try:
        with FileLock(folder.with_suffix(".lock"), timeout=0):
            storage.remove_folder(folder)
    except Timeout:
        return False
    return True


@contextmanager
def _mlflow_errors() -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise UserError(f"MLflow refuses: {one_line(error)}; when that is mended, the same command goes on") from error
