"""Where what is backed up lies: the same variables that the programs themselves read, and two options."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from wsss import storage, versions
from wsss.backup.databases import kind_of
from wsss.backup.manifest import ACCOUNTS, ARTIFACTS, BESIDE, DVC, ELSEWHERE, LEDGER, STORE, STUDIES, TRACKING
from wsss.errors import UserError, masked
from wsss.registry.ledger import Ledger
from wsss.run.store import StepStore
from wsss.tracking.beside import FOLDER, database
from wsss.tracking.connection import tracking_uri

_CONTENT = re.compile(r"[0-9a-f]{2}/[0-9a-f]{30}(\.dir)?")
_PROXIED = "mlflow-artifacts"


@dataclass(frozen=True)
class Places:
    """Where the parts lie.

    Attributes:
        databases: address by part: "tracking" always, "studies" and "accounts" where there are any.
        destination: where a tracking server keeps the artifacts that go through it; empty where there is no such place.
        ledger: the folder or s3:// address of the ledger of all models.
        store: of step outputs.
        work: the local folder of this workspace.
    """

    databases: dict[str, str]
    destination: str
    ledger: str
    store: StepStore
    work: Path = field(default=Path("work"))

    @property
    def beside(self) -> str:
        """The folder of artifacts beside a SQLite store; empty for other databases."""
        file = database(self.databases[TRACKING])
        return str(file.parent / FOLDER) if file else ""

    def artifacts(self, addresses: Iterable[str]) -> dict[str, str]:
        """Where the artifacts of experiments lie, by part.

        Args:
            addresses: those of the experiments, as the database has them.

        Raises:
            UserError: artifacts go through a server and nobody says where it keeps them, or lie where we can't read.
        """
        parts = {part: self._place(part, address) for address in addresses for part in [self.locate(address)[0]]}
        if self.destination:
            parts[ARTIFACTS] = self.destination
        if self.beside and Path(self.beside).is_dir():
            parts[BESIDE] = self.beside
        return parts

    def locate(self, address: str) -> tuple[str, str]:
        """The part that an artifact lies in, and its name there."""
        scheme, _, path, _, _ = urlsplit(address)
        if scheme == _PROXIED:
            return ARTIFACTS, path.strip("/")
        if self.destination and f"{address}/".startswith(f"{self.destination.rstrip('/')}/"):
            return ARTIFACTS, address.removeprefix(self.destination.rstrip("/")).strip("/")
        plain = unquote(path) if scheme == "file" else address
        if self.beside and scheme in ("", "file"):
            plain = str(Path(self.beside).parent / plain)
            if f"{plain}/".startswith(f"{self.beside}/"):
                return BESIDE, plain.removeprefix(self.beside).strip("/")
        return f"{ELSEWHERE}{plain}", ""

    def contents(self) -> list[str]:
        """Where DVC's contents lie, the cache first: folders or s3:// addresses."""
        cache, remote = versions.homes()
        return [str(place) for place in (cache, remote) if place and _readable(str(place))]

    def target(self, part: str) -> str:
        """Where the files of a part are restored to."""
        if part == DVC:
            cache, remote = versions.homes(create=True)
            return remote if remote and _readable(remote) else str(cache)
        if part == BESIDE and not self.beside:
            raise UserError(
                f"the backup's part {part} lies beside a SQLite file, but MLFLOW_TRACKING_URI names {self._tracking}"
            )
        return {LEDGER: self.ledger, STORE: self.store.url}.get(part) or self._place(part, "")

    def _place(self, part: str, address: str) -> str:
        if part.startswith(ELSEWHERE):
            place = part.removeprefix(ELSEWHERE)
            if not _readable(place):
                raise UserError(f"artifacts lie in {place}, which can't be backed up; a folder and s3:// can")
            return place
        if part == BESIDE:
            return self.beside
        if not self.destination:
            raise UserError(
                "the tracking server keeps artifacts for others, but where is not known here: name the place in "
                f"--artifacts or MLFLOW_ARTIFACTS_DESTINATION, as the server was started with{address and ': '}"
                f"{address}; such as s3://wsss-artifacts"
            )
        return self.destination

    @property
    def _tracking(self) -> str:
        return masked(self.databases[TRACKING])


def find_places(tracking: str = "", artifacts: str = "") -> Places:
    """Where everything lies.

    Args:
        tracking: MLflow's database; else MLFLOW_BACKEND_STORE_URI, which its server reads, else MLFLOW_TRACKING_URI.
        artifacts: the server's place of artifacts; else MLFLOW_ARTIFACTS_DESTINATION, which its server reads.

    Raises:
        UserError: nothing names the database, or one is of a kind that can't be backed up.
    """
    uri = tracking or os.environ.get("MLFLOW_BACKEND_STORE_URI", "") or tracking_uri()
    if urlsplit(uri).scheme in ("http", "https"):
        raise UserError(
            f"{masked(uri)} is a tracking server, and what is backed up is its database: name that in --database or "
            "MLFLOW_BACKEND_STORE_URI, as the server was started with, such as postgresql:///mlflow"
        )
    databases = {TRACKING: uri, STUDIES: _studies(), ACCOUNTS: _accounts()}
    databases = {part: address for part, address in databases.items() if address}
    for address in databases.values():
        kind_of(address)
    destination = artifacts or os.environ.get("MLFLOW_ARTIFACTS_DESTINATION", "")
    destination = unquote(urlsplit(destination).path) if destination.startswith("file:") else destination
    if destination and not storage.is_remote(destination):
        destination = str(Path(destination).expanduser().absolute())
    work = Path("work")
    return Places(databases, destination, Ledger("").root, StepStore(storage.store_address(), work / "cache"), work)


def is_content(name: str) -> bool:
    """Whether a file below a cache or remote of DVC's is a content, and not what is being written."""
    return _CONTENT.fullmatch(name) is not None


def _readable(place: str) -> bool:
    return "://" not in place or place.startswith("s3://")


def _studies() -> str:
    """The database of searches, as `tune` has it, where there is one."""
    if uri := os.environ.get("WSSS_STUDIES", ""):
        return uri
    file = Path("work", "search", "studies.db").absolute()
    return f"sqlite:///{file}"


def _accounts() -> str:
    """The database of MLflow's own accounts, as its server's configuration names it."""
    file = os.environ.get("MLFLOW_AUTH_CONFIG_PATH", "")
    if not file:
        return ""
    settings = configparser.ConfigParser(interpolation=None)
    if not settings.read(file, encoding="utf-8") or not settings.has_option("mlflow", "database_uri"):
        raise UserError(f"MLFLOW_AUTH_CONFIG_PATH names {file}, which says no database_uri in its section [mlflow]")
    return settings["mlflow"]["database_uri"]


def parts_of(places: Places) -> Iterator[str]:
    """The parts that a backup of these places may have."""
    yield from (LEDGER, *places.databases, ARTIFACTS, BESIDE, STORE, DVC)
