"""The co-attention network: what two images share, and what is left of each."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from wsss.data.augmentation import Augmentation
from wsss.nets.backbones import build_backbone
from wsss.stages.inference import node_size

SCALED_VIEWS = {"0.75": 0.75, "2": 2.0}
VIEWS = ("pair", "flip", *SCALED_VIEWS)
"""What an image m is co-attended with: another image that shares a tag, and m itself mirrored or resized."""

ATTENTIONS = ("dot", "cosine")
"""How cells are compared: by products of their features, or by the cosine of the angle between them."""

PLACEMENTS = ("warp", "random")
"""The whole image, warped to the square; or resized by a random factor and cut or padded at a random place."""

STARTS = ("random", "local")
"""Random convolutions and W = I / sqrt(d); or the convolutions' middle taps alone and W = I / d, a gentle attention."""


def co_attention(
    first: Tensor, second: Tensor, weight: Tensor, attention: str = "dot", temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """What each of two images sees of the other: P = F_m^T W F_n, A_n = F_m softmax(P), A_m = F_n softmax(P^T).

    Args:
        first: F_m, float B x d x h x w.
        second: F_n, float B x d x h' x w'; the grids may differ.
        weight: W, d x d.
        attention: one of `ATTENTIONS`; with "cosine" the cells of F_m and of W F_n are divided by their length, so that
            no cell attracts all others by the size of its features (0 stays 0).
        temperature: P is multiplied by it.

    Returns:
        A_m, B x d x h x w, each cell a mean of F_n's cells, and A_n, B x d x h' x w', each a mean of F_m's. The
        softmax of A_n runs over the cells of m, that of A_m over the cells of n.
    """
    m, n = first.flatten(2), second.flatten(2)
    asking, asked = m, weight @ n
    if attention == "cosine":
        asking, asked = F.normalize(m, dim=1), F.normalize(asked, dim=1)
    affinity = temperature * (asking.transpose(1, 2) @ asked)
    seen_by_n = m @ affinity.softmax(1)
    seen_by_m = n @ affinity.transpose(1, 2).softmax(1)
    return seen_by_m.view_as(first), seen_by_n.view_as(second)


class CoAttentionNet(nn.Module):
    """Backbone, 3 x 3 convolutions, a head for the image alone and one for what is shared or left.

    Args:
        classes: C.
        backbone: its name.
        weights: its initial weights.
        output_stride: 8 or 16.
        width: d, the channels of the added convolutions; without any, d is the backbone's.
        start: how these and W begin, one of `STARTS`.
        added: how many convolutions are added.
        attention: how cells are compared, one of `ATTENTIONS`.
        temperature: factor on the affinities.
    """

    def __init__(
        self,
        classes: int,
        backbone: str,
        weights: str,
        output_stride: int,
        width: int,
        start: str = "random",
        added: int = 3,
        attention: str = "dot",
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.attention, self.temperature = attention, temperature
        self.backbone = build_backbone(backbone, weights, output_stride)
        normalised = any(isinstance(layer, nn.BatchNorm2d) for layer in self.backbone.modules())
        self.extra = nn.Sequential()
        depth = width if added else self.backbone.channels[-1]
        for channels in (self.backbone.channels[-1], *[width] * added)[:added]:
            conv = nn.Conv2d(channels, width, 3, padding=1)
            if start == "local":
                nn.init.zeros_(conv.weight)
                nn.init.kaiming_normal_(conv.weight.data[:, :, 1:2, 1:2], nonlinearity="relu")
            else:
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
            self.extra.extend([conv, *([nn.BatchNorm2d(width)] if normalised else []), nn.ReLU(inplace=True)])
        self.basic = nn.Conv2d(depth, classes, 1)
        self.affinity = nn.Linear(depth, depth, bias=False)
        self.affinity.weight.data = torch.eye(depth) / (depth if start == "local" else math.sqrt(depth))
        self.shared = nn.Conv2d(depth, classes, 1, bias=False)
        self.gate = nn.Conv2d(depth, 1, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of each image alone, B x C before the sigmoid, of float B x 3 x H x W normalised images."""
        return self.basic_scores(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """F: B x d x h x w, at least 0."""
        return self.extra(self.backbone(images)[-1])

    def attend(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """`co_attention` of two images' features with the learned W."""
        return co_attention(first, second, self.affinity.weight, self.attention, self.temperature)

    def basic_scores(self, features: Tensor) -> Tensor:
        """B x C, the mean of the basic head's maps."""
        return self.basic(features).mean((2, 3))

    def maps(self, attended: Tensor) -> Tensor:
        """The co-attention maps, B x C x h x w, of features that were attended to."""
        return self.shared(attended)

    def shared_scores(self, features: Tensor) -> Tensor:
        """B x C, the mean of the second head's maps, of shared or left features."""
        return self.shared(features).mean((2, 3))

    def left(self, features: Tensor, attended: Tensor) -> Tensor:
        """What an image does not share: F_m (1 - sigmoid(w A_m)), cell by cell."""
        return features * (1 - torch.sigmoid(self.gate(attended)))


def view_side(view: str, side: int, stride: int) -> int:
    """The side in px of a view of an image that is shown at `side` px: cells stay on nodes."""
    return node_size(side, side, stride, SCALED_VIEWS.get(view, 1.0))[0]


def square(image: np.ndarray, side: int, jitter: float, seed: int, scale: tuple[float, float] | None = None) -> Tensor:
    """A square of an image, perhaps mirrored, its colours varied.

    Args:
        image: uint8 H x W x 3.
        side: of the square, in px.
        jitter: strength of the colour jitter.
        seed: decides all that is random: with equal seeds, all views of an image are mirrored or none is.
        scale: resize the image by a factor out of this range, then cut or pad it to the square at a random place, as
            classifiers are trained; None warps the whole image to the square, whatever its form, as the released code.

    Returns:
        float32 3 x side x side, normalised.
    """
    augment = Augmentation(side, scale or (1.0, 1.0), jitter)
    return augment(image if scale else warp(image, side), None, np.random.default_rng(seed))[0]


def warp(image: np.ndarray, side: int) -> np.ndarray:
    """An image resized to side x side px: uint8."""
    return np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
