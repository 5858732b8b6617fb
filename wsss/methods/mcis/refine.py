"""Label maps from the localisation maps: strict by the background power, or by a saliency model's maps as published."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wsss.classes import IGNORE
from wsss.data.label_maps import LabelMapWriter
from wsss.data.score_maps import ScoreMap, ScoreMaps
from wsss.data.stored_images import UNREADABLE
from wsss.errors import UserError
from wsss.interface import StepContext
from wsss.ops.tiles import is_large, labels_in_tiles, part_at_size, windows
from wsss.settings import loguniform, setting
from wsss.stages.refine import BackgroundSettings, add_background, crf_step, foreground_maps, upsampled
from wsss.stream import ordered_map

CERTAIN = 0.99
"""Two channels above this contradict each other."""
ATTENDED = 0.95
"""Attention above this is no background, whatever the saliency."""
SALIENT = 32
"""Background with at least this saliency (0..255) is open."""
SMALLEST = 0.01
"""An image with a smaller share of foreground is left open."""


@dataclass(frozen=True)
class McisBackgroundSettings(BackgroundSettings):
    """Where the background comes from: the maps themselves (strict), or a saliency model.

    The strict background is 1 - max M where the published one is 1 - saliency: these maps stand on a high floor, on
    which CAM's exponent of 16 leaves hardly any background.
    """

    alpha: float = setting(
        1.0,
        "exponent of the power; larger is less background",
        low=0.05,
        high=256,
        search=loguniform(0.05, 4),
    )
    saliency: str | None = setting(
        None,
        "a folder of saliency maps <id>.png (0..255); none is strict: no saliency model",
        source="MCIS code",
        folder=True,
    )
    foreground: float = setting(
        0.3,
        "with saliency: attention and background below this are 0",
        source="MCIS code",
        low=0,
        high=1,
    )


def check_background(settings: McisBackgroundSettings) -> None:
    """Refuse a folder of saliency maps that is not there.

    Raises:
        UserError: there is no such folder.
    """
    if settings.saliency is not None and not Path(settings.saliency).is_dir():
        raise UserError(
            f"refine.background.saliency = {settings.saliency} is no folder; give one with a saliency map <id>.png of "
            "each image, or none"
        )


def needs_background(settings: McisBackgroundSettings) -> str:
    """A saliency map says where the background is."""
    return "" if settings.saliency is None else "refine.background.saliency says where the background is"


def declared(settings: McisBackgroundSettings) -> frozenset[str]:
    """A saliency model has learned from pixels."""
    return frozenset() if settings.saliency is None else frozenset({"saliency"})


def saliency_labels(attention: np.ndarray, classes: np.ndarray, saliency: np.ndarray, foreground: float) -> np.ndarray:
    """The published labels from attention and saliency.

    Args:
        attention: float K x H x W, K at least 1; each map is min-max normalised here.
        classes: uint8 K, the label of each map.
        saliency: uint8 H x W.
        foreground: a channel below this is 0.

    Returns:
        uint8 H x W: the largest of the attention and the background 1 - saliency / 255; 255 where two of them are
        above 0.99, where the background has a saliency of 32 or attention above 0.95, and everywhere in an image with
        less than 1 % foreground.
    """
    low, high = attention.min((1, 2), keepdims=True), attention.max((1, 2), keepdims=True)
    return opened_if_small(certain_labels(attention, classes, saliency, foreground, low, high))


def certain_labels(
    attention: np.ndarray,
    classes: np.ndarray,
    saliency: np.ndarray,
    foreground: float,
    low: np.ndarray,
    high: np.ndarray,
) -> np.ndarray:
    """`saliency_labels` of a part of an image, with the least and the highest attention (K x 1 x 1) of the whole."""
    normalised = (attention - low) / np.maximum(high - low, 1e-12)
    channels = np.concatenate([1 - saliency[None] / 255, normalised])
    channels[channels < foreground] = 0
    labels = np.concatenate([np.zeros(1, np.uint8), classes])[channels.argmax(0)]
    background = labels == 0
    labels[(channels > CERTAIN).sum(0) > 1] = IGNORE
    labels[background & ((saliency >= SALIENT) | (normalised > ATTENDED).any(0))] = IGNORE
    return labels


def opened_if_small(labels: np.ndarray) -> np.ndarray:
    """The labels of an image, uint8 H x W, or 255 everywhere where less than 1 % is foreground."""
    if ((labels > 0) & (labels != IGNORE)).mean() < SMALLEST:
        labels[:] = IGNORE
    return labels


def salient_labels(score_map: ScoreMap, saliency: np.ndarray, foreground: float) -> np.ndarray:
    """`saliency_labels` of an image from its score map, uint8 H x W: background without a map, in tiles if large."""
    maps, classes, size = score_map.scores, score_map.classes, score_map.size
    if not len(classes):
        return np.zeros(size, np.uint8)
    if not is_large(*size):
        return saliency_labels(upsampled(score_map), classes, saliency, foreground)
    ends = []
    for window in windows(*size, overlap=0):
        part = part_at_size(maps, size, *window.kept)
        ends.append((part.min((1, 2), keepdims=True), part.max((1, 2), keepdims=True)))
    low, high = np.min([each[0] for each in ends], 0), np.max([each[1] for each in ends], 0)

    def label(rows: slice, columns: slice) -> np.ndarray:
        part = part_at_size(maps, size, rows, columns)
        return certain_labels(part, classes, saliency[rows, columns], foreground, low, high)

    return opened_if_small(labels_in_tiles(*size, label))


def read_saliency(folder: Path, image_id: str, size: tuple[int, int]) -> np.ndarray:
    """The saliency map of an image: uint8 H x W.

    Raises:
        UserError: it is missing, damaged, or of another size than the image.
    """
    path = folder / f"{image_id}.png"
    try:
        with Image.open(path) as image:
            found = np.array(image.convert("L"))
    except FileNotFoundError:
        raise UserError(
            f"refine.background.saliency has no map {path}; every image of train and dev needs one"
        ) from None
    except UNREADABLE as error:
        raise UserError(f"saliency map {path} can't be read ({error})") from None
    if found.shape != size:
        raise UserError(
            f"saliency map {path} has {found.shape[0]} x {found.shape[1]} px, its image {size[0]} x {size[1]}"
        )
    return found


def add_labels(context: StepContext) -> None:
    """Label maps (`labels`): the largest of maps and background (`scores`), or with saliency the published ones."""
    settings: McisBackgroundSettings = context.settings
    if settings.saliency is None:
        return add_background(context)
    maps, folder = ScoreMaps(context.inputs["localize"] / "cam"), Path(settings.saliency)

    def label(image_id: str) -> np.ndarray:
        score_map: ScoreMap = foreground_maps(maps.read(image_id))
        saliency = read_saliency(folder, image_id, score_map.size)
        return salient_labels(score_map, saliency, settings.foreground)

    with LabelMapWriter(context.out / "labels") as writer:
        for done, (image_id, labels) in enumerate(zip(maps.ids, ordered_map(label, maps.ids), strict=True), 1):
            writer.add(image_id, labels)
            context.report.progress(done, len(maps), "images")
    return None


def refine_labels(context: StepContext) -> None:
    """The CRF over the strict score maps; the published labels stay as they are (`labels_crf`)."""
    made = context.inputs["background"]
    if (made / "scores").is_dir():
        crf_step("background")(context)
    else:
        shutil.copytree(made / "labels", context.out / "labels_crf", dirs_exist_ok=True)
