"""Label maps, or a model's, against the masks of a split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from wsss.classes import NO_CLASS
from wsss.data import Dataset
from wsss.data.checking import check_unchanged
from wsss.data.ids import files_by_id
from wsss.data.label_folder import PNG, LabelFolder
from wsss.data.label_maps import INDEX, label_digest
from wsss.data.parallel import each, some
from wsss.errors import UserError, unknown
from wsss.progress import say
from wsss.scores import Evaluation, Masks, confusion
from wsss.scores.evaluation import WITHOUT_OBJECTS
from wsss.serving.package import load_package, load_step
from wsss.serving.segmenter import Segmenter


def as_json(evaluation: Evaluation, dataset: Dataset) -> dict[str, Any]:
    """Everything but the matrices, JSON-ready: shares in [0, 1], None for a class that does not occur."""
    scores = evaluation.scores
    columns = zip(evaluation.classes, _plain(scores.iou), _plain(scores.fp), _plain(scores.fn), strict=True)
    return {
        "what": evaluation.what,
        "dataset": dataset.name,
        "split": evaluation.split,
        "masks": evaluation.masks,
        "labels": evaluation.labels,
        "images": len(evaluation.ids),
        "miou": scores.miou,
        "interval": list(evaluation.interval),
        "fp": scores.mean_fp,
        "fn": scores.mean_fn,
        "pixel_accuracy": scores.pixel_accuracy,
        "classes": {name: {"iou": iou, "fp": fp, "fn": fn} for name, iou, fp, fn in columns if name != NO_CLASS},
    }


def as_table(evaluation: Evaluation, dataset: Dataset) -> Table:
    """A row for each class and the mean, in percent."""
    low, high = evaluation.interval
    scores, drawn = evaluation.scores, "groups" if evaluation.groups else "images"
    table = Table(
        title=f"{evaluation.what} on {dataset.name}/{evaluation.split}, {len(evaluation.ids)} images",
        caption=f"mIoU {scores.miou:.1%}, 95 % interval over {drawn} {low:.1%} to {high:.1%}; "
        "FP and FN as shares of the union",
    )
    table.add_column("class")
    for name in ("IoU", "FP", "FN"):
        table.add_column(name, justify="right")
    for row in zip(evaluation.classes, scores.iou, scores.fp, scores.fn, strict=True):
        if row[0] != NO_CLASS:
            table.add_row(row[0], *map(_percent, row[1:]))
    table.add_section()
    table.add_row("mean", *map(_percent, (scores.miou, scores.mean_fp, scores.mean_fn)))
    return table


def evaluate(path: str, dataset: Dataset, split: str) -> Evaluation:
    """Compare label maps with the masks of a split.

    Args:
        path: a model (`models:/...`, a package, a training step's output folder) or a folder of label maps (ID.png, or
            the shards of a step's output).
        dataset: images, and the masks beside them.
        split: one of its splits.

    Raises:
        UserError: nothing of this kind at the path, an unknown split or one without masks, other classes than the
            dataset's; label maps that are missing, unreadable or of another size (all of them at once).
    """
    ids = _masked(dataset, split)
    return _compare(path, _labels(path, dataset), dataset, split, ids)


def evaluate_model(model: Segmenter, dataset: Dataset, split: str) -> Evaluation:
    """Compare a model's label maps with the masks of a split; see `evaluate`."""
    return _compare(model.version, _model_labels(model, dataset), dataset, split, _masked(dataset, split))


def _masked(dataset: Dataset, split: str) -> tuple[str, ...]:
    if split not in dataset.splits:
        raise unknown("split", split, dataset.splits)
    check_unchanged(dataset)
    ids = Masks(dataset).ids(split)
    if not ids:
        raise UserError(f"dataset {dataset.name} has no masks for its split {split}; there is nothing to compare with")
    return ids


def _compare(
    what: str, labels: Callable[[str], np.ndarray], dataset: Dataset, split: str, ids: tuple[str, ...]
) -> Evaluation:
    masks = Masks(dataset)

    def compare(image_id: str) -> tuple[np.ndarray, str] | str:
        try:
            found = labels(image_id)
            matrix = confusion(masks.read(image_id), found, len(dataset.classes))
            return matrix, f"{image_id} {label_digest(found)}\n"
        except UserError as error:
            return f"{image_id}: {error}"

    compared = each(compare, ids, "evaluating")
    if problems := [problem for problem in compared if isinstance(problem, str)]:
        raise UserError(f"{what} can't be evaluated on {dataset.name}/{split}: {some(problems)}")
    matrices, digests = zip(*(pair for pair in compared if not isinstance(pair, str)), strict=True)
    scored = hashlib.sha256("".join(digests).encode()).hexdigest()
    names = dataset.classes.with_background
    counts, groups = np.array(matrices, np.int32), dataset.groups_of(ids)
    evaluation = Evaluation(split, what, ids, names, counts, masks.digest_of(ids), scored, groups)
    if evaluation.without_objects:
        say(f"{dataset.name}/{split}: {WITHOUT_OBJECTS}")
    return evaluation


def _labels(path: str, dataset: Dataset) -> Callable[[str], np.ndarray]:
    folder = Path(path)
    if path.startswith("models:/") or (folder / "MLmodel").is_file():
        return _model_labels(load_package(path), dataset)
    if (folder / "model.json").is_file():
        return _model_labels(load_step(folder, dataset.classes), dataset)
    if (folder / INDEX).is_file() or files_by_id(folder, PNG, below=True, whole=True):
        return LabelFolder(folder).read
    raise UserError(
        f"{path} is neither a model (models:/NAME@ALIAS, models:/NAME/VERSION, a package, the output folder of a "
        "segment.train step) nor a folder of label maps (ID.png, or the shards of a step's output)"
    )


def _model_labels(model: Segmenter, dataset: Dataset) -> Callable[[str], np.ndarray]:
    if model.classes != dataset.classes:
        raise UserError(
            f"model {model.version} knows the classes {some(model.classes.names)}; "
            f"dataset {dataset.name} has {some(dataset.classes.names)}"
        )
    return lambda image_id: model(dataset.image(image_id))


def _plain(values: Sequence[float] | np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if np.isfinite(share) else "-"
