"""A round's refinement of a large picture, tile by tile.

A step of the walk moves nothing further than the pairs' radius, so that after t steps a cell depends on those within
t (radius - 1) cells; on most of that next to nothing, as the walk spreads with the root of t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsss.data.score_maps import ScoreMap
from wsss.methods.affinity.network import AffinityNet, feature_grid, grid_features
from wsss.methods.ial.refinement import agreed_labels, energy_terms, masked_probabilities, refine
from wsss.methods.ial.settings import RoundsSettings
from wsss.ops.pairs import pair_affinity
from wsss.ops.tiles import Window, is_large, labels_in_tiles, part_at_size
from wsss.stages.inference import maps_in_tiles
from wsss.stages.refine import CrfSettings, crf_marginals, upsampled

_TERMS = 5
"""Of each cell: unary and pairwise energy before and after the refinement, and the degree."""


def refined_in_tiles(
    probabilities: Callable[[Sequence[np.ndarray], tuple[int, int]], Tensor],
    pairwise: AffinityNet,
    image: np.ndarray,
    classes: np.ndarray,
    settings: RoundsSettings,
    device: torch.device,
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """The refinement of a large picture.

    Args:
        probabilities: from images and a grid to the unary network's probabilities on it, B x (C + 1) x h x w; of a
            large image in tiles.
        pairwise: the affinity network, in eval mode, on the device.
        image: uint8 H x W x 3.
        classes: uint8 K, the candidates.
        settings: of the rounds.
        device: where the networks are.

    Returns:
        p and p T^t, float K x h x w, and the energies of both ("energy_before", "energy").
    """
    grid = feature_grid(pairwise, image.shape[0], image.shape[1])
    p = masked_probabilities(probabilities([image], grid)[0], torch.from_numpy(classes).long().to(device))

    def walked(parts: Sequence[np.ndarray], window: Window) -> Tensor:
        features = grid_features(pairwise, parts, window.size, device)
        affinity = pair_affinity(features, settings.radius, "mean", every_source=True)[0]
        own = p[:, *window.seen]
        y = refine(own, affinity, settings.radius, settings.beta, settings.steps)
        unary_before, pairwise_before, _ = energy_terms(own, own, affinity, settings.radius, settings.beta)
        unary, pairs, degrees = energy_terms(y, own, affinity, settings.radius, settings.beta)
        terms = [each.sum(1) for each in (unary_before, pairwise_before, unary, pairs, degrees)]
        return torch.cat([y, torch.stack(terms).view(_TERMS, *window.size).to(y.dtype)])[None]

    maps = maps_in_tiles(walked, [image], grid, device)[0]
    sums = maps[-_TERMS:].double().sum((1, 2)).tolist()
    before, after = (
        (unary / settings.steps + pairs) / sums[4] for unary, pairs in ((sums[0], sums[1]), (sums[2], sums[3]))
    )
    return p, maps[:-_TERMS], {"energy_before": before, "energy": after}


def mined_labels(image: np.ndarray, own: ScoreMap, refined: ScoreMap, mining: CrfSettings, *limits: Any) -> np.ndarray:
    """`agreed_labels` at the size of the image, uint8 H x W; of a large one in tiles.

    Args:
        image: uint8 H x W x 3.
        own, refined: of the same classes.
        mining: of the CRF over the refined map.
        limits: what the largest probability must reach, of the foreground and of the background.
    """

    def mine(part: np.ndarray, given: np.ndarray, walked: np.ndarray) -> np.ndarray:
        sharp = crf_marginals(part, walked, mining) if mining.iterations else walked
        return agreed_labels(given, sharp, own.classes, *limits)

    if not is_large(*own.size):
        return mine(image, upsampled(own), upsampled(refined))

    def label(rows: slice, columns: slice) -> np.ndarray:
        given, walked = (part_at_size(maps.scores, own.size, rows, columns) for maps in (own, refined))
        return mine(image[rows, columns], given, walked)

    return labels_in_tiles(*own.size, label)
