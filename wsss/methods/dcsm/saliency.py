"""Distinct class-specific saliency maps: guided gradients, class subtraction, aggregation (DCSM, section 3.2-3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.data.augmentation import normalise
from wsss.methods.dcsm.network import DcsmNet
from wsss.ops.guided import Guided, class_gradients
from wsss.settings import choice, setting
from wsss.stages.inference import node_grid, node_size, resize

COMPARED = 4
"""At least so many classes are compared (where there are so many); those added are subtracted only."""

GAIN = 3.0
"""Of the squashing tanh(3 d)."""

PIXELS = 1 << 18
"""Pixels of images whose gradients are in memory together."""


@dataclass(frozen=True)
class SaliencySettings:
    """Making the saliency maps."""

    scales: tuple[float, ...] = setting((0.8, 1.0, 1.2), "image scales", source="DCSM code", low=0.1, high=8)
    side: int | None = setting(
        500, "smaller images are padded to this side; none pads nothing", source="DCSM code", low=1, unit="px"
    )
    stride: int = setting(
        4,
        "pixels of the image for a cell of the score map",
        source="conv3's, the finest that is looked at",
        choices=(2, 4, 8, 16),
        unit="px",
    )


@dataclass(frozen=True)
class LabellingSettings(SaliencySettings):
    """Making those that become labels."""

    subtract: bool = setting(
        True,
        "take the other classes' saliency away, as predictions without tags always do; false keeps a class's own",
        source="paper",
        search=choice(True, False),
    )


@dataclass(frozen=True)
class Compared:
    """The classes of one image whose saliency is compared.

    Attributes:
        classes: foreground classes 0..C - 1, the candidates first, then those that are subtracted only.
        counts: float S x n, 1 where a scale counts for one of the n candidates.
    """

    classes: list[int]
    counts: Tensor

    @property
    def candidates(self) -> list[int]:
        return self.classes[: self.counts.shape[1]]


def compared_classes(scores: Tensor, tags: np.ndarray | None, at_least_one: bool = False) -> Compared:
    """Whose maps are made, and from whom they are told apart.

    Args:
        scores: float S x C, the image's class scores before the sigmoid at each scale.
        tags: bool C, the candidates, which count at every scale; None takes the classes whose sigmoid is above 0.5,
            each at the scales where it is.
        at_least_one: where there is none, take the class with the highest sum of sigmoids, at every scale.

    Returns:
        The candidates in the order of the classes and, where they are fewer than `COMPARED`, the classes with the
        highest sigmoids, summed over the scales, up to that number. No candidates: no classes at all.
    """
    seen = scores > 0 if tags is None else torch.tensor(tags, device=scores.device).expand_as(scores)
    order = scores.sigmoid().sum(0).argsort(descending=True, stable=True).tolist()
    if at_least_one and not seen.any():
        seen[:, order[0]] = True
    candidates = seen.any(0).nonzero().flatten().tolist()
    others = [c for c in order if c not in candidates][: max(0, COMPARED - len(candidates))]
    return Compared(candidates + others if candidates else [], seen[:, candidates].float())


def pair_differences(saliency: Tensor) -> Tensor:
    """max(0, S^c - S^c'), float K x K x h x w of S, float K x h x w; of a single class S itself, 1 x 1 x h x w."""
    others = saliency if len(saliency) > 1 else torch.zeros_like(saliency)
    return (saliency[:, None] - others).clamp(min=0)


def class_difference(saliency: Tensor, peaks: Tensor | None = None) -> Tensor:
    """sum_c' max(0, tanh(3 (S^c - S^c') / max(S^c - S^c'))) over the other classes c'; S^c itself where there is none.

    Args:
        saliency: S, float K x h x w, at least 0.
        peaks: the maxima, float K x K (1 x 1 of a single class), where `saliency` is a part of an image's.

    Returns:
        float K x h x w, at least 0; what is nowhere above another class gets nothing from that pair.
    """
    difference = pair_differences(saliency)
    highest = difference.amax((2, 3), keepdim=True) if peaks is None else peaks[:, :, None, None]
    return torch.tanh(GAIN * difference / highest.clamp(min=torch.finfo(saliency.dtype).tiny)).sum(1)


def normalised(total: Tensor, peaks: Tensor | None = None) -> Tensor:
    """tanh(3 M / max M) of float K x h x w maps, at least 0; a map without any saliency stays 0.

    `peaks` are the maxima, float K, where `total` is a part of an image's.
    """
    highest = total.amax((1, 2), keepdim=True) if peaks is None else peaks[:, None, None]
    return torch.tanh(GAIN * total / highest.clamp(min=torch.finfo(total.dtype).tiny))


def padded(images: Tensor, side: int | None) -> tuple[Tensor, tuple[int, int]]:
    """Images B x 3 x H x W in the middle of a canvas of at least `side` (mean colour), and their upper left corner."""
    missing = [max(0, (side or 0) - length) for length in images.shape[2:]]
    top, left = (n // 2 for n in missing)
    return F.pad(images, (left, missing[1] - left, top, missing[0] - top)), (top, left)


def cropped(
    maps: Tensor, canvas: tuple[int, int], corner: tuple[int, int], size: tuple[int, int], grid: tuple[int, int]
) -> Tensor:
    """Take the image's part out of maps of a canvas, resized to a grid: both lie corner to corner.

    Args:
        maps: float K x B x h x w over the canvas.
        canvas, size: of the canvas and the image, in px.
        corner: the image's top and left in it.
        grid: of the result, float K x B x h' x w'.
    """
    rows, columns = (
        (start + torch.linspace(0, length - 1, cells, device=maps.device)) * (2 / max(whole - 1, 1)) - 1
        for start, length, cells, whole in zip(corner, size, grid, canvas, strict=True)
    )
    at = torch.stack([columns.expand(grid), rows[:, None].expand(grid)], 2)
    flat = maps.flatten(0, 1)[None]
    return F.grid_sample(flat, at[None].to(maps.dtype), align_corners=True).view(*maps.shape[:2], *grid)


def saliency_maps(
    model: DcsmNet,
    images: Sequence[np.ndarray],
    tags: Sequence[np.ndarray] | None,
    settings: SaliencySettings,
    device: torch.device,
    at_least_one: bool = False,
    subtract: bool = True,
) -> list[tuple[Tensor, list[int]]]:
    """The saliency maps of several images of one size.

    Args:
        model: in eval mode, its parameters without gradients, on the device.
        images: uint8 H x W x 3; they go through whole, see `wsss.methods.dcsm.tiled` for large ones.
        tags: bool C of each image, the candidates; None takes those that the model sees.
        settings: scales, padding, stride.
        device: where the model is.
        at_least_one: see `compared_classes`.
        subtract: take the saliency of the other classes away.

    Returns:
        For each image its maps, float32 n x h x w in [0, 1] on the CPU, and their classes 0..C - 1.
    """
    height, width = images[0].shape[:2]
    step = max(1, PIXELS // (height * width))
    found = []
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        own = None if tags is None else tags[part]
        found += _maps_together(model, images[part], own, settings, device, at_least_one, subtract)
    return found


def _maps_together(
    model: DcsmNet,
    images: Sequence[np.ndarray],
    tags: Sequence[np.ndarray] | None,
    settings: SaliencySettings,
    device: torch.device,
    at_least_one: bool,
    subtract: bool,
) -> list[tuple[Tensor, list[int]]]:
    size = (images[0].shape[0], images[0].shape[1])
    batch, corner = padded(torch.stack([normalise(image) for image in images]).to(device), settings.side)
    canvas = (batch.shape[2], batch.shape[3])
    grid = node_grid(*size, settings.stride)
    passes = []
    for scale in settings.scales:
        scaled = resize(batch, node_size(*canvas, model.backbone.output_stride, scale))
        with Guided():
            passes.append(model.scores_and_inputs(scaled.contiguous(memory_format=torch.channels_last)))

    pooled = torch.stack([model.pooled(scores.detach()) for scores, _ in passes], 1)
    compared = [compared_classes(s, None if tags is None else tags[i], at_least_one) for i, s in enumerate(pooled)]
    wanted = max(len(c.classes) for c in compared)
    totals = [torch.zeros(len(c.candidates), *grid, device=device) for c in compared]
    if wanted:
        # Images with fewer classes repeat their first: those gradients are not looked at.
        classes = [(c.classes + [0] * wanted)[:wanted] for c in compared]
        for number, (scores, inputs) in enumerate(passes):
            for gradient in class_gradients(scores, inputs, torch.tensor(classes, device=device)):
                saliency = cropped(gradient.abs().amax(2), canvas, corner, size, grid)
                for i, (total, c) in enumerate(zip(totals, compared, strict=True)):
                    of_classes = saliency[: len(c.classes), i]
                    difference = (class_difference if subtract else normalised)(of_classes)[: len(total)]
                    total += c.counts[number, :, None, None] * difference
    return [
        (normalised(total).cpu() if len(total) else total.cpu(), c.candidates)
        for total, c in zip(totals, compared, strict=True)
    ]
