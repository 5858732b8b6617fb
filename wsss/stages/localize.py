"""A tag classifier whose last convolution gives class activation maps, and training on tags: what localizers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.data.augmentation import Augmentation
from wsss.errors import UserError
from wsss.interface import StepContext
from wsss.nets.backbones import BACKBONES, build_backbone
from wsss.settings import factor, setting
from wsss.stages.outputs import backbone_weights, load_model, save_model, write_metrics
from wsss.training import TrainingSettings, check_start, fit, parameter_groups, weights_setting


@dataclass(frozen=True)
class ClassifierSettings(TrainingSettings):
    """Training a classifier on the tags."""

    backbone: str = setting("resnet50", "the network", choices=BACKBONES)
    weights: str = weights_setting()
    output_stride: int = setting(8, "pixels of the image for a cell of the map", choices=(8, 16), unit="px")
    freeze_bn: bool = setting(True, "keep the batch norm of the initial weights", source="PSA code")
    dropout: float = setting(
        0.5, "share of features dropped before the classifier", source="PSA code", low=0, high=0.95
    )
    crop: int = setting(448, "side of the training crop", source="PSA code", low=16, unit="px")
    scale_low: float = setting(0.5, "smallest resizing factor in training", source="PSA code", low=0.1, high=4)
    scale_high: float = setting(1.0, "largest resizing factor in training", source="PSA code", low=0.1, high=4)
    jitter: float = setting(0.3, "strength of the colour jitter", source="PSA code", low=0, high=0.9)
    epochs: int = setting(15, "passes over the training images", source="PSA code", low=1)
    lr: float = setting(0.01, "learning rate of pretrained weights", low=0, search=factor(0.1, 10))


class Classifier(nn.Module):
    """Backbone, dropout, bias-free 1 x 1 convolution, global average pooling (Zhou et al., CVPR 2016, eq. 1-2)."""

    def __init__(self, classes: int, backbone: str, weights: str, output_stride: int, dropout: float) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone, weights, output_stride)
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(self.backbone.channels[-1], classes, 1, bias=False)
        nn.init.xavier_uniform_(self.head.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores B x C (before the sigmoid) of float B x 3 x H x W normalised images."""
        features = self.backbone(images)[-1]
        return self.head(self.dropout(features).mean((2, 3), keepdim=True)).flatten(1)

    def maps(self, images: Tensor) -> Tensor:
        """The class activation maps before any normalisation: B x C x h x w, at least 0."""
        return F.relu(self.heatmaps(images))

    def heatmaps(self, images: Tensor) -> Tensor:
        """The scores of cells, B x C x h x w, whose mean is the class score: both layers are linear."""
        return self.head(self.backbone(images)[-1])

    def pool(self, heatmaps: Tensor) -> Tensor:
        """Class scores B x C of the scores of cells."""
        return heatmaps.mean((2, 3))


def check_training(settings: Any) -> None:
    """Refuse a scale range that is upside down; see also `check_start`.

    Raises:
        UserError: such settings.
    """
    check_start(settings)
    if settings.scale_low > settings.scale_high:
        raise UserError(f"scale_low = {settings.scale_low} is above scale_high = {settings.scale_high}")


def classifier_architecture(context: StepContext) -> dict[str, Any]:
    """The arguments of a classifier besides its weights, from a step whose settings are `ClassifierSettings`."""
    settings: ClassifierSettings = context.settings
    return {
        "classes": len(context.dataset.classes),
        "backbone": settings.backbone,
        "output_stride": settings.output_stride,
        "dropout": settings.dropout,
    }


def train_classifier(context: StepContext) -> None:
    """Train on the tags with the multi-label soft margin loss (a mean over C sigmoid cross-entropies)."""
    settings: ClassifierSettings = context.settings
    torch.manual_seed(context.rng)
    architecture = classifier_architecture(context)
    model = Classifier(weights=settings.weights, **architecture)
    metrics = fit_to_tags(context, model, F.multilabel_soft_margin_loss)
    save_model(context.out, model, architecture)
    write_metrics(context.out, metrics)


def fit_to_tags(
    context: StepContext,
    model: nn.Module,
    criterion: Callable[[Any, Tensor], Tensor],
    pretrained: Sequence[str] = ("backbone",),
) -> dict[str, float]:
    """Train a network on images and tags.

    Args:
        context: the step's; its settings are `ClassifierSettings`.
        model: the network.
        criterion: from the network's output for a batch of images, and the float B x C tags, to the loss.
        pretrained: the children that take the learning rate of pretrained weights (where there are any); all the others
            take that of new layers.

    Returns:
        What `fit` measures.
    """
    settings: ClassifierSettings = context.settings
    dataset = context.dataset
    augment = Augmentation(settings.crop, (settings.scale_low, settings.scale_high), settings.jitter)

    def sample(image_id: str, draw: np.random.Generator) -> dict[str, Tensor]:
        pixels, _ = augment(dataset.image(image_id), None, draw)
        return {"image": pixels, "tags": torch.from_numpy(dataset.tags(image_id).astype(np.float32))}

    def loss(batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        return criterion(model(batch["image"].contiguous(memory_format=torch.channels_last)), batch["tags"]), {}

    groups = parameter_groups(None, [model], settings)
    if settings.weights != "none":
        new = [child for name, child in model.named_children() if name not in pretrained]
        groups = parameter_groups(nn.ModuleList(map(model.get_submodule, pretrained)), new, settings)
    return fit(model, groups, dataset.splits["train"], sample, loss, context, frozen_bn=settings.freeze_bn)


def load_classifier(folder: Path) -> Classifier:
    """The trained classifier of a step's output, in eval mode, on the CPU."""
    return load_model(folder, Classifier)


def begin_localized(context: StepContext, key: str) -> Callable[[Any], None]:
    """Initial weights from the localizer: a function that loads them into a network's `backbone`.

    Raises (when called):
        UserError: the localizer's backbone is another one; `key` is the step whose settings choose it.
    """

    def begin(model: Any) -> None:
        try:
            model.backbone.load_state_dict(backbone_weights(context.inputs["localize.train"]))
        except RuntimeError:
            raise UserError(
                f'{key}.weights = "localize" needs the localizer\'s own backbone, but {key}.backbone is '
                f"{context.settings.backbone}"
            ) from None

    return begin
