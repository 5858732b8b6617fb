"""Saliency maps of large pictures, tile by tile.

A cell's gradient depends on the pixels that the network sees from it. What is of the whole picture is found first: the
pooled score of each class, which decides what is compared, and in each layer the highest difference of each pair of
classes (without subtraction, each class's highest saliency), which these are divided by. A large picture is not padded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from wsss.data.augmentation import normalise
from wsss.methods.dcsm.network import DcsmNet
from wsss.methods.dcsm.saliency import (
    SaliencySettings,
    class_difference,
    compared_classes,
    cropped,
    normalised,
    pair_differences,
    saliency_maps,
)
from wsss.ops.guided import Guided, class_gradients
from wsss.ops.tiles import Window, is_large
from wsss.stages.inference import grid_windows, node_grid, node_size, resize

LONGEST_PERIOD = 48
"""Cells; where no period up to this suits all scales, cells lie in a tile as in the whole to half a node."""


def saliency_of(
    model: DcsmNet,
    images: Sequence[np.ndarray],
    tags: Sequence[np.ndarray] | None,
    settings: SaliencySettings,
    device: torch.device,
    at_least_one: bool = False,
    subtract: bool = True,
) -> list[tuple[Tensor, list[int]]]:
    """`saliency_maps` of images of one size, whatever it is; large ones go through one by one, in tiles."""
    if not is_large(*images[0].shape[:2]):
        return saliency_maps(model, images, tags, settings, device, at_least_one, subtract)
    wanted = [None] * len(images) if tags is None else tags
    return [
        _of_large(model, image, own, settings, device, at_least_one, subtract)
        for image, own in zip(images, wanted, strict=True)
    ]


def _of_large(
    model: DcsmNet,
    image: np.ndarray,
    tags: np.ndarray | None,
    settings: SaliencySettings,
    device: torch.device,
    at_least_one: bool,
    subtract: bool,
) -> tuple[Tensor, list[int]]:
    size = (image.shape[0], image.shape[1])
    grid = node_grid(*size, settings.stride)
    tiles = list(grid_windows(size, grid, _period(model, settings)))
    compared = compared_classes(_pooled_scores(model, image, tiles, settings, device), tags, at_least_one)
    total = torch.zeros(len(compared.candidates), *grid, device=device)
    if not compared.classes:
        return total.cpu(), []
    classes = torch.tensor([compared.classes], device=device)
    peaks: dict[tuple[int, int], Tensor] = defaultdict(lambda: torch.zeros((), device=device))
    for window, seen in tiles:
        for number, layer, saliency in _saliency(model, image[seen], window, classes, settings, device):
            divided = pair_differences(saliency) if subtract else saliency
            highest = divided[(..., *window.middle)].amax((-2, -1))
            peaks[number, layer] = torch.maximum(peaks[number, layer], highest)
    for window, seen in tiles:
        for number, layer, saliency in _saliency(model, image[seen], window, classes, settings, device):
            of_picture = (class_difference if subtract else normalised)(saliency, peaks[number, layer])
            difference = of_picture[: len(total), *window.middle]
            total[:, *window.kept] += compared.counts[number, :, None, None] * difference
    return normalised(total).cpu(), compared.candidates


def _saliency(
    model: DcsmNet,
    part: np.ndarray,
    window: Window,
    classes: Tensor,
    settings: SaliencySettings,
    device: torch.device,
) -> Iterator[tuple[int, int, Tensor]]:
    """The saliency of a tile: the scale's number, the layer's, and float K x h x w on the window's cells."""
    batch = normalise(part)[None].to(device)
    size = (batch.shape[2], batch.shape[3])
    for number, scaled in enumerate(_scaled(model, batch, settings)):
        with torch.enable_grad(), Guided():
            scores, inputs = model.scores_and_inputs(scaled)
        for layer, gradient in enumerate(class_gradients(scores, inputs, classes)):
            yield number, layer, cropped(gradient.abs().amax(2), size, (0, 0), size, window.size)[:, 0]


@torch.no_grad()
def _pooled_scores(
    model: DcsmNet,
    image: np.ndarray,
    tiles: Sequence[tuple[Window, tuple[slice, slice]]],
    settings: SaliencySettings,
    device: torch.device,
) -> Tensor:
    """The class scores of a picture at each scale, float S x C: pooled over cells, each from the tile that keeps it."""
    shape = (len(settings.scales), model.head.out_channels)
    highest, total = torch.full(shape, -torch.inf, device=device), torch.zeros(shape, device=device)
    counts = [0] * len(settings.scales)
    for window, seen in tiles:
        batch = normalise(image[seen])[None].to(device)
        for number, scaled in enumerate(_scaled(model, batch, settings)):
            scores = model.scores(scaled)[0]
            rows, columns = (
                _cells_kept(cells, length, model.spacing, kept, of, device)
                for cells, length, kept, of in zip(
                    scores.shape[1:], scaled.shape[2:], window.middle, window.size, strict=True
                )
            )
            kept = scores[:, rows][:, :, columns].flatten(1)
            highest[number] = torch.maximum(highest[number], kept.amax(1))
            total[number] += kept.sum(1)
            counts[number] += kept.shape[1]
    if model.pooling == "max":
        return highest
    return total / torch.tensor(counts, device=device)[:, None]


def _cells_kept(cells: int, length: int, spacing: int, kept: slice, of: int, device: torch.device) -> Tensor:
    """Which of a line of score cells lie in what is kept of a tile, or next to it: bool; all where none does.

    Args:
        cells: their number; they lie in the middle of the tile.
        length: of the tile where the network sees it, in px.
        spacing: px from cell to cell.
        kept: of the window's cells.
        of: how many these are.
        device: of the result.
    """
    place = (length - 1) / 2 + (torch.arange(cells, device=device) - (cells - 1) / 2) * spacing
    step = (length - 1) / max(of - 1, 1)
    found = (place >= kept.start * step - spacing / 2) & (place <= (kept.stop - 1) * step + spacing / 2)
    return found if found.any() else ~found


def _scaled(model: DcsmNet, batch: Tensor, settings: SaliencySettings) -> Iterator[Tensor]:
    for scale in settings.scales:
        size = node_size(batch.shape[2], batch.shape[3], model.backbone.output_stride, scale)
        yield resize(batch, size).contiguous(memory_format=torch.channels_last)


def _period(model: DcsmNet, settings: SaliencySettings) -> int:
    """So many cells of the maps are whole numbers of cells of the scores at every scale."""
    steps = [Fraction(str(scale)) * settings.stride / model.spacing for scale in settings.scales]
    periods = (n for n in range(1, LONGEST_PERIOD + 1) if all((n * step).denominator == 1 for step in steps))
    return next(periods, 4)
