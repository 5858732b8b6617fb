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
        UserError: its store can't be reached, the tracking store can't be used, or the path leaves the artifacts.
    """
    client = mlflow_client()
    with temporary_folder() as folder:
        inside(folder, path)
        try:
            return Path(client.download_artifacts(run_id, path, str(folder))).read_bytes()
        except Exception as error:  # each kind of store has its own
            if not _may_be_there(run_id, path):
                raise FileNotFoundError(f"run {run_id} has no artifact {path}") from None
            raise UserError(
                f"artifact {path} of run {run_id} can't be read ({one_line(error)}); "
                "check that its store can be reached"
            ) from error


def _may_be_there(run_id: str, path: str) -> bool:
    """Whether the artifact is listed, or nobody can list it: then the error of the download is the one to tell."""
    folder = path.rpartition("/")[0]
    try:
        return any(entry.path == path for entry in mlflow_client().list_artifacts(run_id, folder or None))
    except Exception:
        return True
