"""Pairs of nearby pixels: their affinity from features, their labels, and the loss between the two (AffinityNet).

Ahn & Kwak, CVPR 2018. A pair is a source pixel and one of the P offsets of `pair_offsets`; what belongs to pairs has
the shape B x P x h x w with h x w the rectangle of sources. In the published code a source keeps a margin of radius - 1
to the left, right and lower border, so that all its partners exist: h = H - (radius - 1), w = W - 2 (radius - 1), and
pairs between two border pixels are lost. With `every_source` all pixels are sources, h = H and w = W, and a pair that
leaves the map has affinity 0 and no label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import torch
from torch.nn.functional import pad

from wsss.classes import IGNORE
from wsss.errors import UserError

Reduction = Literal["mean", "sum"]
LOG_FLOOR = 1e-5
"""Added inside the logarithms of the loss."""


def pair_offsets(radius: int) -> list[tuple[int, int]]:
    """The (dy, dx) of a half plane strictly within the radius, nearest rows first: 34 offsets for radius 5.

    Raises:
        UserError: the radius is less than 2, so that no pair would exist.
    """
    if radius < 2:
        raise UserError(f"the pair radius must be 2 or more, not {radius}")
    reach = range(-radius + 1, radius)
    half_plane = [(0, dx) for dx in range(1, radius)] + [(dy, dx) for dy in range(1, radius) for dx in reach]
    return [(dy, dx) for dy, dx in half_plane if dy * dy + dx * dx < radius * radius]


def source_rectangle(size: tuple[int, int], radius: int) -> tuple[int, int]:
    """Height and width of the rectangle of sources in an H x W map, the margin left out.

    Raises:
        UserError: the map is too small to have a source.
    """
    height, width = size[0] - (radius - 1), size[1] - 2 * (radius - 1)
    if height < 1 or width < 1:
        raise UserError(
            f"a map of {size[0]} x {size[1]} is too small for pairs within radius {radius}, "
            f"which need {radius} x {2 * radius - 1}; use a larger image or a smaller radius"
        )
    return height, width


def pair_affinity(
    features: torch.Tensor, radius: int, reduction: Reduction = "mean", every_source: bool = False
) -> torch.Tensor:
    """W_ij = exp(-mean_k |f_i - f_j|) of every pair, differentiable once.

    Args:
        features: floating B x D x H x W.
        radius: pairs are strictly nearer than this, in pixels of the map.
        reduction: over the D channels: the mean (the published code) or the sum (the paper's L1 norm).
        every_source: all pixels are sources (see the module).

    Returns:
        B x P x h x w in (0, 1].

    Raises:
        UserError: the radius is less than 2 or the map too small for it.
    """
    framed = _with_border(features, radius, 0.0) if every_source else features
    distance = _Distance.apply(framed, radius)
    if reduction == "mean":
        distance = distance / features.shape[1]
    affinity = distance.neg().exp()
    return affinity * inside_map(features, radius) if every_source else affinity


def path_affinity(boundaries: torch.Tensor, radius: int, every_source: bool = False) -> torch.Tensor:
    """1 - the highest boundary on the way from i to j, of every pair (IRNet, Ahn, Cho & Kwak, CVPR 2019).

    The way is every pixel between the two, both included, that lies nearer than 1 to the line through them.

    Args:
        boundaries: floating B x H x W in [0, 1], 1 on a boundary between classes.
        radius: as in `pair_affinity`.
        every_source: as in `pair_affinity`; the published code walks so, and trains without.

    Returns:
        B x P x h x w in [0, 1], differentiable.

    Raises:
        UserError: the radius is less than 2 or the map too small for it.
    """
    framed = _with_border(boundaries, radius, 1.0) if every_source else boundaries
    at = _shifted(framed, radius)
    highest = [reduce(torch.maximum, (at(*pixel) for pixel in pair_path(*offset))) for offset in pair_offsets(radius)]
    return 1 - torch.stack(highest, dim=1)


def pair_path(dy: int, dx: int) -> list[tuple[int, int]]:
    """The pixels, seen from the source, that the way to the partner (dy, dx) covers."""
    rows, columns = range(min(0, dy), max(0, dy) + 1), range(min(0, dx), max(0, dx) + 1)
    return [(y, x) for y in rows for x in columns if (dy * x - dx * y) ** 2 < dy * dy + dx * dx]


@dataclass(frozen=True)
class PairLabels:
    """Which pairs are alike in the background, alike in the foreground, and different: bool B x P x h x w each."""

    background: torch.Tensor
    foreground: torch.Tensor
    different: torch.Tensor


def pair_labels(labels: torch.Tensor, radius: int, every_source: bool = False) -> PairLabels:
    """The labels of all pairs of label maps (integer B x H x W); a pair with an ignored pixel (255) has none.

    Raises:
        UserError: the radius is less than 2 or the map too small for it.
    """
    if every_source:
        labels = _with_border(labels, radius, IGNORE)
    source, partners = _pairs(labels, radius)
    partner = torch.stack(list(partners), dim=1)
    source = source.unsqueeze(1)
    valid = (source != IGNORE) & (partner != IGNORE)
    same = valid & (source == partner)
    return PairLabels(same & (source == 0), same & (source != 0), valid & (source != partner))


def affinity_loss(affinity: torch.Tensor, pairs: PairLabels, with_background: bool = True) -> torch.Tensor:
    """1/4 L_bg+ + 1/4 L_fg+ + 1/2 L_neg: each a mean over its own pairs, 0 where there is none.

    Where there is no background, 1/2 L_fg+ + 1/2 L_neg, so that alike and different keep the same say.

    L+ = -mean log(W + 1e-5) over pairs that are alike, L_neg = -mean log(1 + 1e-5 - W) over pairs that differ.
    """
    alike, apart = -torch.log(affinity + LOG_FLOOR), -torch.log(1 + LOG_FLOOR - affinity)
    background, foreground = _mean_over(alike, pairs.background), _mean_over(alike, pairs.foreground)
    if not with_background:
        return foreground / 2 + _mean_over(apart, pairs.different) / 2
    return background / 4 + foreground / 4 + _mean_over(apart, pairs.different) / 2


def inside_map(values: torch.Tensor, radius: int) -> torch.Tensor:
    """Whether each pair of an H x W map with every pixel as a source stays inside: bool P x H x W."""
    ones = torch.ones(values.shape[-2:], dtype=torch.bool, device=values.device)
    _, partners = _pairs(_with_border(ones, radius, False), radius)
    return torch.stack(list(partners))


def _mean_over(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    return torch.where(chosen, values, 0).sum() / chosen.sum().clamp(min=1)


def _with_border(values: torch.Tensor, radius: int, border: float) -> torch.Tensor:
    margin = radius - 1
    return pad(values, (margin, margin, 0, margin), value=border)


def _pairs(values: torch.Tensor, radius: int) -> tuple[torch.Tensor, Iterator[torch.Tensor]]:
    """The rectangle of sources of a ... x H x W map, and its partners for one offset after the other; all views."""
    at = _shifted(values, radius)
    return at(0, 0), (at(dy, dx) for dy, dx in pair_offsets(radius))


def _shifted(values: torch.Tensor, radius: int) -> Callable[[int, int], torch.Tensor]:
    """The rectangle of sources moved by (dy, dx), as views of a ... x H x W map."""
    height, width = source_rectangle((values.shape[-2], values.shape[-1]), radius)
    margin = radius - 1
    return lambda dy, dx: values[..., dy : dy + height, margin + dx : margin + dx + width]


class _Distance(torch.autograd.Function):
    """sum_k |f_i - f_j| of every pair; the way back recomputes the signs, which would take P times the features."""

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, radius: int) -> torch.Tensor:
        ctx.save_for_backward(features)
        ctx.radius = radius
        source, partners = _pairs(features, radius)
        scratch = torch.empty_like(source)
        return torch.stack([torch.sub(source, partner, out=scratch).abs_().sum(1) for partner in partners], dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (features,) = ctx.saved_tensors
        total = torch.zeros_like(features)
        source, partners = _pairs(features, ctx.radius)
        source_total, partner_totals = _pairs(total, ctx.radius)
        scratch = torch.empty_like(source)
        for each, partner, partner_total in zip(gradient.unbind(1), partners, partner_totals, strict=True):
            change = torch.sub(source, partner, out=scratch).sign_().mul_(each.unsqueeze(1))
            source_total += change
            partner_total -= change
        return total, None
