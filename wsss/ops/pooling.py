"""WILDCAT's two poolings: from several maps for each class to a score for each class (Durand et al., CVPR 2017)."""

from __future__ import annotations

from torch import Tensor


def class_wise_pool(maps: Tensor, per_class: int, legacy_grad_scale: bool = False) -> Tensor:
    """The mean over the maps of each class: z_c = 1/M sum_m z_{c,m}.

    Args:
        maps: B x (C M) x h x w, the M maps of a class side by side.
        per_class: M.
        legacy_grad_scale: the gradient is that of the sum, M times the mean's, as in the released code's backward.

    Returns:
        B x C x h x w.
    """
    batch, channels, height, width = maps.shape
    stacked = maps.reshape(batch, channels // per_class, per_class, height, width)
    mean = stacked.mean(2)
    if not legacy_grad_scale:
        return mean
    total = stacked.sum(2)
    return mean.detach() + (total - total.detach())


def spatial_pool(maps: Tensor, k_top: float, k_bottom: float, alpha: float, legacy_half: bool = False) -> Tensor:
    """The mean of the highest cells plus alpha times the mean of the lowest: B x C from B x C x h x w.

    Args:
        maps: one for each class.
        k_top, k_bottom: how many cells, see `instances`; without lowest cells (0) that term is left out.
        alpha: the weight of the lowest cells.
        legacy_half: half of the sum where there are lowest cells, as in the released code.
    """
    cells = maps.flatten(2)
    n = cells.shape[2]
    top = cells.topk(max(instances(k_top, n), 1), dim=2).values.mean(2)
    lowest = instances(k_bottom, n)
    if not lowest:
        return top
    bottom = cells.topk(lowest, dim=2, largest=False).values.mean(2)
    return (top + alpha * bottom) / (2 if legacy_half else 1)


def instances(k: float, cells: int) -> int:
    """How many of so many cells `k` means: a share below 1 (at least one cell), a count from 1 on, none at 0."""
    if k <= 0:
        return 0
    return max(1, round(k * cells)) if k < 1 else min(int(k), cells)
