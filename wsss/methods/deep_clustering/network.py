"""The region classifier, its two losses, and the centres of the classes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.classes import IGNORE
from wsss.nets.backbones import build_backbone
from wsss.ops.superpixels import masked_average
from wsss.stages.inference import resize


class RegionClassifier(nn.Module):
    """Backbone, linear embedding, masked average pooling over regions, linear classifier with a background class.

    The embedding takes the features of the last three levels, at their own depth and resized to one grid. All of this
    is linear up to the softmax, so that a region's scores are also the mean of the score maps over its pixels.

    Attributes:
        stride: pixels of the image for a cell of the grid.
        centers: float (C + 1) x D, the running mean feature of each class; a buffer, not learnt by back-propagation.
    """

    centers: Tensor

    def __init__(
        self, classes: int, backbone: str, weights: str, output_stride: int, stride: int, dimension: int
    ) -> None:
        super().__init__()
        self.stride = stride
        self.backbone = build_backbone(backbone, weights, output_stride)
        self.embed = nn.ModuleList(nn.Conv2d(channels, dimension, 1) for channels in self.backbone.channels)
        self.head = nn.Conv2d(dimension, classes + 1, 1)
        for layer in (*self.embed, self.head):
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.register_buffer("centers", torch.zeros(classes + 1, dimension))

    def features(self, images: Tensor) -> Tensor:
        """Feature maps B x D x h x w, a cell on every `stride`-th pixel of float B x 3 x H x W normalised images.

        H and W are multiples of the larger of both strides, plus 1.
        """
        grid = ((images.shape[2] - 1) // self.stride + 1, (images.shape[3] - 1) // self.stride + 1)
        levels = zip(self.embed, self.backbone(images), strict=True)
        return torch.stack([resize(embed(features), grid) for embed, features in levels]).sum(0)

    def forward(self, images: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Features B x R x D and scores before the softmax B x R x (C + 1) of regions.

        Args:
            images: as above.
            weights: float B x R x (h w) of `region_weights`.
        """
        features = masked_average(self.features(images).float(), weights)
        return features, F.linear(features, self.head.weight.flatten(1), self.head.bias)

    def maps(self, images: Tensor) -> Tensor:
        """Score maps before the softmax, B x (C + 1) x h x w: their means over regions are the regions' scores."""
        return self.head(self.features(images))


def center_loss(features: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """1/2 mean ||f_i - c_{y_i}||^2 (Wen et al., ECCV 2016, eq. 2, as a mean); 0 without a labelled region.

    Args:
        features: float N x D.
        labels: int64 N, 255 is left out.
        centers: float (C + 1) x D.
    """
    kept = labels != IGNORE
    distances = (features[kept] - centers[labels[kept]]).square().sum(1)
    return distances.sum() / (2 * kept.sum().clamp(min=1))


@torch.no_grad()
def update_centers(centers: Tensor, features: Tensor, labels: Tensor, rate: float) -> None:
    """Move the centre of each class that occurs to the mean of its features by `rate`, in place: c += rate (mean - c).

    Arguments as for `center_loss`.
    """
    kept = labels != IGNORE
    member = F.one_hot(labels[kept], len(centers)).to(features.dtype)
    counts = member.sum(0)[:, None]
    means = member.T @ features[kept] / counts.clamp(min=1)
    centers += rate * (counts > 0) * (means - centers)


def class_weights(counts: Tensor, balance: float) -> Tensor:
    """Weights n_c^-balance of the classes, float C + 1, scaled to a mean of one over all regions.

    0 leaves the loss as it is, 1 gives all classes the same say; a class without a region weighs 0.

    Args:
        counts: C + 1, the labelled regions of each class.
        balance: in [0, 1].
    """
    numbers = counts.double()
    raised = torch.where(numbers > 0, numbers.clamp(min=1) ** -balance, 0)
    return (raised * numbers.sum() / (raised * numbers).sum().clamp(min=1e-12)).float()


def region_cross_entropy(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The cross-entropy of N x (C + 1) scores, a mean weighted by class over labels other than 255; 0 without any."""
    losses = F.cross_entropy(scores, labels, weights, ignore_index=IGNORE, reduction="sum")
    kept = labels[labels != IGNORE]
    return losses / weights[kept].sum().clamp(min=1e-12)


def candidate_probabilities(scores: Tensor, classes: np.ndarray) -> Tensor:
    """The softmax over the candidates (uint8 K) alone, K x R, of (C + 1) x R scores: other classes are impossible."""
    return scores[torch.from_numpy(classes).long()].softmax(0)


def known_regions(own: np.ndarray) -> np.ndarray:
    """Of which regions (float K x R) something is known, bool R: before any round all candidates are equal."""
    return (own.max(0) > own.min(0)) | (len(own) == 1)


def best_regions(own: np.ndarray, classes: np.ndarray, keep: float) -> np.ndarray:
    """The regions that each tag keeps of an image, whatever else is more probable there: the tag's row, int64 R, or -1.

    The tags choose in turn, that one first whose regions are the least probable: each takes as many of its best
    regions as its share has, of those that none has taken.

    Args:
        own: float K x R, the classifier's distributions.
        classes: uint8 K, the label of each row.
        keep: the share of the image's regions that a tag keeps, rounded up; 0 keeps none.
    """
    kept = np.full(own.shape[1], -1)
    free = known_regions(own)
    number = int(np.ceil(keep * own.shape[1]))
    tags = np.flatnonzero(classes) if number else np.zeros(0, np.int64)
    for row in tags[np.argsort(own[tags].max(1, initial=0), kind="stable")]:
        ranked = np.argsort(-own[row].astype(np.float64), kind="stable")
        chosen = ranked[free[ranked]][:number]
        kept[chosen], free[chosen] = row, False
    return kept


def with_kept(smoothed: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Distributions K x R in which a region's kept row (`best_regions`) and its most probable one change places."""
    places = np.flatnonzero(kept >= 0)
    rows, top = kept[places], smoothed.argmax(0)[places]
    found = smoothed.copy()
    found[rows, places], found[top, places] = smoothed[top, places], smoothed[rows, places]
    return found


def confident_regions(
    own: np.ndarray, smoothed: np.ndarray, classes: np.ndarray, confidence: float, keep: float = 0.0
) -> np.ndarray:
    """The label of each region that the classifier is sure of and the CRF agrees to, uint8 R; 255 elsewhere.

    Args:
        own: float K x R, the classifier's distributions.
        smoothed: float K x R, the CRF's.
        classes: uint8 K, the label of each row.
        confidence: what the classifier's probability must reach, in [0, 1].
        keep: the share of the regions whose label each tag keeps without that; see `best_regions`.
    """
    label = own.argmax(0)
    sure = (own.max(0) >= confidence) & (label == smoothed.argmax(0))
    kept = best_regions(own, classes, keep)
    return np.where(kept >= 0, classes[kept], np.where(sure, classes[label], np.uint8(IGNORE)))


def decided_regions(smoothed: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The most probable label of each region after the CRF, uint8 R; 255 where nothing is known."""
    return np.where(known_regions(smoothed), classes[smoothed.argmax(0)], np.uint8(IGNORE))
