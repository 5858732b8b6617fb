"""The record of an evaluation, from which every score, interval, comparison, table and page comes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wsss.classes import NO_CLASS
from wsss.errors import UserError
from wsss.scores import metric_names
from wsss.scores.bootstrap import bootstrap
from wsss.scores.confusion import Scores
from wsss.scores.thresholds import THRESHOLDS, ThresholdSweep

WITHOUT_OBJECTS = "no mask shows a class here, so that the figures are of the background alone"


@dataclass(frozen=True)
class Evaluation:
    """Label maps against the masks of a split.

    Attributes:
        split: such as "val".
        what: what is scored: a name out of `wsss.scores.scored.SCORED`, or the address of a model or a folder.
        ids: the N images, those of the split that have a mask.
        classes: the C + 1 names by index; the first is `wsss.classes.NO_CLASS` where there is no background.
        matrices: int32 N x (C + 1) x (C + 1), a confusion matrix for each image, row the truth.
        masks: sha256 over the ids and the masks that were compared with; empty where it was not kept.
        labels: sha256 over the ids and the label maps that were scored; empty where it was not kept.
        groups: of each image its group, which no bootstrap divides; empty where each is its own.
        levels: of score maps whose threshold was chosen here, so that other means may choose another: int32 M x 5, the
            number of the image and what `levels_of` gives of it; else of no row.
    """

    split: str
    what: str
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    matrices: np.ndarray
    masks: str = ""
    labels: str = ""
    groups: tuple[str, ...] = ()
    levels: np.ndarray = field(default_factory=lambda: np.zeros((0, 5), np.int32))

    def best_threshold(self, classes: Sequence[int] | None = None) -> float:
        """The threshold of the constant background that is best for the mean IoU over all or over some classes."""
        sweep = ThresholdSweep(len(self.classes) - 1)
        sweep.add(self.levels[:, 1:])
        return sweep.best(classes)[0]

    def at(self, threshold: float) -> Evaluation:
        """The same score maps with a background of another threshold, in [0, 1]."""
        image, truth, best, level, count = self.levels.T
        matrices = np.zeros_like(self.matrices)
        labels = np.where(level >= round(threshold * THRESHOLDS), best, 0)
        np.add.at(matrices, (image, truth, labels), count)
        return replace(self, matrices=matrices, labels="")

    @cached_property
    def scores(self) -> Scores:
        """The scores of the summed matrix."""
        return Scores.of(self.matrices.sum(0, dtype=np.int64), self.background)

    @property
    def background(self) -> bool:
        """Whether index 0 is a class."""
        return self.classes[0] != NO_CLASS

    @property
    def indices(self) -> Sequence[int] | None:
        """The indices that means are taken over; None for all."""
        return None if self.background else range(1, len(self.classes))

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % bootstrap interval of the mean IoU over images, or over groups where there are any."""
        return bootstrap(self.matrices, classes=self.indices, groups=self.groups)

    @property
    def metrics(self) -> dict[str, float]:
        """The scores by metric name, NaN for a class that does not occur."""
        values = {
            metric_names.MIOU: self.scores.miou,
            metric_names.FALSE_POSITIVES: self.scores.mean_fp,
            metric_names.FALSE_NEGATIVES: self.scores.mean_fn,
            metric_names.PIXEL_ACCURACY: self.scores.pixel_accuracy,
            metric_names.MIOU_LOW: self.interval[0],
            metric_names.MIOU_HIGH: self.interval[1],
        }
        of_classes = zip(self.classes, self.scores.iou, strict=True)
        return {metric_names.metric(self.split, self.what, name): value for name, value in values.items()} | {
            metric_names.metric(self.split, self.what, metric_names.IOU, name): float(iou)
            for name, iou in of_classes
            if name != NO_CLASS
        }

    @property
    def without_objects(self) -> bool:
        """Whether no mask shows a class, so that an empty prediction is a perfect one."""
        return not self.matrices[:, 1:].any()

    @property
    def per_image(self) -> list[float]:
        """The mean IoU of each image over the classes that occur in its mask or prediction; NaN without any."""
        return [Scores.of(matrix, self.background).miou for matrix in self.matrices]


def joined(split: str, evaluations: Sequence[Evaluation]) -> Evaluation:
    """Evaluations of the same thing on several splits as one, of a split of its own name."""
    first = evaluations[0]
    ids = tuple(id for evaluation in evaluations for id in evaluation.ids)
    matrices = np.concatenate([e.matrices for e in evaluations])
    groups = tuple(group for evaluation in evaluations for group in evaluation.groups)
    return Evaluation(split, first.what, ids, first.classes, matrices, groups=groups)


def encode(evaluation: Evaluation) -> bytes:
    """An evaluation as an npz of plain arrays: "split", "what", "ids", "classes", "matrices", "masks", "labels".

    "groups" comes to them where images have some, "levels" where a threshold was chosen.
    """
    file = io.BytesIO()
    more: dict[str, Any] = {"groups": np.array(evaluation.groups, dtype=np.str_)} if evaluation.groups else {}
    if len(evaluation.levels):
        more["levels"] = evaluation.levels
    np.savez_compressed(
        file,
        split=np.array(evaluation.split),
        what=np.array(evaluation.what),
        ids=np.array(evaluation.ids, dtype=np.str_),
        classes=np.array(evaluation.classes, dtype=np.str_),
        matrices=evaluation.matrices.astype(np.int32),
        masks=np.array(evaluation.masks),
        labels=np.array(evaluation.labels),
        **more,
    )
    return file.getvalue()


def load(path: Path) -> Evaluation:
    """The evaluation in a file that `encode` made.

    Raises:
        UserError: it is no such file.
    """
    try:
        return decode(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None


def decode(content: bytes, where: str) -> Evaluation:
    """The evaluation that `encode` wrote; records without groups, levels or the hashes of masks and labels are read.

    Args:
        content: the npz.
        where: it comes from, for the error message.

    Raises:
        UserError: it is no such record.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays: Mapping[str, np.ndarray] = dict(file)
        return Evaluation(
            split=str(arrays["split"]),
            what=str(arrays["what"]),
            ids=tuple(arrays["ids"].tolist()),
            classes=tuple(arrays["classes"].tolist()),
            matrices=arrays["matrices"],
            masks=str(arrays.get("masks", "")),
            labels=str(arrays.get("labels", "")),
            groups=tuple(arrays["groups"].tolist()) if "groups" in arrays else (),
            **({"levels": arrays["levels"]} if "levels" in arrays else {}),
        )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, TypeError) as error:
        raise UserError(f"{where} is not the record of an evaluation ({error})") from None
