"""FCN-MIL's network, its loss, its transplanted classifier, and how it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.errors import UserError
from wsss.interface import StepContext
from wsss.methods.fcn_mil.synsets import SYNSETS
from wsss.nets.backbones import BACKBONES, build_backbone, read_weights
from wsss.nets.deeplab import without_background
from wsss.scores import metric_names
from wsss.settings import choice, factor, setting
from wsss.stages.localize import (
    Classifier,
    ClassifierSettings,
    check_training,
    classifier_architecture,
    fit_to_tags,
    load_classifier,
)
from wsss.stages.outputs import save_model, write_metrics
from wsss.stages.parts import in_parts, once, part_of


@dataclass(frozen=True)
class FcnMilSettings(ClassifierSettings):
    """Training with the multi-class MIL loss."""

    backbone: str = setting(
        "vgg16", "the network; vgg16 goes on with fc6 and fc7 as convolutions", source="paper", choices=BACKBONES
    )
    transplant: bool = setting(
        True,
        "begin with the ImageNet classifier's rows of each class, averaged over its synsets",
        source="paper",
        search=choice(True, False),
    )
    pretrain_epochs: int = setting(
        0,
        "passes in which a tag classifier is trained first and handed over; in place of the ImageNet weights that the "
        "paper needs, where there are none",
        low=0,
    )
    pretrain_lr: float = setting(0.01, "learning rate of that tag classifier", low=0)
    output_stride: int = setting(
        16, "pixels of the image for a cell of the map", source="paper: 32", choices=(8, 16), unit="px"
    )
    crop: int = setting(513, "side of the training crop", low=16, unit="px")
    scale_low: float = setting(1.0, "smallest resizing factor in training", low=0.1, high=4)
    scale_high: float = setting(1.0, "largest resizing factor in training", low=0.1, high=4)
    jitter: float = setting(0.0, "strength of the colour jitter", low=0, high=0.9)
    batch_size: int = setting(8, "images in a batch", low=1)
    epochs: int = setting(7, "passes over the training images", source="paper: below 10,000 iterations", low=1)
    lr: float = setting(1e-4, "learning rate of pretrained weights", source="paper", low=0, search=factor(0.1, 10))
    head_lr: float = setting(1.0, "factor on the learning rate of new layers", source="paper", low=0)


class FcnMil(nn.Module):
    """A fully convolutional network that scores C classes and the background at each cell.

    VGG16 goes on from conv5 with pool5, fc6 and fc7 as convolutions, dilated so that their weights see what they saw.
    The classifier begins as N(0, 0.01), its background row as zero. Without a background that row is never the answer.
    """

    def __init__(
        self,
        classes: int,
        backbone: str,
        weights: str,
        output_stride: int,
        dropout: float,
        background: bool = True,
    ) -> None:
        super().__init__()
        self.background = background
        self.backbone = build_backbone(backbone, weights, output_stride)
        channels = self.backbone.channels[-1]
        self.fully_connected: nn.Module = nn.Identity()
        if backbone == "vgg16":
            self.fully_connected, channels = _fully_connected(weights, 32 // output_stride, dropout), 4096
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(channels, classes + 1, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.weight[0])
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def log_probabilities(self, images: Tensor) -> Tensor:
        """The log-probabilities of float B x 3 x H x W normalised images: float32 B x (C + 1) x h x w."""
        features = self.fully_connected(self.backbone(images)[-1])
        scores = self.head(self.dropout(features)).float()
        return (scores if self.background else without_background(scores)).log_softmax(1)

    def forward(self, images: Tensor) -> Tensor:
        """For each class the log-probability at its best cell: B x (C + 1)."""
        return best_cells(self.log_probabilities(images), inside(images, self.backbone.output_stride))

    def maps(self, images: Tensor) -> Tensor:
        """p, the score maps of background and classes: B x (C + 1) x h x w in [0, 1]."""
        return self.log_probabilities(images).exp()

    def heatmaps(self, images: Tensor) -> Tensor:
        """What `pool` takes of images without padding: the log-probabilities, B x (C + 1) x h x w."""
        return self.log_probabilities(images)

    def pool(self, heatmaps: Tensor) -> Tensor:
        """For each class its best cell's, B x (C + 1) of B x (C + 1) x h x w."""
        return heatmaps.amax((2, 3))


def _fully_connected(weights: str, dilation: int, dropout: float) -> nn.Sequential:
    """pool5, fc6 (7 x 7) and fc7 (1 x 1) of VGG16, with their ImageNet weights where there are weights."""
    pretrained = {} if weights == "none" else read_weights("vgg16", weights)
    if weights != "none" and not {"classifier.0.weight", "classifier.3.weight"} <= pretrained.keys():
        raise UserError(
            f"the weights {weights} lack classifier.0 and classifier.3, which FCN-MIL on vgg16 needs as fc6 and fc7"
        )
    fc6 = nn.Conv2d(512, 4096, 7, padding=3 * dilation, dilation=dilation)
    fc7 = nn.Conv2d(4096, 4096, 1)
    if pretrained:
        for layer, key in ((fc6, "classifier.0"), (fc7, "classifier.3")):
            layer.load_state_dict({k: pretrained[f"{key}.{k}"].view_as(v) for k, v in layer.state_dict().items()})
    pool5 = nn.MaxPool2d(3, stride=1, padding=1)
    return nn.Sequential(pool5, fc6, nn.ReLU(inplace=True), nn.Dropout(dropout), fc7, nn.ReLU(inplace=True))


def inside(images: Tensor, stride: int) -> Tensor:
    """The cells whose pixel belongs to the image, bool B x h x w, of float B x 3 x H x W normalised images.

    A crop's padding is exactly 0, which no pixel of an image is. Where no cell's pixel belongs to the image, all do.
    """
    cells = (images[:, :, ::stride, ::stride] != 0).any(1)
    return cells | ~cells.any(2).any(1)[:, None, None]


def best_cells(log_probabilities: Tensor, allowed: Tensor) -> Tensor:
    """The values log p_l(x_l, y_l) with (x_l, y_l) = argmax p_l over the allowed cells (bool B x h x w).

    B x K from B x K x h x w; of equal cells, one is taken.
    """
    return log_probabilities.masked_fill(~allowed[:, None], -torch.inf).flatten(2).max(2).values


def mil_loss(best: Tensor, tags: Tensor, background: bool = True) -> Tensor:
    """The multi-class MIL loss -1/|L| sum_{l in L} log p_l(x_l, y_l), L the tags and the background; mean over images.

    Args:
        best: log p_l(x_l, y_l), B x (C + 1), the background first.
        tags: B x C of 0 and 1; without a background each image has one at least.
        background: whether there is one in L.
    """
    present = torch.cat([torch.full_like(tags[:, :1], float(background)), tags], 1)
    return -((best * present).sum(1) / present.sum(1)).mean()


@torch.no_grad()
def transplant_rows(head: nn.Conv2d, state: Mapping[str, Tensor], classes: Sequence[str]) -> int:
    """Replace the classifier's rows by the mean of the ImageNet classifier's rows of each class's synsets.

    Args:
        head: 1 x 1 convolution to 1 + C channels, the background first; classes without a synset keep their rows.
        state: pretrained weights by torchvision's key.
        classes: C names; those of PASCAL VOC have synsets.

    Returns:
        How many classes were transplanted.

    Raises:
        UserError: no 1,000 rows for this head among the weights.
    """
    rows = (1000, head.in_channels)
    layer = next(
        (
            k
            for k in ("fc", "classifier.1", "classifier.6")
            if f"{k}.bias" in state and state[f"{k}.weight"].shape == rows
        ),
        None,
    )
    if layer is None:
        raise UserError(
            "transplant=true needs weights with the ImageNet classifier's 1000 rows of "
            f"{head.in_channels} numbers, which these are without; set localize.train.transplant=false"
        )
    assert head.bias is not None
    found = [(index, list(SYNSETS[name])) for index, name in enumerate(classes, 1) if name in SYNSETS]
    for index, synsets in found:
        head.weight[index, :, 0, 0] = state[f"{layer}.weight"][synsets].mean(0)
        head.bias[index] = state[f"{layer}.bias"][synsets].mean()
    return len(found)


def check_mil(settings: FcnMilSettings) -> None:
    """Refuse a transplantation without weights, and a pretraining that is not handed over; see `check_training`."""
    if settings.transplant and settings.weights == "none":
        raise UserError(
            "localize.train.transplant=true takes rows of pretrained weights, but weights=none; set one of them "
            "otherwise"
        )
    if settings.pretrain_epochs and (settings.weights != "none" or settings.backbone == "vgg16"):
        raise UserError(
            f"localize.train.pretrain_epochs = {settings.pretrain_epochs} stands in for pretrained weights, with "
            "weights=none and a backbone other than vgg16; set it to 0"
        )
    check_training(settings)


@in_parts
def train_mil(context: StepContext) -> None:
    """Train with the MIL loss; before it, take over the ImageNet classifier's rows or a tag classifier trained here."""
    settings: FcnMilSettings = context.settings
    torch.manual_seed(context.rng)
    background = context.dataset.has_background
    architecture = classifier_architecture(context)
    own = architecture if background else {**architecture, "background": False}
    model = FcnMil(weights=settings.weights, **own)
    metrics: dict[str, float] = {}
    if settings.transplant:
        state = read_weights(settings.backbone, settings.weights)
        metrics["transplanted_classes"] = transplant_rows(model.head, state, context.dataset.classes.names)
    if settings.pretrain_epochs:
        first = replace(settings, epochs=settings.pretrain_epochs, lr=settings.pretrain_lr)
        part = part_of(context, "pretrain", settings=first)
        metrics |= once(part, partial(pretrain, architecture=architecture))
        hand_over(load_classifier(part.out), model)
    metrics |= fit_to_tags(context, model, partial(mil_loss, background=background), ("backbone", "fully_connected"))
    save_model(context.out, model, own)
    write_metrics(context.out, metrics)


def pretrain(context: StepContext, architecture: dict[str, Any]) -> dict[str, float]:
    """Train and keep a tag classifier from no weights; its loss."""
    classifier = Classifier(weights="none", **architecture)
    trained = fit_to_tags(context, classifier, F.multilabel_soft_margin_loss)
    save_model(context.out, classifier, architecture)
    return {"pretrain/loss": trained[metric_names.TRAIN_LOSS]}


@torch.no_grad()
def hand_over(classifier: Classifier, model: FcnMil) -> None:
    """Give a trained tag classifier's backbone and rows to the network; the background's row stays zero."""
    model.backbone.load_state_dict(classifier.backbone.state_dict())
    model.head.weight[1:] = classifier.head.weight
    model.head.weight[0] = 0
