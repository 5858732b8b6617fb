"""Artifacts of runs, read without leaving a copy behind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wsss.errors import UserError, one_line
from wsss.storage import inside, temporary_folder
from wsss.tracking.connection import mlflow_client

if TYPE_CHECKING:
    from mlflow import MlflowClient


def read_artifact(run_id: str, path: str) -> bytes:
    """The content of an artifact.

    Args:
        run_id: MLflow's.
        path: below the run's artifacts, from `wsss.tracking.names`.

    Raises:
        FileNotFoundError: the run has no such artifact, or all of them are gone.
        UserError: its store can't be reached, the tracking store can't be used, or the path leaves the artifacts.
    """
    client = mlflow_client()
    with temporary_folder() as folder:
        inside(folder, path)
        try:
            return Path(client.download_artifacts(run_id, path, str(folder))).read_bytes()
        except Exception as error:  # each kind of store has its own
            if not _may_be_there(run_id, path):
                raise FileNotFoundError(_missing(client, run_id, path)) from None
            raise UserError(
                f"artifact {path} of run {run_id} can't be read ({one_line(error)}); "
                "check that its store can be reached"
            ) from error


def list_artifacts(run_id: str, folder: str) -> list[str]:
    """The paths of the artifacts in a folder of a run, below the run's artifacts; empty where there is none.

    Raises:
        UserError: their store can't be reached, or the tracking store can't be used.
    """
    client = mlflow_client()
    try:
        return [entry.path for entry in client.list_artifacts(run_id, folder) if not entry.is_dir]
    except Exception as error:  # each kind of store has its own
        raise UserError(
            f"the artifacts of run {run_id} can't be listed ({one_line(error)}); check that their store can be reached"
        ) from error


def _missing(client: MlflowClient, run_id: str, path: str) -> str:
    """Why an artifact is not there. Every run of ours begins with artifacts: without any, they were removed."""
    if client.list_artifacts(run_id):
        return f"run {run_id} has no artifact {path}"
    place = client.get_run(run_id).info.artifact_uri
    return f"the artifacts of run {run_id} are gone: nothing is left in {place}; bring that folder back"


def _may_be_there(run_id: str, path: str) -> bool:
    """Whether the artifact is listed, or nobody can list it: then the error of the download is the one to tell."""
    folder = path.rpartition("/")[0]
    try:
        return any(entry.path == path for entry in mlflow_client().list_artifacts(run_id, folder or None))
    except Exception:
        return True
