"""Which images a run's model learnt from, kept with the run; a candidate that saw evaluation images proves nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from wsss import versions
from wsss.data import Dataset, layout
from wsss.data.manifest import read_manifest
from wsss.data.parallel import some
from wsss.errors import UserError
from wsss.run.method import extra_datasets
from wsss.run.plan import Plan
from wsss.tracking import names
from wsss.tracking.artifacts import read_artifact
from wsss.tracking.connection import mlflow_client
from wsss.tracking.origin import origin

_LEARNT = ("train", "dev")


def keep_lineage(run_id: str, dataset: Dataset, plan: Plan | None = None) -> None:
    """Log with a run which images it learnt from: ids and sha256, as the datasets' manifests have them.

    Args:
        run_id: MLflow's.
        dataset: the run's.
        plan: its plan, whose settings may name further datasets.
    """
    content = [_entry(dataset)]
    try:
        content += map(_entry, extra_datasets(plan) if plan else ())
    except UserError:  # the record of a run elsewhere, whose further data is not here
        content.append({"dataset": "", "digest": "", "images": None})
    mlflow_client().log_text(run_id, json.dumps(content, indent=0) + "\n", names.LINEAGE)


def _entry(dataset: Dataset) -> dict[str, Any]:
    return {"dataset": dataset.name, "digest": dataset.digest, "images": _learnt(dataset)}


def unseen(run_id: str, dataset: Dataset, ids: Sequence[str]) -> str:
    """How it is known that a run's model learnt from none of the evaluation images.

    An image is known by its bytes, and within one dataset by its id too.

    Args:
        run_id: MLflow's; empty where no run made the model.
        dataset: that of the evaluation.
        ids: the evaluation images'.

    Raises:
        UserError: it saw one, or it is not known what it saw.
    """
    images = _hashes(dataset)
    own = {images[id] for id in ids if id in images}
    for entry in _lineage(run_id, dataset):
        learnt = _resolved(entry, dataset, images)
        same = entry["dataset"] == dataset.name
        if seen := [id for id, sha256 in learnt.items() if sha256 in own or (same and id in set(ids))]:
            raise UserError(
                f"its run learnt from {len(seen)} of the {len(ids)} evaluation images, {some(sorted(seen))}, so that "
                "its figures would say nothing; train it without them"
            )
    return f"none of {len(ids)} images"


def _lineage(run_id: str, dataset: Dataset) -> list[dict[str, Any]]:
    if not run_id:
        raise UserError("it is not known which images it learnt from, as no run made it")
    try:
        content = read_artifact(run_id, names.LINEAGE)
    except FileNotFoundError:
        # Of the version before: the same data has its splits apart.
        if _same_data(origin(run_id).digest, dataset):
            return [_entry(dataset)]
        raise UserError(
            f"it is not known which images it learnt from: run {run_id} has no {names.LINEAGE}, and was on other data "
            f"than dataset {dataset.name} holds now"
        ) from None
    try:
        entries = [{key: entry[key] for key in ("dataset", "digest", "images")} for entry in json.loads(content)]
        if all(isinstance(entry["images"], dict) for entry in entries):
            return entries
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{names.LINEAGE} of run {run_id} is damaged, so it is not known what it learnt from") from None
    raise UserError("it is not known which images of further datasets it learnt from, as its run was imported without")


def _same_data(digest: str, dataset: Dataset) -> bool:
    """Whether a run's digest, DVC's or the beginning of the content's, is that of the dataset as it is here."""
    return bool(digest) and (dataset.digest.startswith(digest) or versions.content_of(dataset.root).md5 == digest)


def _resolved(entry: Mapping[str, Any], dataset: Dataset, images: Mapping[str, str]) -> dict[str, str]:
    """Id to sha256; what a run on a machine elsewhere did not record is known where the data is the same."""
    same = entry["digest"] == dataset.digest
    return {id: sha256 or (images.get(id, "") if same else "") for id, sha256 in entry["images"].items()}


def _learnt(dataset: Dataset) -> dict[str, str]:
    images = _hashes(dataset)
    return {id: images.get(id, "") for split in _LEARNT for id in dataset.splits.get(split, ())}


def _hashes(dataset: Dataset) -> dict[str, str]:
    """Id to sha256 of the images; nothing for a dataset that is known by its record alone."""
    if not (dataset.root / layout.DESCRIPTION).is_file():
        return {}
    entries = read_manifest(dataset.root)
    return {id: entries[name].sha256 for id, name in layout.ids_of(entries, layout.IMAGES).items()}
