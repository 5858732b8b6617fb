"""Artifacts of a SQLite store lie beside its database, by addresses that count from there.

MLflow's own addresses are absolute, so that a workspace that is renamed or copied would go on writing into its old
place, and percent signs in them are taken for quoted characters. Below `mlruns` beside the database they become
relative here, such as `mlruns/0/RUN/artifacts`: MLflow reads these in the folder of the database, we from everywhere.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from wsss.errors import UserError

if TYPE_CHECKING:
    from sqlalchemy import Connection

FOLDER = "mlruns"
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
"""Table and column of what MLflow keeps of where artifacts lie."""


def database(uri: str) -> Path | None:
    """The file of a SQLite store, absolute; None for a store that is none, or is in memory."""
    if not uri.startswith("sqlite"):
        return None
    import sqlalchemy

    name = sqlalchemy.make_url(uri).database
    return Path(name).absolute() if name and name != ":memory:" and not name.startswith("file:") else None


def settle_addresses(uri: str) -> None:
    """Make the addresses of a SQLite store's artifacts count from its folder, where the artifacts belong to it.

    They do when they lie there, and when they lie nowhere; what lies elsewhere keeps its address. A database that can't
    be written stays as it is.

    Args:
        uri: of the tracking store, which has its tables.
    """
    _register()
    home = database(uri)
    if home is None:
        return
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    with suppress(sqlalchemy.exc.OperationalError), engine.begin() as connection:
        experiments = connection.execute(sqlalchemy.text("SELECT experiment_id, artifact_location FROM experiments"))
        for number, address in experiments.all():
            own = f"{FOLDER}/{number}"
            if address and address.endswith(f"/{own}") and urlsplit(address).scheme in ("", "file"):
                _settle(connection, home.parent, address, own)
    engine.dispose()


def _settle(connection: Connection, home: Path, old: str, own: str) -> None:
    """Give an experiment, and what of it belongs to a folder, addresses that begin with `own` instead of `old`."""
    import sqlalchemy

    for table, column in _ADDRESSES:
        below = sqlalchemy.text(f"SELECT DISTINCT {column} FROM {table} WHERE substr({column}, 1, :length) = :old")
        for (address,) in connection.execute(below, {"old": old, "length": len(old)}).all():
            rest = address.removeprefix(old)
            if rest[:1] not in ("", "/") or (rest and _lies_elsewhere(home, old, own, rest)):
                continue
            change = sqlalchemy.text(f"UPDATE {table} SET {column} = :new WHERE {column} = :address")
            connection.execute(change, {"new": own + rest, "address": address})


def _lies_elsewhere(home: Path, old: str, own: str, rest: str) -> bool:
    """Whether artifacts lie at their absolute address, as MLflow reads it or as people do, and not in a folder."""
    path = urlsplit(old).path if old.startswith("file:") else old
    return not Path(f"{home}/{own}{rest}").exists() and any(Path(p + rest).exists() for p in {path, unquote(path)})


@cache
def _register() -> None:
    """Teach this process's MLflow to read relative addresses from everywhere."""
    import mlflow
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    class Beside(LocalArtifactRepository):
        """A folder; a relative one lies beside the database."""

        def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
            super().__init__(artifact_uri, tracking_uri, registry_uri)
            home = database(tracking_uri or mlflow.get_tracking_uri())
            if home is not None:
                self._artifact_dir = str(home.parent / self._artifact_dir)
            elif not Path(self._artifact_dir).is_absolute() and not Path(FOLDER).is_dir():
                raise UserError(
                    f"the tracking server keeps these artifacts in {self._artifact_dir}, which counts from its own "
                    "folder; work in the folder of its database, or name a new experiment in MLFLOW_EXPERIMENT_NAME"
                )

    for scheme in ("", "file"):
        _artifact_repository_registry.register(scheme, Beside)
