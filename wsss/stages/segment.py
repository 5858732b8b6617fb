"""The segment stage, the same for every method: its network's training on label maps, and its steps and presets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.classes import IGNORE
from wsss.data.augmentation import Augmentation
from wsss.data.label_maps import LabelMaps
from wsss.errors import UserError
from wsss.interface import CRF, NETWORK, Stage, Step, StepContext
from wsss.nets.backbones import BACKBONES
from wsss.nets.deeplab import DeepLab
from wsss.scores.metric_names import TRAIN_LOSS
from wsss.settings import factor, setting
from wsss.stages.inference import resize
from wsss.stages.localize import check_training
from wsss.stages.outputs import save_model, write_metrics
from wsss.stages.predict import PredictSettings, predict
from wsss.stages.presets import NETWORKS, of_step
from wsss.stages.prior import PriorSettings, correct_prior, label_counts, shares_in_loss, write_shares
from wsss.stream import ordered_map
from wsss.training import TrainingSettings, fit, parameter_groups, weights_setting


@dataclass(frozen=True)
class SegmenterSettings(TrainingSettings):
    """Training the segmentation network."""

    backbone: str = setting("resnet50", "the network", choices=BACKBONES)
    weights: str = weights_setting()
    output_stride: int = setting(8, "pixels of the image for a cell of the scores", choices=(8, 16), unit="px")
    freeze_bn: bool = setting(True, "keep the batch norm of the initial weights", source="deeplab-pytorch")
    rates: tuple[int, ...] = setting((6, 12, 18, 24), "dilations of the pyramid", source="DeepLabv2", low=1, high=64)
    loss: str = setting(
        "balanced",
        "cross-entropy over all labelled pixels (plain), or the mean of background's and foreground's (balanced)",
        source="AdvCAM author",
        choices=("plain", "balanced"),
    )
    crop: int = setting(321, "side of the training crop", source="deeplab-pytorch", low=16, unit="px")
    scale_low: float = setting(0.5, "smallest resizing factor", source="deeplab-pytorch", low=0.1, high=4)
    scale_high: float = setting(1.5, "largest resizing factor", source="deeplab-pytorch", low=0.1, high=4)
    jitter: float = setting(0.0, "strength of the colour jitter", low=0, high=0.9)
    batch_size: int = setting(10, "images in a batch", source="deeplab-pytorch", low=1)
    epochs: int = setting(20, "passes over the training images", source="deeplab-pytorch: 20,000 iterations", low=1)
    lr: float = setting(
        2.5e-4, "learning rate of pretrained weights", source="deeplab-pytorch", low=0, search=factor(0.1, 10)
    )


def balanced_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """The mean of the cross-entropy over background pixels and that over foreground pixels.

    Args:
        scores: B x (C + 1) x H x W, before the softmax.
        labels: int64 B x H x W, 255 is left out.

    Returns:
        Half of each mean's sum; a side without pixels counts 0 (a batch without labels gives 0).
    """
    losses = F.cross_entropy(scores, labels, ignore_index=IGNORE, reduction="none")
    background, foreground = labels == 0, (labels > 0) & (labels != IGNORE)
    means = [(losses * side).sum() / side.sum().clamp(min=1) for side in (background, foreground)]
    return (means[0] + means[1]) / 2


def plain_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy over the labelled pixels (arguments as above); 0 without any."""
    losses = F.cross_entropy(scores, labels, ignore_index=IGNORE, reduction="sum")
    return losses / (labels != IGNORE).sum().clamp(min=1)


def train_segmenter(
    context: StepContext,
    ids: list[str],
    labels: Callable[[str], np.ndarray],
    begin: Callable[[DeepLab], object] | None = None,
) -> None:
    """Train on the label maps that `labels` gives for `ids` (uint8 H x W).

    `begin` loads initial weights into the network, in place of those of the settings. The classes' shares in the loss
    are kept beside the network.
    """
    settings: SegmenterSettings = context.settings
    dataset = context.dataset
    torch.manual_seed(context.rng)
    architecture: dict[str, Any] = {
        "classes": len(dataset.classes) + 1,
        "backbone": settings.backbone,
        "output_stride": settings.output_stride,
        "rates": list(settings.rates),
        **({} if dataset.has_background else {"background": False}),
    }
    model = DeepLab(weights="none" if begin else settings.weights, **architecture)
    if begin:
        begin(model)
    augment = Augmentation(settings.crop, (settings.scale_low, settings.scale_high), settings.jitter)
    # Without a background there is nothing to balance the foreground with.
    balanced = settings.loss == "balanced" and dataset.has_background
    criterion = balanced_cross_entropy if balanced else plain_cross_entropy

    def sample(image_id: str, draw: np.random.Generator) -> dict[str, Tensor | None]:
        pixels, target = augment(dataset.image(image_id), labels(image_id), draw)
        return {"image": pixels, "labels": target}

    def loss(batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        scores = model(batch["image"].contiguous(memory_format=torch.channels_last))
        return criterion(resize(scores.float(), batch["labels"].shape[1:]), batch["labels"]), {}

    pretrained = begin is not None or settings.weights != "none"
    groups = parameter_groups(model.backbone if pretrained else None, [model.head] if pretrained else [model], settings)
    metrics = fit(model, groups, ids, sample, loss, context, frozen_bn=settings.freeze_bn)
    counts = label_counts(ordered_map(labels, ids), len(dataset.classes))
    write_shares(context.out, shares_in_loss(counts, balanced))
    save_model(context.out, model, architecture)
    write_metrics(context.out, metrics)


def train_on_labels(context: StepContext) -> None:
    """Train on the refiner's label maps of the training images."""
    maps = LabelMaps(context.inputs["refine"] / "labels_crf")
    ids = [i for i in context.dataset.splits["train"] if i in maps]
    train_segmenter(context, ids, maps.read)


def train_on_masks(context: StepContext) -> None:
    """Train on the ground-truth masks of the training images: the fully supervised bound."""
    masks = context.masks
    if masks is None or not masks.ids("train"):
        raise UserError(f"dataset {context.dataset.name} has no masks for its training images; the bound needs them")
    train_segmenter(context, list(masks.ids("train")), masks.read)


_PRIOR = Step("prior", 1, PriorSettings, correct_prior, inputs=("train",), uses=NETWORK, model=True)
_PREDICT = Step(
    "predict",
    4,
    PredictSettings,
    predict,
    inputs=("prior",),
    outputs=("pred", "pred_crf"),
    uses=NETWORK | CRF,
    each_image=True,
)

PRESETS: dict[str, dict[str, object]] = {
    "demo": {
        **of_step("train", NETWORKS["demo"]),
        "train.rates": (1, 2, 4),
        "train.lr": 2e-3,
        "train.head_lr": 1.0,
        "train.crop": 97,
        "train.scale_low": 0.9,
        "train.scale_high": 1.1,
        "train.batch_size": 8,
        "train.epochs": 15,
        "predict.scales": (0.75, 1.0, 1.25),
        "predict.bilateral_sxy": 20.0,
        "predict.bilateral_srgb": 5.0,
    },
    "small": {
        **of_step("train", NETWORKS["small"]),
        "train.rates": (2, 4, 6),
        "train.lr": 2e-4,
        "train.head_lr": 1.0,
        "train.crop": 161,
        "train.scale_low": 0.5,
        "train.scale_high": 1.0,
        "train.batch_size": 16,
        "train.image_limit": 4000,
        "predict.scales": (0.75, 1.0, 1.25),
        "prior.strength": 0.25,
        "predict.bilateral_sxy": 34.0,
    },
    # deeplab-pytorch: DeepLabv2 on ResNet101, two batches of 5 for an update, 20,000 updates on 10,582 images.
    "paper": {"train.backbone": "resnet101", "train.batch_size": 5, "train.accumulate": 2, "train.epochs": 19},
}

DEEPLAB = Stage(
    "segment",
    "deeplab",
    (
        Step(
            "train",
            3,
            SegmenterSettings,
            train_on_labels,
            inputs=("refine",),
            metrics=(TRAIN_LOSS,),
            check=check_training,
            uses=NETWORK,
            workers=True,
        ),
        _PRIOR,
        _PREDICT,
    ),
    PRESETS,
)

SUPERVISED = Stage(
    "segment",
    "supervised",
    (
        Step(
            "train",
            4,
            SegmenterSettings,
            train_on_masks,
            metrics=(TRAIN_LOSS,),
            supervision=frozenset({"masks"}),
            check=check_training,
            uses=NETWORK,
            workers=True,
        ),
        _PRIOR,
        _PREDICT,
    ),
    PRESETS,
)
