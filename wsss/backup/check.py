"""`wsss backup check`: a backup is restored into a scratch place and looked at, as one would have to rely on it.

Every piece is read; ledger and databases are put into scratch places and opened; what they name is looked for in the
backup.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from wsss import storage
from wsss.backup import databases
from wsss.backup.make import told
from wsss.backup.manifest import DVC, FILES, LEDGER, SQLITE, TRACKING, Backup, File, Part
from wsss.backup.places import Places
from wsss.backup.restore import check_schema, load_database
from wsss.backup.trees import put
from wsss.backup.vault import Vault
from wsss.errors import UserError
from wsss.registry.ledger import Ledger
from wsss.registry.packages import WITHOUT
from wsss.registry.promotion import Decided, PromotionRecord, decided
from wsss.registry.standing import HEAD
from wsss.tracking import names

if TYPE_CHECKING:
    from sqlalchemy import Connection

_READY = 2
"""MLflow's number of a logged model that is whole."""


@dataclass(frozen=True)
class Checked:
    """What came of a check.

    Attributes:
        backup: which.
        counts: of what was compared and found, by what it is called.
        problems: sentences; none for a backup that can be relied on.
        remarks: what a reader may want to know.
    """

    backup: Backup
    counts: Mapping[str, int]
    problems: tuple[str, ...]
    remarks: tuple[str, ...]


def check(places: Places, vault: Vault, name: str = "") -> Checked:
    """Restore a backup into a scratch place and compare.

    Args:
        places: of what was backed up; PostgreSQL's scratch database is made, for a moment, on the server of the
            database there.
        vault: where the backup lies.
        name: of the backup; the newest by default.

    Raises:
        UserError: a piece is missing or damaged, or a database can't be put back.
    """
    backup = vault.read(name)
    check_schema(backup.parts)
    vault.verify(backup.parts, lambda total: told("verify", total))
    looking = _Looking(places, vault, backup)
    with storage.temporary_folder() as scratch, ExitStack() as stack:
        for part in backup.parts:
            if part.kind == FILES:
                continue
            uri = f"sqlite:///{scratch / part.name}.db"
            if part.kind != SQLITE:
                server = places.databases.get(part.name, "")
                if not server.startswith("postgresql"):
                    raise UserError(
                        f"the backup's database of {part.name} is PostgreSQL's, and no server to try it on is named "
                        "here: --database, or the variables that the tracking server has"
                    )
                scratch_name = f"wsss_check_{os.getpid()}_{uuid.uuid4().hex[:8]}"
                uri = stack.enter_context(databases.scratch(server, scratch_name))
            load_database(vault, part, uri)
            with databases.connected(uri) as connection:
                looking.database(part, connection)
                if part.name == TRACKING:
                    ledger = backup.part(LEDGER)
                    if ledger is not None:
                        put(vault, vault.files(ledger), str(scratch / LEDGER), lambda size: None)
                    looking.tracking(connection, str(scratch / LEDGER))
    return Checked(backup, looking.counts, tuple(looking.problems), tuple(looking.remarks))


class _Looking:
    """Compares what databases name with what the backup has."""

    def __init__(self, places: Places, vault: Vault, backup: Backup) -> None:
        self.places, self.backup = places, backup
        self.files = {part.name: {f.name: f for f in vault.files(part)} for part in backup.parts if part.kind == FILES}
        self.folders = {part: _folders(files) for part, files in self.files.items()}
        self.counts: dict[str, int] = defaultdict(int)
        self.counts["files"] = sum(part.files for part in backup.parts)
        self.problems: list[str] = []
        self.remarks: list[str] = []

    def database(self, part: Part, connection: Connection) -> None:
        """The rows of each table are those of the moment of the backup; SQLite's file is sound."""
        if part.kind == SQLITE:
            said = str(connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar_one())
            if said != "ok":
                self.problems.append(f"the database of {part.name} is damaged: {said}")
        rows = databases.facts(connection)["rows"]
        for table, count in part.facts["rows"].items():
            if rows.get(table) != count:
                self.problems.append(f"{part.name}: table {table} has {rows.get(table)} rows, not {count}")
        self.counts["rows"] += sum(rows.values())

    def tracking(self, connection: Connection, ledger: str) -> None:
        """The artifacts of runs and models, the versions and aliases, and the ledger."""
        self._runs(connection)
        models = self._models(connection)
        for name in sorted({name for name, _ in models} | {name for name, *_ in _rows(connection, "aliases")}):
            self._registered(connection, name, models, Ledger(name, ledger))

    def _runs(self, connection: Connection) -> None:
        tags: dict[str, dict[str, str]] = defaultdict(dict)
        for run, key, value in _rows(connection, "tags", kind=names.KIND, labels=names.LABELS_MD5):
            tags[run][key] = value
        unsent = set()
        for run, address in _rows(connection, "runs"):
            self.counts["runs"] += 1
            kind = tags[run].get(names.KIND)
            # Every run of ours begins with artifacts; those of others may have none.
            if kind in (names.METHOD_RUN, names.SEARCH_RUN) and not self._below(address):
                self.problems.append(f"the artifacts of run {run} ({address}) are missing")
            labels = tags[run].get(names.LABELS_MD5)
            if labels and f"{labels[:2]}/{labels[2:]}" not in self.files.get(DVC, {}):
                unsent.add(labels)
        if unsent:
            self.remarks.append(
                f"{len(unsent)} versions of label maps are in neither DVC's cache here nor its remote; whoever made "
                "them has to push them"
            )

    def _models(self, connection: Connection) -> dict[tuple[str, str], str]:
        """Logged models that are whole have files. Gives each version of a registered model its files' address."""
        logged = {}
        for model, address, status, external in _rows(connection, "logged"):
            logged[model] = address
            if status == _READY and not external:
                self.counts["models"] += 1
                if not self._below(address):
                    self.problems.append(f"the files of model {model} ({address}) are missing")
        versions = {}
        for name, version, source, stored in _rows(connection, "versions"):
            self.counts["versions"] += 1
            address = stored or source or ""
            model = str(source).removeprefix("models:/")
            versions[name, str(version)] = logged.get(model, address) if str(source).startswith("models:/") else address
        return versions

    def _registered(
        self, connection: Connection, name: str, models: Mapping[tuple[str, str], str], ledger: Ledger
    ) -> None:
        """Aliases point to versions with files, and the ledger's chain is whole and says what the registry says."""
        for model, alias, version in _rows(connection, "aliases"):
            if model == name:
                self.counts["aliases"] += 1
                address = models.get((name, str(version)))
                if address is None:
                    self.problems.append(f"{name}@{alias} is version {version}, which is missing")
                elif not self._below(address):
                    self.problems.append(f"the files of {name}@{alias}, version {version} ({address}), are missing")
        try:
            records = ledger.records()
            ledger.check_evaluations(records)
        except UserError as error:
            self.problems.append(f"the ledger of {name}: {error}")
            return
        self.counts["records"] += len(records)
        for model, head in _rows(connection, "heads", key=HEAD):
            if model == name:
                number, sha256, _ = head.split(" ", 2)
                if len(records) < int(number) or records[int(number) - 1].sha256 != sha256:
                    self.problems.append(f"the ledger of {name} lacks record {number}, which the registry names")
        self._champion(name, decided(records), records, models)

    def _champion(
        self, name: str, now: Decided, records: list[PromotionRecord], models: Mapping[tuple[str, str], str]
    ) -> None:
        """The champion's files are those that were promoted."""
        known = [each.package for each in records if each.promoted and each.to == now.champion and each.package]
        address = models.get((name, now.champion))
        if known and address and self._below(address) and self._package(address) != known[-1]:
            self.problems.append(f"the files of {name}, version {now.champion}, are not those that were promoted")

    def _below(self, address: str) -> bool:
        part, folder = self._place(address)
        return folder in self.folders.get(part, ())

    def _package(self, address: str) -> str:
        """The sha256 of a package's files, as `package_files` has it."""
        part, folder = self._place(address)
        own = {
            name.removeprefix(f"{folder}/"): file.sha256
            for name, file in self.files[part].items()
            if name.startswith(f"{folder}/")
        }
        lines = [f"{name} {own[name]}\n" for name in sorted(own.keys() - set(WITHOUT))]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _place(self, address: str) -> tuple[str, str]:
        """The part that an address lies in, and its name there."""
        part, name = self.places.locate(address)
        if part in self.files:
            return part, name
        # Below the address of an experiment of its own.
        for other in self.files:
            if f"{part}/".startswith(f"{other}/"):
                return other, part.removeprefix(f"{other}/")
        return part, unquote(name)


def _folders(files: Mapping[str, File]) -> set[str]:
    """Every folder that has a file somewhere below."""
    folders: set[str] = set()
    for name in files:
        folder = name.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    return folders


_QUERIES = {
    "runs": "SELECT run_uuid, artifact_uri FROM runs WHERE lifecycle_stage = 'active'",
    "tags": "SELECT run_uuid, key, value FROM tags WHERE key IN (:kind, :labels)",
    "logged": (
        "SELECT m.model_id, m.artifact_location, m.status, t.tag_value FROM logged_models m "
        "LEFT JOIN logged_model_tags t ON t.model_id = m.model_id AND t.tag_key = 'mlflow.model.isExternal' "
        "WHERE m.lifecycle_stage = 'active'"
    ),
    "versions": (
        "SELECT name, version, source, storage_location FROM model_versions WHERE current_stage <> 'Deleted_Internal'"
    ),
    "aliases": "SELECT name, alias, version FROM registered_model_aliases",
    "heads": "SELECT name, value FROM registered_model_tags WHERE key = :key",
}


def _rows(connection: Connection, query: str, **values: str) -> Iterator[Any]:
    import sqlalchemy

    yield from connection.execute(sqlalchemy.text(_QUERIES[query]), values).all()
