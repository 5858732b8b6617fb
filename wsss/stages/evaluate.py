"""Scoring what the steps give against the masks: the one stage that may see them for every method."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsss.data.label_maps import LabelMaps
from wsss.data.score_maps import ScoreMap, ScoreMaps
from wsss.evaluation import Masks, Scores, ThresholdSweep, confusion
from wsss.interface import Step, StepContext
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


def evaluated_ids(dataset_splits: dict[str, tuple[str, ...]], masks: Masks, split: str) -> tuple[str, ...]:
    """The ids a split is scored on: those with a mask; of train, those whose mask is an official one."""
    if split == "train" and "train_official" in dataset_splits:
        return masks.ids("train_official")
    return masks.ids(split)


def evaluate_labels(context: StepContext, what: str, splits: tuple[str, ...]) -> None:
    """Confusion matrices of label maps: `<split>.npz` with "ids" and int32 "matrices" N x (C + 1) x (C + 1).

    A split of which there is no map at all is left out: imported labels may be of train alone.
    """
    maps = LabelMaps(context.inputs["maps"] / what)
    for split in splits:
        if not set(maps.ids).isdisjoint(context.dataset.splits[split]):
            _write(context, split, maps.read)


def evaluate_cam(context: StepContext) -> None:
    """Confusion matrices of argmax over [t, M_1, ..., M_K] on train and dev, and the curve over t (`sweep.json`)."""
    settings: CamEvaluation = context.settings
    masks, maps = context.masks, ScoreMaps(context.inputs["maps"] / "cam")
    assert masks is not None
    splits = ("train", "dev")
    curves = {split: ThresholdSweep(len(context.dataset.classes)) for split in splits}
    for split in splits:
        for image_id in evaluated_ids(dict(context.dataset.splits), masks, split):
            curves[split].add(masks.read(image_id), *_foreground(maps.read(image_id)))
    threshold = settings.threshold
    if threshold is None:
        threshold = curves["dev"].best()[0] if masks.ids("dev") else DEFAULT_THRESHOLD

    def label(image_id: str) -> np.ndarray:
        foreground, score = _foreground(maps.read(image_id))
        return np.where(score >= threshold, foreground, np.uint8(0))

    for split in splits:
        _write(context, split, label)
    (context.out / "sweep.json").write_text(
        json.dumps({"threshold": curves["dev"].thresholds.tolist(), **{s: c.means() for s, c in curves.items()}})
    )
    write_metrics(context.out, {"cam/threshold": threshold})


def evaluate_rounds(context: StepContext) -> None:
    """The mean IoU of each round's label maps on train and dev: metrics "<split>/round_<n>/miou"."""
    masks, classes = context.masks, len(context.dataset.classes)
    assert masks is not None
    figures = {}
    for folder in sorted((context.inputs["maps"] / "rounds").iterdir(), key=lambda f: int(f.name)):
        maps = LabelMaps(folder)
        for split in ("train", "dev"):
            ids = evaluated_ids(dict(context.dataset.splits), masks, split)
            matrices = [confusion(masks.read(i), maps.read(i), classes) for i in ids]
            if matrices:
                figures[f"{split}/round_{folder.name}/miou"] = Scores.of(np.sum(matrices, 0)).miou
    write_metrics(context.out, figures)


def _foreground(score_map: ScoreMap) -> tuple[np.ndarray, np.ndarray]:
    """The best foreground class of each pixel (uint8 H x W) and its score (float H x W); score 0 without classes."""
    if not len(score_map.classes):
        return np.zeros(score_map.size, np.uint8), np.full(score_map.size, -1.0)
    maps = upsampled(score_map)
    best = maps.argmax(0)
    return score_map.classes[best], np.take_along_axis(maps, best[None], 0)[0].clip(0, 1)


def _write(context: StepContext, split: str, label: Callable[[str], np.ndarray]) -> None:
    masks, classes = context.masks, len(context.dataset.classes)
    assert masks is not None
    ids = evaluated_ids(dict(context.dataset.splits), masks, split)
    matrices = np.zeros((len(ids), classes + 1, classes + 1), np.int32)
    for number, image_id in enumerate(ids):
        matrices[number] = confusion(masks.read(image_id), label(image_id), classes)
        context.report.progress(number + 1, len(ids), "images", split)
    if len(ids):
        np.savez_compressed(context.out / f"{split}.npz", ids=np.array(ids), matrices=matrices)


def read_matrices(folder: Path) -> dict[str, tuple[list[str], np.ndarray]]:
    """Split to ids and int32 N x (C + 1) x (C + 1) confusion matrices of an evaluate step's output."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as content:
            found[path.stem] = (content["ids"].tolist(), content["matrices"])
    return found


def _labels_step(what: str, *splits: str) -> Step:
    def run(context: StepContext) -> None:
        evaluate_labels(context, what, splits)

    return Step(what, 1, LabelEvaluation, run, needs=("maps",), supervision=frozenset({"masks"}))


EVALUATIONS = {
    "cam": Step("cam", 1, CamEvaluation, evaluate_cam, needs=("maps",), supervision=frozenset({"masks"})),
    "rounds": Step("rounds", 1, LabelEvaluation, evaluate_rounds, needs=("maps",), supervision=frozenset({"masks"})),
    "labels": _labels_step("labels", "train", "dev"),
    "labels_crf": _labels_step("labels_crf", "train", "dev"),
    "direct": _labels_step("direct", "dev", "val"),
    "direct_crf": _labels_step("direct_crf", "dev", "val"),
    "pred": _labels_step("pred", "dev", "val"),
    "pred_crf": _labels_step("pred_crf", "dev", "val"),
}
