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
from wsss.ops import tiles
from wsss.ops.guided import Guided, class_gradients
from wsss.ops.tiles import Window, each_tile, is_large
from wsss.stages.inference import ImageTile, grid_windows, node_grid, node_size, resize, tile_workers

_NEAREST_STRIDE = 8
"""Of the grid by which tiles are cut where class scores alone are wanted."""
MOST_IN_TILE = 1024
"""Side of a tile in px: what gradients are made from is in memory for all layers and classes."""
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
    every = list(grid_windows(size, grid, _period(model, settings), min(tiles.TILE, MOST_IN_TILE)))
    compared = compared_classes(_pooled_scores(model, image, every, settings, device), tags, at_least_one)
    total = torch.zeros(len(compared.candidates), *grid, device=device)
    if not compared.classes:
        return total.cpu(), []
    classes = torch.tensor([compared.classes], device=device)
    peaks: dict[tuple[int, int], Tensor] = defaultdict(lambda: torch.zeros((), device=device))

    def highest(tile: ImageTile) -> dict[tuple[int, int], Tensor]:
        window, seen = tile
        return {
            (number, layer): (pair_differences(saliency) if subtract else saliency)[(..., *window.middle)].amax(
                (-2, -1)
            )
            for number, layer, saliency in _saliency(model, image[seen], window, classes, settings, device)
        }

    def keep_highest(_: ImageTile, found: dict[tuple[int, int], Tensor]) -> None:
        for place, peak in found.items():
            peaks[place] = torch.maximum(peaks[place], peak)

    def differences(tile: ImageTile) -> Tensor:
        window, seen = tile
        added = torch.zeros_like(total[:, *window.kept])
        for number, layer, saliency in _saliency(model, image[seen], window, classes, settings, device):
            of_picture = (class_difference if subtract else normalised)(saliency, peaks[number, layer])
            added += compared.counts[number, :, None, None] * of_picture[: len(total), *window.middle]
        return added

    def keep_differences(tile: ImageTile, added: Tensor) -> None:
        total[:, *tile[0].kept] = added

    each_tile(every, highest, keep_highest, tile_workers(device))
    each_tile(every, differences, keep_differences, tile_workers(device))
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


def scores_of_large(model: DcsmNet, images: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """The class scores at scale 1 of large images of one size, float B x C: pooled over the cells of all tiles."""
    size = (images[0].shape[0], images[0].shape[1])
    settings = SaliencySettings(scales=(1.0,), stride=_NEAREST_STRIDE)
    every = list(grid_windows(size, node_grid(*size, settings.stride), _period(model, settings)))
    return torch.cat([_pooled_scores(model, image, every, settings, device) for image in images])


def _pooled_scores(
    model: DcsmNet,
    image: np.ndarray,
    every: Sequence[ImageTile],
    settings: SaliencySettings,
    device: torch.device,
) -> Tensor:
    """The class scores of a picture at each scale, float S x C: pooled over cells, each from the tile that keeps it."""
    shape = (len(settings.scales), model.head.out_channels)
    highest, total = torch.full(shape, -torch.inf, device=device), torch.zeros(shape, device=device)
    counts = [0] * len(settings.scales)

    @torch.inference_mode()
    def at_scales(tile: ImageTile) -> list[tuple[Tensor, Tensor, int]]:
        (window, seen), found = tile, []
        for scaled in _scaled(model, normalise(image[seen])[None].to(device), settings):
            scores = model.scores(scaled)[0]
            rows, columns = (
                _cells_kept(cells, length, model.spacing, kept, of, device)
                for cells, length, kept, of in zip(
                    scores.shape[1:], scaled.shape[2:], window.middle, window.size, strict=True
                )
            )
            kept = scores[:, rows][:, :, columns].flatten(1)
            found.append((kept.amax(1), kept.sum(1), kept.shape[1]))
        return found

    def keep(_: ImageTile, found: list[tuple[Tensor, Tensor, int]]) -> None:
        for number, (peak, added, cells) in enumerate(found):
            highest[number] = torch.maximum(highest[number], peak)
            total[number] += added
            counts[number] += cells

    each_tile(every, at_scales, keep, tile_workers(device))
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
