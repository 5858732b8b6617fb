"""Label maps of runs: laid out, exported and pushed by the id of the run that made them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from wsss import versions
from wsss.data.label_maps import LabelMaps
from wsss.data.layout import building
from wsss.data.palette_png import write_palette_png
from wsss.data.parallel import each
from wsss.errors import UserError
from wsss.storage import inside
from wsss.tracking import names
from wsss.tracking.artifacts import read_artifact
from wsss.tracking.query import RunRecord, find_run


def label_path(dataset: str, method: str, preset: str, rng: int) -> Path:
    """Where a method's label maps are laid out in the workspace."""
    return inside("labels", f"{dataset}/{method}-{preset}-{rng}")


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
    target = to or label_path(run.dataset, run.method, run.preset, run.rng)
    try:
        manifest = json.loads(read_artifact(run.id, names.dvc_manifest_file(names.LABELS)))
    except FileNotFoundError as error:
        raise UserError(f"{error}; without that list of files its labels can't be fetched") from None
    versions.fetch(md5, manifest)
    versions.checkout(md5, target)
    return target, md5


def export_labels(run_id: str, to: Path) -> int:
    """Write the label maps of a run as palette PNGs `ID.png`, for code that knows nothing of this project.

    Args:
        run_id: MLflow's.
        to: the folder; it appears complete or not at all.

    Returns:
        How many there are.

    Raises:
        UserError: the folder exists; otherwise see `pull_labels`.
    """
    if to.exists():
        raise UserError(f"{to} exists; name a folder that does not exist yet")
    with building(to) as partial:
        maps = LabelMaps(pull_labels(run_id, partial / ".shards")[0])
        each(lambda id: write_palette_png(inside(partial, f"{id}.png"), maps.read(id)), maps.ids, "exporting")
        shutil.rmtree(maps.folder)
    return len(maps)


def push_labels(run_id: str) -> str:
    """Copy the label maps of a run from DVC's cache to its default remote; their version (md5).

    Raises:
        UserError: no such run, a run without labels, or a remote that can't be written.
    """
    _, md5 = _labels_of(run_id)
    versions.push(md5)
    return md5


def _labels_of(run_id: str) -> tuple[RunRecord, str]:
    run = find_run(run_id)
    md5 = run.tags.get(names.LABELS_MD5)
    if md5 is None:
        raise UserError(f"run {run_id} made no labels; only runs with a refine stage do")
    return run, md5
