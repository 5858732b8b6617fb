"""One round's learning: training the region classifier, and labelling all regions with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wsss.classes import IGNORE
from wsss.data.augmentation import Augmentation
from wsss.interface import StepContext
from wsss.methods.deep_clustering.network import (
    RegionClassifier,
    best_regions,
    candidate_probabilities,
    center_loss,
    class_weights,
    region_cross_entropy,
    update_centers,
    with_kept,
)
from wsss.methods.deep_clustering.regions import Regions
from wsss.nets.backbones import BACKBONES
from wsss.nets.folding import folded
from wsss.ops.region_crf import region_kernel, region_mean_field, region_statistics
from wsss.ops.superpixels import masked_average, region_means, region_weights
from wsss.ops.tiles import is_large
from wsss.scores import metric_names
from wsss.settings import choice, factor, setting, uniform
from wsss.stages.inference import check_nodes, multi_scale, node_grid, stream_images
from wsss.stages.localize import begin_localized, check_training
from wsss.stages.outputs import backbone_weights, save_model
from wsss.stages.prior import log_prior, prior_setting
from wsss.training import TrainingSettings, fit, parameter_groups, to_device, weights_setting

RegionLabels = Mapping[str, np.ndarray]
"""The label of each region, uint8 R, by image id; 255 is none."""

_PADDING = 256
"""Added to the regions' numbers where an image is cropped, so that the 255 of its padding is none of them."""


@dataclass(frozen=True)
class RoundsSettings(TrainingSettings):
    """The rounds; what a training has is said of each round's."""

    rounds: int = setting(3, "how often the regions are labelled anew", low=1, high=20)
    vote: float = setting(0.5, "share of a region's area that its first label must hold", low=0.01, high=1)
    confidence: float = setting(
        0.6,
        "probability from which the classifier's label of a region is kept",
        low=0,
        high=1,
        search=uniform(0.5, 0.9),
    )
    center_weight: float = setting(
        0.01, "weight of the center loss", low=0, high=10, search=choice(0.0, 0.003, 0.01, 0.03, 0.1)
    )
    center_rate: float = setting(
        0.5, "how far a centre moves to the mean of a batch", source="Wen et al., ECCV 2016", low=0, high=1
    )
    balance: float = setting(
        0.5, "0 gives every region, 1 every class the same say in the loss", low=0, high=1, search=uniform(0, 1)
    )
    keep: float = setting(
        0.0,
        "share of an image's regions, its best, that each of its tags keeps at least; 0 is none",
        low=0,
        high=0.5,
        search=choice(0.0, 0.02, 0.05, 0.1),
    )
    prior: float = prior_setting()
    dimension: int = setting(256, "numbers in a region's feature", low=2, high=4096)
    backbone: str = setting("resnet50", "the network", choices=BACKBONES)
    weights: str = weights_setting(localized=True)
    output_stride: int = setting(8, "of the backbone", choices=(8, 16), unit="px")
    stride: int = setting(8, "pixels of the image for a cell of the features", choices=(4, 8), unit="px")
    freeze_bn: bool = setting(True, "keep the batch norm of the initial weights")
    crop: int = setting(321, "side of the training crop", low=17, unit="px")
    scale_low: float = setting(0.75, "smallest resizing factor", low=0.1, high=4)
    scale_high: float = setting(1.25, "largest resizing factor", low=0.1, high=4)
    jitter: float = setting(0.3, "strength of the colour jitter", low=0, high=0.9)
    batch_size: int = setting(10, "images in a batch", low=1)
    epochs: int = setting(5, "passes over the training images in a round", low=1)
    image_limit: int | None = setting(None, "at most so many images in a round; fewer epochs, one at least", low=1)
    lr: float = setting(1e-3, "learning rate of initialised weights", low=0, search=factor(0.1, 10))
    region_weight: float = setting(
        10.0, "weight of the CRF over the regions when they are labelled; 0 is none", low=0, high=100
    )
    region_sxy: float = setting(80.0, "width in px of its kernel", low=0.1, high=500, unit="px")
    region_srgb: float = setting(13.0, "width in colour of its kernel", low=0.1, high=255)
    scales: tuple[float, ...] = setting((1.0,), "image scales when regions are labelled", low=0.1, high=8)
    flip: bool = setting(True, "add mirrored images when regions are labelled")


def check_rounds(settings: RoundsSettings) -> None:
    """Refuse a crop off the network's grid; see also `check_training`."""
    check_nodes(settings.crop, max(settings.stride, settings.output_stride), "refine.rounds.crop")
    check_training(settings)


def train_regions(
    context: StepContext, regions: Regions, labels: RegionLabels, counts: Tensor, previous: Path | None
) -> tuple[RegionClassifier, float]:
    """Train the region classifier with cross-entropy and center loss; the backbone begins where `previous` ended.

    Returns:
        The network, in eval mode on the device, and the last epoch's mean loss; the network is saved too. Its last
        bias has the prior correction in it: a class's share in the loss is n_c w_c, of the regions and the weights.
    """
    settings: RoundsSettings = context.settings
    dataset = context.dataset
    torch.manual_seed(context.rng)
    architecture: dict[str, Any] = {
        "classes": len(dataset.classes),
        "backbone": settings.backbone,
        "output_stride": settings.output_stride,
        "stride": settings.stride,
        "dimension": settings.dimension,
    }
    begins = settings.weights if previous is None else "localize"
    model = RegionClassifier(weights="none" if begins == "localize" else begins, **architecture)
    if previous is not None:
        model.backbone.load_state_dict(backbone_weights(previous))
    elif begins == "localize":
        begin_localized(context, "refine.rounds")(model)
    augment = Augmentation(settings.crop, (settings.scale_low, settings.scale_high), settings.jitter)
    cells = (settings.crop - 1) // settings.stride + 1
    say = class_weights(counts, settings.balance).to(context.device)

    def sample(image_id: str, draw: np.random.Generator) -> dict[str, Tensor]:
        pixels, numbers = augment(dataset.image(image_id), regions.read(image_id) + _PADDING, draw)
        assert numbers is not None
        seen = np.maximum(numbers.numpy() - _PADDING, -1)
        weights = region_weights(seen, regions.largest, (cells, cells))
        target = np.full(regions.largest, IGNORE, np.int64)
        target[: len(labels[image_id])] = labels[image_id]
        target[weights.sum(1) == 0] = IGNORE
        return {"image": pixels, "weights": torch.from_numpy(weights), "labels": torch.from_numpy(target)}

    def loss(batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        images = batch["image"].contiguous(memory_format=torch.channels_last)
        features, scores = model(images, batch["weights"])
        features, target = features.flatten(0, 1), batch["labels"].flatten()
        apart = region_cross_entropy(scores.flatten(0, 1).float(), target, say)
        together = center_loss(features, target, model.centers)
        update_centers(model.centers, features.detach(), target, settings.center_rate)
        parts = {"cross_entropy": apart.item(), "center": together.item()}
        return apart + settings.center_weight * together, parts

    heads: list[nn.Module] = [model.embed, model.head]
    pretrained = begins != "none"
    groups = parameter_groups(model.backbone if pretrained else None, heads if pretrained else [model], settings)
    metrics = fit(model, groups, dataset.splits["train"], sample, loss, context, frozen_bn=settings.freeze_bn)
    if settings.prior:
        weighed = (counts * say.cpu()).double()
        assert model.head.bias is not None
        model.head.bias.data -= log_prior((weighed / weighed.sum()).numpy(), settings.prior).to(context.device)
    save_model(context.out, model, architecture)
    return model, metrics[metric_names.TRAIN_LOSS]


def predict_regions(context: StepContext, model: RegionClassifier, regions: Regions) -> dict[str, np.ndarray]:
    """Two distributions of every region of train and dev over its image's candidates: float16 2 x K x R by image id.

    The first is the classifier's own, the second what the CRF over the image's regions makes of it; there, a region
    that a tag keeps has the tag in the first place.
    """
    settings: RoundsSettings = context.settings
    dataset = context.dataset
    coarsest = max(settings.stride, settings.output_stride)
    network = folded(to_device(model, context.device).eval())

    def infer(images: Sequence[np.ndarray]) -> Sequence[Tensor]:
        return multi_scale(
            network.maps,
            images,
            scales=settings.scales,
            flip=settings.flip,
            stride=coarsest,
            grid=node_grid(images[0].shape[0], images[0].shape[1], settings.stride),
            device=context.device,
        ).unbind()

    def finish(image_id: str, image: np.ndarray, maps: Tensor) -> np.ndarray:
        own = regions.read(image_id)
        count = int(own.max()) + 1
        if is_large(*own.shape):
            scores = torch.from_numpy(region_means(maps.cpu().numpy(), own, count))
        else:
            weights = region_weights(own, count, (maps.shape[1], maps.shape[2]))
            scores = masked_average(maps.cpu(), torch.from_numpy(weights))
        before = candidate_probabilities(scores.T, dataset.candidates(image_id)).numpy()
        kernel = region_kernel(region_statistics(image, own, len(scores)), settings.region_sxy, settings.region_srgb)
        both = np.stack([before, region_mean_field(before, kernel, settings.region_weight)]).astype(np.float16)
        both[1] = with_kept(both[1], best_regions(both[0], dataset.candidates(image_id), settings.keep))
        return both

    found: dict[str, np.ndarray] = {}
    for image_id, distributions in stream_images(dataset, regions.ids, context.device, infer, finish):
        found[image_id] = distributions
        context.report.progress(len(found), len(regions.ids), "images", "labelling")
    return found
