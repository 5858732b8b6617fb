"""The classifier whose scores are propagated back: fully convolutional, global max pooling (DCSM, section 3.1).

With average pooling, a choice of ours, it is CAM's classifier, and where both are asked for it is trained once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from wsss.errors import UserError
from wsss.interface import StepContext, Twin
from wsss.methods.cam import LOCALIZE
from wsss.nets.backbones import BACKBONES, build_backbone, read_weights
from wsss.settings import choice, factor, setting
from wsss.stages.localize import ClassifierSettings, check_training, classifier_architecture, fit_to_tags
from wsss.stages.outputs import save_model, write_metrics

BLOCKS = 3
"""Blocks of each of the last three levels whose inputs are looked at: on VGG16 the paper's nine layers."""

POOLINGS = ("max", "average")
"""A class scores what its highest cell scores, or the mean of all cells."""


@dataclass(frozen=True)
class DcsmSettings(ClassifierSettings):
    """Training the classifier on the tags."""

    backbone: str = setting("vgg16", "the network", source="paper", choices=BACKBONES)
    output_stride: int = setting(
        16, "pixels of the image for a cell of the last level", source="paper", choices=(8, 16), unit="px"
    )
    pooling: str = setting(
        "max",
        "a class's score: its highest cell's (max), or the mean of all cells as in CAM (average), whose classifier it "
        "then is; vgg16 keeps its fully connected layers",
        source="paper",
        choices=POOLINGS,
        search=choice(*POOLINGS),
    )
    dropout: float = setting(
        0.5, "share of features dropped after fc6 and fc7, or before the classifier", source="VGG16", low=0, high=0.95
    )
    crop: int = setting(512, "side of the training crop", source="DCSM code", low=16, unit="px")
    scale_low: float = setting(0.7, "smallest resizing factor in training", source="paper", low=0.1, high=4)
    scale_high: float = setting(1.4, "largest resizing factor in training", source="paper", low=0.1, high=4)
    jitter: float = setting(0.0, "strength of the colour jitter", low=0, high=0.9)
    epochs: int = setting(20, "passes over the training images", low=1)
    lr: float = setting(1e-3, "learning rate of pretrained weights", low=0, search=factor(0.1, 10))


class FullyConnected(nn.Sequential):
    """VGG16's pool5, fc6 and fc7 as convolutions: B x 512 x h x w features to B x 4096 x h' x w'.

    fc6 is 7 x 7 without padding; features that are smaller than that after pool5 are padded to it. pool5 is 3 x 3 like
    the backbone's other pools, so that cells stay on nodes.
    """

    channels = 4096

    def __init__(self, weights: str, dropout: float) -> None:
        fc6, fc7 = nn.Conv2d(512, self.channels, 7), nn.Conv2d(self.channels, self.channels, 1)
        super().__init__(
            fc6, nn.ReLU(inplace=True), nn.Dropout(dropout), fc7, nn.ReLU(inplace=True), nn.Dropout(dropout)
        )
        if weights != "none":
            state = read_weights("vgg16", weights)
            try:
                for layer, name in ((fc6, "classifier.0"), (fc7, "classifier.3")):
                    layer.load_state_dict(
                        {"weight": state[f"{name}.weight"].view_as(layer.weight), "bias": state[f"{name}.bias"]}
                    )
            except (KeyError, RuntimeError):
                raise UserError(
                    f"weights = {weights} has no fully connected layers of VGG16 (classifier.0, classifier.3), which "
                    "this method needs; give torchvision's whole file"
                ) from None

    def forward(self, features: Tensor) -> Tensor:
        pooled = F.max_pool2d(features, 3, stride=2, padding=1)
        missing = [max(0, 7 - side) for side in pooled.shape[2:]]
        rows, columns = ((n // 2, n - n // 2) for n in missing)
        return super().forward(F.pad(pooled, (*columns, *rows)))


class DcsmNet(nn.Module):
    """Backbone (with fc6 and fc7 on VGG16), 1 x 1 convolution to the classes, global pooling.

    Args:
        classes: C.
        backbone, weights, output_stride: see `build_backbone`.
        dropout: share of features dropped.
        pooling: one of `POOLINGS`; with "average" the 1 x 1 convolution has no bias, as CAM's.
    """

    def __init__(
        self, classes: int, backbone: str, weights: str, output_stride: int, dropout: float, pooling: str = "max"
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.backbone = build_backbone(backbone, weights, output_stride)
        vgg = backbone == "vgg16"
        self.top = FullyConnected(weights, dropout) if vgg else nn.Dropout2d(dropout)
        self.head = nn.Conv2d(
            FullyConnected.channels if vgg else self.backbone.channels[-1], classes, 1, bias=pooling == "max"
        )
        nn.init.normal_(self.head.weight, std=0.01)

    @property
    def spacing(self) -> int:
        """Pixels of the image from one cell of the scores to the next."""
        return self.backbone.output_stride * (2 if isinstance(self.top, FullyConnected) else 1)

    def scores(self, images: Tensor) -> Tensor:
        """Class scores of each cell before the sigmoid, B x C x h x w, of float B x 3 x H x W normalised images."""
        return self.head(self.top(self.backbone(images)[-1]))

    def scores_and_inputs(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`scores`, and the input of each of `blocks` in the scores' graph.

        The first input is cut off from what made it and wants a gradient, so that a backward ends there. Nothing is
        attached to the network: several threads may call it at once.
        """
        blocks, inputs, features = self.blocks(), [], images
        for level in self.backbone.levels:
            for child in level.children():
                if child in blocks:
                    features = features if features.requires_grad else features.detach().requires_grad_()
                    inputs.append(features)
                features = child(features)
        return self.head(self.top(features)), inputs

    def forward(self, images: Tensor) -> Tensor:
        """Class scores B x C before the sigmoid: `pooled` cells."""
        return self.pooled(self.scores(images))

    def pooled(self, cells: Tensor) -> Tensor:
        """Each class's highest cell, or the mean of its cells: B x C of B x C x h x w scores."""
        return cells.amax((2, 3)) if self.pooling == "max" else cells.mean((2, 3))

    def blocks(self) -> list[nn.Module]:
        """The last `BLOCKS` blocks of each of the last three levels; a block is a child that convolves."""
        levels = [
            [child for child in level.children() if any(isinstance(m, nn.Conv2d) for m in child.modules())]
            for level in self.backbone.levels[-3:]
        ]
        return [block for level in levels for block in level[-BLOCKS:]]


def check_dcsm(settings: DcsmSettings) -> None:
    """Refuse VGG16 at another output stride than its fully connected layers were trained for; see `check_training`."""
    if settings.backbone == "vgg16" and settings.output_stride != 16:
        raise UserError(
            f"localize.train.output_stride = {settings.output_stride} does not fit backbone = vgg16, whose fully "
            "connected layers expect 16; set it to 16"
        )
    check_training(settings)


def cam_training(settings: DcsmSettings) -> Twin | None:
    """CAM's training, where it makes the classifier that the settings ask for: with average pooling, not on VGG16."""
    if settings.pooling == "max" or settings.backbone == "vgg16":
        return None
    values = {field.name: getattr(settings, field.name) for field in fields(ClassifierSettings)}
    return Twin(LOCALIZE.name, LOCALIZE.steps[0], ClassifierSettings(**values))


def pooling_of(folder: Path) -> str:
    """How the classifier in a training step's output pools; one that doesn't say it is CAM's if it has no bias."""
    architecture: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    if "pooling" in architecture:
        return str(architecture["pooling"])
    with safe_open(folder / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    return "max" if "head.bias" in names else "average"


def tag_log_odds(tags: np.ndarray) -> Tensor:
    """log((n + 1/2) / (N - n + 1/2)) of the n images with each tag among N: float32 C from bool N x C.

    Where the bias begins. With max pooling, a network that begins at probability 1/2 spends its first hundreds of
    updates on turning all weights down.
    """
    count = torch.tensor(tags).sum(0).float()
    return torch.log(count + 0.5) - torch.log(len(tags) - count + 0.5)


def train_dcsm(context: StepContext) -> None:
    """Train on the tags with the mean over C sigmoid cross-entropies of the pooled cells."""
    settings: DcsmSettings = context.settings
    torch.manual_seed(context.rng)
    architecture = classifier_architecture(context) | {"pooling": settings.pooling}
    model = DcsmNet(weights=settings.weights, **architecture)
    if model.head.bias is not None:
        tags = np.array([context.dataset.tags(i) for i in context.dataset.splits["train"]])
        with torch.no_grad():
            model.head.bias.copy_(tag_log_odds(tags))
    metrics = fit_to_tags(context, model, F.multilabel_soft_margin_loss, pretrained=("backbone", "top"))
    save_model(context.out, model, architecture)
    write_metrics(context.out, metrics)
