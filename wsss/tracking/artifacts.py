"""Artifacts of runs, read without leaving a copy behind."""

from __future__ import annotations

from pathlib import Path

from wsss.errors import UserError
from wsss.storage import inside, temporary_folder
from wsss.tracking.connection import mlflow_client, one_line


def read_artifact(run_id: str, path: str) -> bytes:
    """The content of an artifact.

    Args:
        run_id: MLflow's.
        path: below the run's artifacts, from `wsss.tracking.names`.

    Raises:
        FileNotFoundError: the run has no such artifact.
        UserError: its store can't be reached, or the tracking store can't be used.
    """
    client = mlflow_client()
    try:
        with temporary_folder() as folder:
            inside(folder, path)
            return Path(client.download_artifacts(run_id, path, str(folder))).read_bytes()
    except Exception as error:
        if not _is_there(run_id, path):
            raise FileNotFoundError(f"run {run_id} has no artifact {path}") from None
        raise UserError(
            f"artifact {path} of run {run_id} can't be read ({one_line(error)}); check that its store can be reached"
        ) from error


def _is_there(run_id: str, path: str) -> bool:
    """Whether the artifact is listed; stores differ in how they say that something is missing."""
    folder = path.rpartition("/")[0]
    try:
        return any(entry.path == path for entry in mlflow_client().list_artifacts(run_id, folder or None))
    except Exception:
        return True
