"""From the maps of a network that learned from tags alone to scores of the background and of the classes that it sees.

What `localize.predict` does with them (`wsss.stages.direct`), on torch alone: see `wsss.serving.deployed`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Direct(NamedTuple):
    """How the maps of a network that learned from tags alone become scores of the background and the classes.

    Attributes:
        cell: pixels of an image of the learned size for a cell of the scores.
        pool: k_top, k_bottom, alpha and whether to halve, of `wsss.ops.pooling.spatial_pool`, which says what classes
            are seen; the maps are then heatmaps. None: they are probabilities of the background and of every class.
        background: of heatmaps: "power", (1 - the highest)^alpha, "constant", the threshold, or "none", where there is
            no background and the class with the highest score is always seen; alpha; threshold.
        side: smaller images are padded to this side in px, where that is what the network wants; None pads nothing.
    """

    cell: int
    pool: tuple[float, float, float, bool] | None = None
    background: tuple[str, float, float] | None = None
    side: int | None = None


def direct_of(content: dict[str, Any]) -> Direct | None:
    """What `model.json` says of a network that learned from tags alone; None of any other."""
    keys, network = content.get("direct"), content["network"]
    if keys is None:
        return None
    pool = tuple(network[key] for key in ("k_top", "k_bottom", "alpha", "legacy_half")) if "k_top" in network else None
    background = keys["background"] and (keys["background"], keys["alpha"], keys["threshold"])
    return Direct(keys["cell"], pool, background, keys["side"])


def seen_classes(maps: Tensor, scores: Tensor, direct: Direct) -> Tensor:
    """Scores of the background and of the classes that a network sees; -1 for the others, which never win.

    Args:
        maps: heatmaps float32 B x C x h x w, at least 0; each is divided by its maximum plus 1e-5.
        scores: s, B x C; those from 0 on are seen; without a background the highest is in any case.
        direct: its background.

    Returns:
        float32 B x (C + 1) x h x w of values that float16 has.
    """
    assert direct.background is not None
    kind, alpha, threshold = direct.background
    maps = (maps / (maps.amax((2, 3), keepdim=True) + 1e-5)).half().float()
    least = scores.amax(1, keepdim=True).clamp(max=0) if kind == "none" else torch.zeros_like(scores[:, :1])
    maps = torch.where((scores >= least)[:, :, None, None], maps, -1.0)
    if kind == "none":
        return torch.cat([torch.full_like(maps[:, :1], -1.0), maps], 1)
    highest = maps.amax(1, keepdim=True).clamp(0, 1)
    background = (1 - highest) ** alpha if kind == "power" else torch.full_like(highest, threshold)
    return torch.cat([background.half().float(), maps], 1)
