"""The label maps of runs: fetched again by the run's id, whether they were ever committed or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from wsss import versions
from wsss.errors import UserError
from wsss.tracking import names
from wsss.tracking.connection import mlflow_client

if TYPE_CHECKING:
    from mlflow.entities import Run


def label_path(dataset: str, method: str, preset: str, rng: int) -> Path:
    """Where a method's label maps are laid out in the workspace."""
    return Path("labels", dataset, f"{method}-{preset}-{rng}")


def pull_labels(run_id: str, to: Path | None = None) -> tuple[Path, str]:
    """Lay out the label maps of a run.

    Args:
        run_id: MLflow's.
        to: the folder; by default `labels/<dataset>/<method>-<preset>-<rng>`.

    Returns:
        The folder and the DVC version (md5) of what is in it.

    Raises:
        UserError: no such run, a run without labels, files that are nowhere, or a folder that holds something else.
    """
    run, md5 = _labels_of(run_id)
    tags = run.data.tags
    target = to or label_path(tags[names.DATASET], tags[names.METHOD], tags[names.PRESET], int(tags[names.RNG]))
    path = mlflow_client().download_artifacts(run_id, names.dvc_manifest_file("labels"))
    versions.fetch(md5, json.loads(Path(path).read_text()))
    versions.checkout(md5, target)
    return target, md5


def push_labels(run_id: str) -> str:
    """Copy the label maps of a run from DVC's cache to its default remote; their version (md5).

    Raises:
        UserError: no such run, a run without labels, or a remote that can't be written.
    """
    _, md5 = _labels_of(run_id)
    versions.push(md5)
    return md5


def _labels_of(run_id: str) -> tuple[Run, str]:
    from mlflow.exceptions import MlflowException

    try:
        run = mlflow_client().get_run(run_id)
    except MlflowException:
        raise UserError(f"there is no run {run_id}; `wsss compare` lists the runs and their ids") from None
    md5 = run.data.tags.get(names.LABELS_MD5)
    if md5 is None:
        raise UserError(f"run {run_id} made no labels; only runs with a refine stage do")
    return run, md5
