"""Scoring what the steps give against the masks: the one stage that may see them for every method."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsss.data.label_maps import LabelMaps, label_digest
from wsss.data.score_maps import ScoreMap, ScoreMaps
from wsss.interface import Step, StepContext
from wsss.ops.tiles import is_large, part_at_size, windows
from wsss.scores import Evaluation, Masks, Scores, ThresholdSweep, confusion, levels_of, metric_names
from wsss.scores.evaluation import encode, load
from wsss.scores.scored import SCORED
from wsss.settings import setting
from wsss.stages.outputs import write_metrics
from wsss.stages.refine import upsampled

DEFAULT_THRESHOLD = 0.2


@dataclass(frozen=True)
class LabelEvaluation:
    """Scoring label maps has nothing to set."""


@dataclass(frozen=True)
class CamEvaluation:
    """Scoring score maps needs a background."""

    threshold: float | None = setting(
        None,
        f"score of the constant background; none is the best on dev ({DEFAULT_THRESHOLD} where dev has no masks)",
        low=0,
        high=1,
    )


def evaluated_ids(splits: Mapping[str, tuple[str, ...]], masks: Masks, split: str) -> tuple[str, ...]:
    """The ids a split is scored on: those with a mask; of train, those whose mask is an official one."""
    if split == "train" and "train_official" in splits:
        return masks.ids("train_official")
    return masks.ids(split)


def evaluate_labels(context: StepContext, what: str, splits: Sequence[str]) -> None:
    """Evaluations of label maps: `<split>.npz`, see `wsss.scores.evaluation`.

    A split of which there is no map at all is left out: imported labels may be of train alone.
    """
    maps = LabelMaps(context.inputs["maps"] / what)
    for split in splits:
        if not set(maps.ids).isdisjoint(context.dataset.splits[split]):
            _evaluate(context, what, split, maps.read)


def evaluate_cam(context: StepContext, what: str, splits: Sequence[str]) -> None:
    """Evaluations of argmax over [t, M_1, ..., M_K], and the curve over t (`sweep.json`).

    Where t is chosen, the evaluations hold the levels of the scores too: a mean over some classes can choose its own.

    Without a background there is no t: the largest map decides.
    """
    settings: CamEvaluation = context.settings
    masks, maps = context.masks, ScoreMaps(context.inputs["maps"] / what)
    assert masks is not None
    if not context.dataset.has_background:
        for split in splits:
            _evaluate(context, what, split, lambda image_id: _foreground(maps.read(image_id))[0])
        return
    classes = len(context.dataset.classes)
    curves = {split: ThresholdSweep(classes) for split in splits}
    levels: dict[str, list[np.ndarray]] = {split: [np.zeros((0, 5), np.int32)] for split in splits}
    for split in splits:
        for number, image_id in enumerate(evaluated_ids(context.dataset.splits, masks, split)):
            found = levels_of(masks.read(image_id), *_foreground(maps.read(image_id)), classes)
            curves[split].add(found)
            levels[split].append(np.insert(found, 0, number, axis=1))
    threshold = settings.threshold
    if threshold is None:
        threshold = curves["dev"].best()[0] if masks.ids("dev") else DEFAULT_THRESHOLD

    def label(image_id: str) -> np.ndarray:
        foreground, score = _foreground(maps.read(image_id))
        return np.where(score >= threshold, foreground, np.uint8(0))

    for split in splits:
        chosen = settings.threshold is None
        _evaluate(context, what, split, label, np.concatenate(levels[split]) if chosen else levels[split][0])
    (context.out / "sweep.json").write_text(
        json.dumps({"threshold": curves["dev"].thresholds.tolist(), **{s: c.means() for s, c in curves.items()}}),
        encoding="utf-8",
    )
    write_metrics(context.out, {metric_names.CAM_THRESHOLD: threshold})


def evaluate_rounds(context: StepContext) -> None:
    """The mean IoU of each round's label maps on train and dev: metrics "<split>/round_<n>/miou"."""
    masks, classes = context.masks, len(context.dataset.classes)
    assert masks is not None
    metrics = {}
    for folder in sorted((context.inputs["maps"] / "rounds").iterdir(), key=lambda f: int(f.name)):
        maps = LabelMaps(folder)
        for split in ("train", "dev"):
            ids = evaluated_ids(context.dataset.splits, masks, split)
            matrices = [confusion(masks.read(i), maps.read(i), classes) for i in ids]
            if matrices:
                name = metric_names.metric(split, f"round_{folder.name}", metric_names.MIOU)
                metrics[name] = Scores.of(np.sum(matrices, 0), context.dataset.has_background).miou
    write_metrics(context.out, metrics)


def read_evaluations(folder: Path) -> dict[str, Evaluation]:
    """Split to evaluation, of an evaluate step's output."""
    return {path.stem: load(path) for path in sorted(folder.glob("*.npz"))}


def _foreground(score_map: ScoreMap) -> tuple[np.ndarray, np.ndarray]:
    """The best foreground class of each pixel (uint8 H x W) and its score (float H x W); score -1 without classes."""
    if not len(score_map.classes):
        return np.zeros(score_map.size, np.uint8), np.full(score_map.size, -1.0)
    if is_large(*score_map.size):
        return _foreground_in_tiles(score_map)
    maps = upsampled(score_map)
    best = maps.argmax(0)
    return score_map.classes[best], np.take_along_axis(maps, best[None], 0)[0].clip(0, 1)


def _foreground_in_tiles(score_map: ScoreMap) -> tuple[np.ndarray, np.ndarray]:
    classes, scores = np.empty(score_map.size, np.uint8), np.empty(score_map.size, np.float32)
    for window in windows(*score_map.size, overlap=0):
        maps = part_at_size(score_map.scores, score_map.size, *window.seen)
        best = maps.argmax(0)
        classes[window.kept] = score_map.classes[best][window.middle]
        scores[window.kept] = np.take_along_axis(maps, best[None], 0)[0].clip(0, 1)[window.middle]
    return classes, scores


def _evaluate(
    context: StepContext, what: str, split: str, label: Callable[[str], np.ndarray], levels: np.ndarray | None = None
) -> None:
    masks, classes = context.masks, context.dataset.classes
    assert masks is not None
    ids = evaluated_ids(context.dataset.splits, masks, split)
    matrices = np.zeros((len(ids), len(classes) + 1, len(classes) + 1), np.int32)
    scored = hashlib.sha256()
    for number, image_id in enumerate(ids):
        labels = label(image_id)
        matrices[number] = confusion(masks.read(image_id), labels, len(classes))
        scored.update(f"{image_id} {label_digest(labels)}\n".encode())
        context.report.progress(number + 1, len(ids), "images", split)
    if len(ids):
        evaluation = Evaluation(
            split,
            what,
            ids,
            classes.with_background,
            matrices,
            masks.digest_of(ids),
            scored.hexdigest(),
            context.dataset.groups_of(ids),
            *([] if levels is None else [levels]),
        )
        (context.out / f"{split}.npz").write_bytes(encode(evaluation))


def _step(what: str) -> Step:
    splits = SCORED[what].splits
    of_maps = what == "cam"
    settings, evaluate = (CamEvaluation, evaluate_cam) if of_maps else (LabelEvaluation, evaluate_labels)

    def run(context: StepContext) -> None:
        evaluate(context, what, splits)

    return Step(what, 4 if of_maps else 3, settings, run, inputs=("maps",), supervision=frozenset({"masks"}))


EVALUATIONS = {what: _step(what) for what in SCORED} | {
    "rounds": Step("rounds", 2, LabelEvaluation, evaluate_rounds, inputs=("maps",), supervision=frozenset({"masks"})),
}
