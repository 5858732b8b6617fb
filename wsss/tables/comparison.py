"""Runs beside each other: figures of each class, differences with intervals, and what else differs between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from wsss.classes import BACKGROUND, VOC
from wsss.errors import UserError
from wsss.interface import STAGES
from wsss.scores import Scores, bootstrap, metric_names
from wsss.scores.bootstrap import drawn_ious, ends, means_of
from wsss.scores.confusion import mean_over_classes
from wsss.scores.evaluation import Evaluation
from wsss.scores.scored import SCORED
from wsss.tables.published import Published, published
from wsss.tracking import names
from wsss.tracking.query import RunRecord

MEASURES = {
    metric_names.IOU: "IoU",
    metric_names.FALSE_POSITIVES: "FP, false positives as a share of the union",
    metric_names.FALSE_NEGATIVES: "FN, false negatives as a share of the union",
}
"""What can be shown of each class, by its name in `Scores`."""
RUNGS = tuple((split, what) for split in ("train", "dev", "val") for what in SCORED)
"""Split and what is scored, in the order in which a method makes it."""
_FACTS = {
    "commit": names.GIT_COMMIT,
    "uncommitted changes": names.GIT_DIRTY,
    "data version": names.DATA_MD5,
    "labels version": names.LABELS_MD5,
    "supervision": names.SUPERVISION,
    "backbone": names.BACKBONE,
    "weights": names.PRETRAINING,
    "version": names.VERSION,
    "machine": names.HOST,
    "cores": names.CORES,
}
_OF_LABELS = ("cam", "labels", "labels_crf")
Read = Callable[[RunRecord, str, str], Evaluation | None]


@dataclass(frozen=True)
class Difference:
    """How much better a run is than another on the images that both were scored on, with the same masks.

    Attributes:
        images: how many.
        value: the difference of the mean IoUs, in [-1, 1].
        low, high: its 95 % paired bootstrap interval.
        of_classes: float64 C, of each shared class; NaN where one of the two has no IoU of it.
        lows, highs: their intervals, float64 C.
    """

    images: int
    value: float
    low: float
    high: float
    of_classes: np.ndarray
    lows: np.ndarray
    highs: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Evaluations of one thing on one split, of several runs.

    Attributes:
        runs: all that were asked for.
        split, what: where, and what is scored.
        evaluations: by the id of the run; those that there are.
        absent: of the other runs why not, a sentence each.
    """

    runs: tuple[RunRecord, ...]
    split: str
    what: str
    evaluations: Mapping[str, Evaluation]
    absent: Mapping[str, str]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that all evaluations have, in the order of the first."""
        lists = [evaluation.classes for evaluation in self.evaluations.values()]
        return tuple(name for name in lists[0] if all(name in other for other in lists)) if lists else ()

    @cached_property
    def left_out(self) -> tuple[str, ...]:
        """The names of the classes that only some of the evaluations have."""
        names = {name for evaluation in self.evaluations.values() for name in evaluation.classes}
        return tuple(sorted(names - set(self.classes)))

    def figures(self, run_id: str, measure: str) -> np.ndarray:
        """A figure of each shared class, float64 C in [0, 1]; NaN where the class does not occur, or without a record.

        Args:
            run_id: of the run.
            measure: one of `MEASURES`.
        """
        if run_id not in self.evaluations:
            return np.full(len(self.classes), np.nan)
        evaluation = self.evaluations[run_id]
        places = [evaluation.classes.index(name) for name in self.classes]
        values: np.ndarray = getattr(evaluation.scores, measure)[places]
        return values

    def mean(self, run_id: str, measure: str) -> float:
        """The mean of `figures` over the classes that occur."""
        return mean_over_classes(self.figures(run_id, measure))

    def interval(self, run_id: str) -> tuple[float, float]:
        """The 95 % bootstrap interval of the mean IoU over the shared classes, of a run with a record."""
        return _interval(self._aligned(run_id, self.evaluations[run_id].ids))

    def shared_ids(self, run_id: str, other_id: str) -> tuple[str, ...]:
        """The images that two runs were scored on with the same mask; none where one of them has no record."""
        if run_id not in self.evaluations or other_id not in self.evaluations:
            return ()
        known = set(self.evaluations[other_id].ids)
        ids = tuple(id for id in self.evaluations[run_id].ids if id in known)
        # A row of the matrix is the mask's: it says how many pixels the mask has of the class.
        own, other = (self._aligned(each, ids).matrices.sum(2) for each in (run_id, other_id))
        return tuple(id for id, same in zip(ids, (own == other).all(1), strict=True) if same)

    def difference(self, run_id: str, base_id: str) -> Difference | None:
        """How much better a run is than another; None without an image that both were scored on, or a shared class."""
        ids = self.shared_ids(run_id, base_id)
        if not ids or not self.classes:
            return None
        return _difference(self._aligned(run_id, ids), self._aligned(base_id, ids), len(self.classes))

    def _aligned(self, run_id: str, ids: tuple[str, ...]) -> _Aligned:
        evaluation = self.evaluations[run_id]
        matrices = evaluation.matrices
        if ids != evaluation.ids:
            place = {id: number for number, id in enumerate(evaluation.ids)}
            matrices = matrices[[place[id] for id in ids]]
        if self.classes != evaluation.classes:
            matrices = restricted(matrices, [evaluation.classes.index(name) for name in self.classes])
        groups = tuple(self._groups.get(id, id) for id in ids) if self._groups else ()
        return _Aligned(run_id, self.split, self.what, ids, self.classes, groups, matrices)

    @cached_property
    def _groups(self) -> Mapping[str, str]:
        """Image to group, of all records that know of groups."""
        known = (evaluation for evaluation in self.evaluations.values() if evaluation.groups)
        return {id: group for each in known for id, group in zip(each.ids, each.groups, strict=True)}


def compare(runs: Sequence[RunRecord], split: str, what: str, read: Read) -> Comparison:
    """The comparison of runs; what can't be read of one is said, and the others are compared.

    Args:
        runs: whole records.
        split: such as "val".
        what: a name out of `wsss.scores.scored.SCORED`.
        read: the record of an evaluation of a run; None where it has none. It is called in threads.
    """
    evaluations, absent = {}, {}

    def one(run: RunRecord) -> Evaluation | str:
        try:
            found = read(run, split, what)
        except UserError as error:
            return f"{error}."
        return _why_not(run, split, what) if found is None else found

    with ThreadPoolExecutor(len(runs) or 1) as pool:
        for run, found in zip(runs, pool.map(one, runs), strict=True):
            if isinstance(found, str):
                absent[run.id] = found
            else:
                evaluations[run.id] = found
    return Comparison(tuple(runs), split, what, evaluations, absent)


def places(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Split and what is scored, of all that any of the runs has, the most telling first."""
    order = [(split, what) for split in ("val", "dev", "train") for what in reversed(SCORED)]
    return [(split, what) for split, what in order if any(_miou(split, what) in run.metrics for run in runs)]


def ladder(run: RunRecord) -> dict[tuple[str, str], float]:
    """The mean IoU of each thing that was scored on each split, in the order of `RUNGS`."""
    return {rung: run.metrics[_miou(*rung)] for rung in RUNGS if _miou(*rung) in run.metrics}


def references(comparison: Comparison) -> list[Published]:
    """What others published of the compared methods, where the classes and the split are those of VOC 2012."""
    if set(comparison.classes) != {BACKGROUND, *VOC} or comparison.what in _OF_LABELS:
        return []
    methods = {run.method for run in comparison.runs}
    return [each for each in published() if each.method in methods and each.split == comparison.split]


def settings_that_differ(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Setting to its text in each run, "" where a run has none; those that are the same in all are left out."""
    return _that_differ([run.params for run in runs])


def facts_that_differ(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Of each run the data, commit and machine behind it, as far as they differ."""
    return _that_differ([{said: run.tags.get(tag, "") for said, tag in _FACTS.items()} for run in runs])


def seconds(runs: Sequence[RunRecord]) -> dict[str, list[float]]:
    """Step to its seconds in each run, NaN where a run has no such step; in the order in which steps are run."""
    time = metric_names.TIME
    keys = {key for run in runs for key in run.metrics if key.startswith(time)}
    stage = {f"{time}{name}": place for place, name in enumerate(STAGES)}
    ordered = sorted(keys, key=lambda key: (stage.get(key.partition(".")[0], len(stage)), key))
    return {
        key.removeprefix(time).removesuffix("_s"): [run.metrics.get(key, float("nan")) for run in runs]
        for key in ordered
    }


def restricted(matrices: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Confusion matrices of some classes, with all others as one more behind them; the IoUs stay what they were.

    Args:
        matrices: integer N x (C + 1) x (C + 1).
        classes: S indices.

    Returns:
        N x (S + 1) x (S + 1).
    """
    kept = list(classes)
    others = [index for index in range(matrices.shape[1]) if index not in set(kept)]
    rows = np.concatenate([matrices[:, kept], matrices[:, others].sum(1, keepdims=True)], axis=1)
    return np.concatenate([rows[:, :, kept], rows[:, :, others].sum(2, keepdims=True)], axis=2)


@dataclass(frozen=True)
class _Aligned:
    """The matrices of an evaluation over chosen images and classes; equal where they are of the same."""

    run_id: str
    split: str
    what: str
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    matrices: np.ndarray = field(compare=False)


@lru_cache(maxsize=64)
def _interval(aligned: _Aligned) -> tuple[float, float]:
    return bootstrap(aligned.matrices, classes=range(len(aligned.classes)), groups=aligned.groups)


@lru_cache(maxsize=64)
def _drawn(aligned: _Aligned) -> np.ndarray:
    return drawn_ious(aligned.matrices, aligned.groups)[:, : len(aligned.classes)]


@lru_cache(maxsize=256)
def _difference(own: _Aligned, base: _Aligned, classes: int) -> Difference:
    first, second = (Scores.of(each.matrices.sum(0, dtype=np.int64)).iou[:classes] for each in (own, base))
    drawn, drawn_base = _drawn(own), _drawn(base)
    low, high = ends(means_of(drawn) - means_of(drawn_base))
    lows, highs = ends(drawn - drawn_base)
    value = mean_over_classes(first) - mean_over_classes(second)
    return Difference(len(own.ids), value, float(low), float(high), first - second, lows, highs)


def _that_differ(of_runs: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    keys = dict.fromkeys(key for each in of_runs for key in sorted(each))
    texts = {key: [each.get(key, "") for each in of_runs] for key in keys}
    return {key: values for key, values in texts.items() if len(set(values)) > 1}


def _why_not(run: RunRecord, split: str, what: str) -> str:
    if _miou(split, what) in run.metrics:
        return f"Its record of {what} on {split}, {names.confusion_file(split, what)}, is gone from its artifacts."
    if run.status == "RUNNING":
        return f"It is still going and has not scored {what} on {split} yet."
    has = ", ".join(f"{what} on {split}" for split, what in ladder(run))
    return f"It has no {what} on {split}; it has {has}." if has else "It scored nothing: its dataset has no masks."


def _miou(split: str, what: str) -> str:
    return metric_names.metric(split, what, metric_names.MIOU)
