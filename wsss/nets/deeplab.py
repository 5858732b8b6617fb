"""The segmentation network that every method's labels train: DeepLab with an atrous spatial pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wsss.nets.backbones import build_backbone

NEVER = -1e4
"""A score that no class has; finite, so that resizing it gives no NaN."""


class DeepLab(nn.Module):
    """Backbone and the sum of dilated 3 x 3 classifiers (DeepLabv2, Chen et al., TPAMI 2018, section 3.2).

    Args:
        classes: C + 1, the background included.
        backbone: its name.
        weights: its initial weights.
        output_stride: 8 or 16.
        rates: the dilations of the classifiers.
        background: without one, channel 0 stays there and is never predicted (`without_background`).
    """

    def __init__(
        self,
        classes: int,
        backbone: str,
        weights: str,
        output_stride: int,
        rates: Sequence[int],
        background: bool = True,
    ) -> None:
        super().__init__()
        self.background = background
        self.backbone = build_backbone(backbone, weights, output_stride)
        channels = self.backbone.channels[-1]
        self.head = nn.ModuleList(nn.Conv2d(channels, classes, 3, padding=rate, dilation=rate) for rate in rates)
        for conv in self.head:
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Scores before the softmax, B x (C + 1) x h x w at the output stride, of float B x 3 x H x W images."""
        features = self.backbone(images)[-1]
        scores = torch.stack([conv(features) for conv in self.head]).sum(0)
        return scores if self.background else without_background(scores)


def without_background(scores: Tensor) -> Tensor:
    """Scores B x (C + 1) x h x w whose channel 0 is so low that its softmax is exactly 0."""
    return torch.cat([torch.full_like(scores[:, :1], NEVER), scores[:, 1:]], 1)
