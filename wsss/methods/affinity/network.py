"""AffinityNet: a feature for each cell whose L1 distances give affinities, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.classes import IGNORE
from wsss.data.augmentation import Augmentation, normalise
from wsss.data.label_maps import LabelMaps
from wsss.errors import UserError
from wsss.interface import StepContext
from wsss.nets.backbones import BACKBONES, build_backbone
from wsss.ops.pairs import affinity_loss, pair_affinity, pair_labels
from wsss.settings import factor, setting
from wsss.stages.inference import check_nodes, node_size, resize
from wsss.stages.localize import begin_localized, check_training
from wsss.stages.outputs import load_model, save_model, write_metrics
from wsss.training import TrainingSettings, fit, parameter_groups, weights_setting


@dataclass(frozen=True)
class AffinityTrainSettings(TrainingSettings):
    """Training AffinityNet."""

    backbone: str = setting("resnet50", "the network", choices=BACKBONES)
    weights: str = weights_setting("SEAM author: ImageNet is what matched", localized=True)
    output_stride: int = setting(8, "of the backbone", choices=(8, 16), unit="px")
    stride: int = setting(
        8, "pixels of the image for a cell of the affinity features", source="paper", choices=(4, 8), unit="px"
    )
    freeze_bn: bool = setting(True, "keep the batch norm of the initial weights", source="PSA code")
    radius: int = setting(5, "pairs lie closer than this", source="paper, section 4.2", low=2, high=20, unit="cells")
    reduction: Literal["mean", "sum"] = setting(
        "mean", "the L1 distance is the mean (code) or the sum (paper) over channels", choices=("mean", "sum")
    )
    every_source: bool = setting(
        False, "cells at the border are sources of pairs too; needed on small maps", source="PSA code: they are not"
    )
    crop: int = setting(449, "side of the training crop", source="PSA code: 448", low=33, unit="px")
    scale_low: float = setting(1.0, "smallest resizing factor", source="PSA code", low=0.1, high=4)
    scale_high: float = setting(1.0, "largest resizing factor", source="PSA code", low=0.1, high=4)
    jitter: float = setting(0.3, "strength of the colour jitter", source="PSA code", low=0, high=0.9)
    batch_size: int = setting(8, "images in a batch", source="PSA code", low=1)
    epochs: int = setting(8, "passes over the training images", source="PSA code", low=1)
    lr: float = setting(
        0.01,
        "learning rate of initialised weights",
        source="PSA code: 0.1 without momentum",
        low=0,
        search=factor(0.1, 10),
    )


class AffinityNet(nn.Module):
    """The last three levels' features, by 1 x 1 convolutions to 64, 128, 256 channels, joined to 448 (fig. 3)."""

    def __init__(self, backbone: str, weights: str, output_stride: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.backbone = build_backbone(backbone, weights, output_stride)
        widths = (64, 128, 256)
        # The released VGG16 variant alone normalises in groups: its features have no batch norm.
        groups = (8, 16, 32) if backbone == "vgg16" else (0, 0, 0)
        self.reduce = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(g, width) if g else nn.Identity())
            for channels, width, g in zip(self.backbone.channels, widths, groups, strict=True)
        )
        self.join = nn.Conv2d(sum(widths), sum(widths), 1, bias=False)
        for layer in self.reduce:
            nn.init.kaiming_normal_(layer[0].weight)  # type: ignore[index]
        nn.init.xavier_uniform_(self.join.weight, gain=4)

    def forward(self, images: Tensor) -> Tensor:
        """Affinity features B x 448 x h x w of float B x 3 x H x W images; cells lie on every `stride`-th pixel.

        H and W are multiples of the larger of both strides, plus 1.
        """
        grid = ((images.shape[2] - 1) // self.stride + 1, (images.shape[3] - 1) // self.stride + 1)
        levels = zip(self.reduce, self.backbone(images), strict=True)
        reduced = [F.elu(resize(layer(features), grid)) for layer, features in levels]
        return F.elu(self.join(torch.cat(reduced, 1)))


def feature_grid(model: AffinityNet, height: int, width: int) -> tuple[int, int]:
    """The cells h x w of the features of an image that is brought to the nearest size with its borders on nodes."""
    size = node_size(height, width, max(model.stride, model.backbone.output_stride))
    return (size[0] - 1) // model.stride + 1, (size[1] - 1) // model.stride + 1


def grid_features(
    model: AffinityNet, images: Sequence[np.ndarray], grid: tuple[int, int], device: torch.device
) -> Tensor:
    """Features of images or of tiles of them, float32 B x 448 x h x w, brought to the size whose cells a grid has.

    Args:
        model: in eval mode, on the device.
        images: uint8 H x W x 3, all of one size.
        grid: h x w, as `feature_grid` gives it, or a window of such a grid.
        device: where the network is.
    """
    size = ((grid[0] - 1) * model.stride + 1, (grid[1] - 1) * model.stride + 1)
    return model(resize(normalise(torch.from_numpy(np.stack(images)).to(device)), size)).float()


def cell_labels(labels: Tensor, classes: int, stride: int) -> Tensor:
    """The label most frequent around each cell's pixel.

    Args:
        labels: int64 B x (s (h - 1) + 1) x (s (w - 1) + 1), classes 0..C and 255.
        classes: C.
        stride: s, in px.

    Returns:
        int64 B x h x w; the vote is over the s + 1 px square around pixel (s i, s j), cut at the border;
        255 votes as well.
    """
    compact = torch.where(labels == IGNORE, classes + 1, labels)
    one_hot = F.one_hot(compact, classes + 2).permute(0, 3, 1, 2).float()
    shares = F.avg_pool2d(one_hot, stride + 1, stride, stride // 2, count_include_pad=False)
    vote = shares.argmax(1)
    return torch.where(vote == classes + 1, IGNORE, vote)


def check_train(settings: AffinityTrainSettings) -> None:
    """Refuse settings that contradict each other; see also `check_training`."""
    check_nodes(settings.crop, max(settings.stride, settings.output_stride), "refine.train.crop")
    cells = (settings.crop - 1) // settings.stride + 1
    if cells < 2 * settings.radius:
        raise UserError(
            f"refine.train.radius = {settings.radius} does not fit a crop of {settings.crop} px, which has {cells} x "
            f"{cells} cells; the crop must have at least {2 * settings.radius}"
        )
    check_training(settings)


def train_affinity(context: StepContext) -> None:
    """Train on the affinity labels of the training images."""
    settings: AffinityTrainSettings = context.settings
    labels = LabelMaps(context.inputs["labels"] / "labels")
    begin = begin_localized(context, "refine.train") if settings.weights == "localize" else None
    train_affinity_net(context, context.dataset.splits["train"], labels.read, begin)


def train_affinity_net(
    context: StepContext,
    ids: Sequence[str],
    labels: Callable[[str], np.ndarray],
    begin: Callable[[AffinityNet], object] | None = None,
) -> None:
    """Train on the pairs of confident cells; the loss is 1/4 bg + 1/4 fg + 1/2 negative pairs (paper, eq. 7).

    Args:
        context: the step's; its settings are `AffinityTrainSettings`. The network and its metrics go to its `out`.
        ids: the training images.
        labels: from an id to its confident labels, uint8 H x W, 255 where there is none.
        begin: loads initial weights into the network, in place of those of the settings.
    """
    settings: AffinityTrainSettings = context.settings
    dataset = context.dataset
    torch.manual_seed(context.rng)
    architecture: dict[str, Any] = {
        "backbone": settings.backbone,
        "output_stride": settings.output_stride,
        "stride": settings.stride,
    }
    model = AffinityNet(weights="none" if begin else settings.weights, **architecture)
    if begin:
        begin(model)
    augment = Augmentation(settings.crop, (settings.scale_low, settings.scale_high), settings.jitter)

    def sample(image_id: str, draw: np.random.Generator) -> dict[str, Tensor]:
        pixels, target = augment(dataset.image(image_id), labels(image_id), draw)
        assert target is not None
        return {"image": pixels, "cells": cell_labels(target[None], len(dataset.classes), settings.stride)[0]}

    def loss(batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        features = model(batch["image"].contiguous(memory_format=torch.channels_last))
        affinity = pair_affinity(features.float(), settings.radius, settings.reduction, settings.every_source)
        pairs = pair_labels(batch["cells"], settings.radius, settings.every_source)
        return affinity_loss(affinity, pairs, dataset.has_background), {}

    heads: list[nn.Module] = [model.reduce, model.join]
    pretrained = begin is not None or settings.weights != "none"
    groups = parameter_groups(model.backbone if pretrained else None, heads if pretrained else [model], settings)
    metrics = fit(model, groups, ids, sample, loss, context, frozen_bn=settings.freeze_bn)
    save_model(context.out, model, architecture)
    write_metrics(context.out, metrics)


def load_affinity_net(folder: Path) -> AffinityNet:
    """The trained network of a step's output, in eval mode, on the CPU."""
    return load_model(folder, AffinityNet)
