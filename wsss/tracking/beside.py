"""Artifacts of a SQLite store lie beside its database, by addresses that count from there.

MLflow's own addresses are absolute, so that a workspace that is renamed or copied would go on writing into its old
place, and percent signs in them are taken for quoted characters. Below `mlruns` beside the database they become
relative here, such as `mlruns/0/RUN/artifacts`: MLflow reads these in the folder of the database, we from everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
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

    They do when they lie there, and when they lie nowhere: those of an experiment whose runs lie elsewhere stay as they
    are. A database that can't be written stays as it is.

    Args:
        uri: of the tracking store, which has its tables.
    """
    home = database(uri)
    if home is None:
        return
    import sqlalchemy

    _register()
    engine = sqlalchemy.create_engine(uri)
    with suppress(sqlalchemy.exc.OperationalError), engine.begin() as connection:
        for old, new in list(_moves(connection, home.parent)):
            for table, column in _ADDRESSES:
                connection.execute(
                    sqlalchemy.text(
                        f"UPDATE {table} SET {column} = :new || substr({column}, :length) "
                        f"WHERE {column} = :old OR substr({column}, 1, :length) = :below"
                    ),
                    {"new": new, "old": old, "below": f"{old}/", "length": len(old) + 1},
                )
    engine.dispose()


def _moves(connection: Connection, home: Path) -> Iterator[tuple[str, str]]:
    """The address of each experiment that belongs to a folder, and what it becomes."""
    import sqlalchemy

    for number, address in connection.execute(
        sqlalchemy.text("SELECT experiment_id, artifact_location FROM experiments")
    ):
        own = f"{FOLDER}/{number}"
        text = address or ""
        if urlsplit(text).scheme not in ("", "file") or text == own or not text.endswith(f"/{own}"):
            continue
        runs = connection.execute(
            sqlalchemy.text("SELECT run_uuid FROM runs WHERE experiment_id = :number"), {"number": number}
        )
        names = [name for (name,) in runs]
        if _lie(home / own, names) or not any(_lie(place, names) for place in _places(text) if place != home / own):
            yield text, own


def _places(address: str) -> set[Path]:
    """The folders that an absolute address may mean: MLflow's reading of it, and that of people."""
    path = urlsplit(address).path if address.startswith("file:") else address
    return {Path(path), Path(unquote(path))}


def _lie(folder: Path, runs: list[str]) -> bool:
    return any((folder / run).is_dir() for run in runs)


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
