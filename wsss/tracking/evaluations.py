"""What is kept of an evaluation: its figures by name, its confusion matrices, and the mIoU of each image."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import numpy as np

from wsss.evaluation import Scores
from wsss.tracking import names


def figures(
    split: str, what: str, classes: Sequence[str], matrices: np.ndarray, interval: tuple[float, float] | None = None
) -> dict[str, float]:
    """The figures of an evaluation by metric name, NaN for a class that does not occur.

    Args:
        split, what: the first parts of the names.
        classes: the C + 1 names, background first.
        matrices: integer N x (C + 1) x (C + 1).
        interval: lower and upper end of the mean IoU's confidence interval.
    """
    scores = Scores.of(matrices.sum(0, dtype=np.int64))
    values = {
        names.MIOU: scores.miou,
        names.FALSE_POSITIVES: scores.mean_fp,
        names.FALSE_NEGATIVES: scores.mean_fn,
        names.PIXEL_ACCURACY: scores.pixel_accuracy,
    }
    if interval:
        values[names.MIOU_LOW], values[names.MIOU_HIGH] = interval
    found = {names.metric(split, what, name): value for name, value in values.items()}
    return found | {
        names.metric(split, what, names.IOU, name): float(iou) for name, iou in zip(classes, scores.iou, strict=True)
    }


def confusion_npz(split: str, what: str, classes: Sequence[str], matrices: np.ndarray, ids: Sequence[str]) -> bytes:
    """An npz of `split`, `what`, `classes`, `ids` (texts), `matrices` (int32 N x (C + 1) x (C + 1)), `summed`."""
    file = io.BytesIO()
    np.savez_compressed(
        file,
        split=np.array(split),
        what=np.array(what),
        classes=np.array(classes, dtype=np.str_),
        ids=np.array(ids, dtype=np.str_),
        matrices=matrices.astype(np.int32),
        summed=matrices.sum(0, dtype=np.int64),
    )
    return file.getvalue()


def per_image_table(matrices: np.ndarray, ids: Sequence[str]) -> bytes:
    """An MLflow table (JSON) of image and mean IoU over the classes that occur in its mask or prediction."""
    rows = []
    for image, matrix in zip(ids, matrices, strict=True):
        miou = Scores.of(matrix).miou
        rows.append([image, round(miou, 6) if np.isfinite(miou) else None])
    return json.dumps({"columns": ["image", "miou"], "data": rows}).encode()
