"""A tag classifier whose last convolution gives class activation maps: what most localizers are built on."""

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
from wsss.data.score_maps import ScoreMap, ScoreMapWriter
from wsss.errors import UserError
from wsss.interface import StepContext
from wsss.nets.backbones import BACKBONES, build_backbone
from wsss.nets.folding import folded
from wsss.ops.tiles import is_large
from wsss.scores import mean_average_precision, metric_names
from wsss.settings import factor, setting
from wsss.stages.inference import multi_scale, node_grid, stream_images
from wsss.stages.outputs import backbone_weights, load_model, save_model, write_metrics
from wsss.training import (
    TrainingSettings,
    check_start,
    fit,
    gains_by_bfloat16,
    parameter_groups,
    to_device,
    weights_setting,
)


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


@dataclass(frozen=True)
class CamSettings:
    """Making score maps with the trained classifier."""

    scales: tuple[float, ...] = setting((0.5, 1.0, 1.5, 2.0), "image scales", source="PSA code", low=0.1, high=8)
    flip: bool = setting(True, "add mirrored images", source="PSA code")
    stride: int = setting(8, "pixels of the image for a cell of the score map", choices=(2, 4, 8, 16), unit="px")
    precision: str = setting(
        "auto",
        "number format: auto takes bfloat16 where the device gains by it",
        choices=("auto", "float32", "bfloat16"),
    )

    def number_format(self, device: torch.device) -> torch.dtype:
        """What `precision` comes down to on a device."""
        gains = gains_by_bfloat16(device)
        return torch.bfloat16 if self.precision == "bfloat16" or (self.precision == "auto" and gains) else torch.float32


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


def infer_cam(context: StepContext) -> None:
    """Score maps of the tagged classes for train and dev; the classifier's ranking quality on dev and val.

    Each map is the mean over scales and mirrored copies, divided by its maximum plus 1e-5 (PSA code). The maximum is
    taken at the size of the map.
    """
    model = to_device(load_classifier(context.inputs["train"]), context.device)
    write_score_maps(context, model, tagged_score_map)
    write_metrics(context.out, tag_metrics(context, model))


def write_score_maps(
    context: StepContext,
    model: nn.Module,
    score_map: Callable[[Tensor, np.ndarray, tuple[int, int]], ScoreMap],
) -> None:
    """Score maps of train and dev (`cam`), from the mean over scales and mirrored copies of a network's maps.

    An interrupted step continues.

    Args:
        context: the step's; its settings are `CamSettings`.
        model: in eval mode, on the context's device, with a `backbone` and `maps` (see `image_maps`).
        score_map: from an image's maps float32 K x h x w on the CPU, its tags (bool C) and its size to what is kept;
            called from several threads at once.
    """
    dataset, device = context.dataset, context.device
    ids = [*dataset.splits["train"], *dataset.splits["dev"]]
    network = folded(model, context.settings.number_format(device))

    def infer(images: Sequence[np.ndarray]) -> Sequence[Tensor]:
        return image_maps(network, images, context.settings, device).unbind()

    def finish(image_id: str, image: np.ndarray, maps: Tensor) -> ScoreMap:
        return score_map(maps.cpu(), dataset.tags(image_id), (image.shape[0], image.shape[1]))

    with ScoreMapWriter(context.out / "cam", resume=True) as writer:
        results = stream_images(dataset, ids, device, infer, finish, skip=writer.kept)
        for done, (image_id, found) in enumerate(results, len(writer.kept) + 1):
            writer.add(image_id, found)
            context.report.progress(done, len(ids), "images")


def image_maps(model: Any, images: Sequence[np.ndarray], settings: CamSettings, device: torch.device) -> Tensor:
    """The mean over scales and mirrored copies of a network's maps.

    Args:
        model: in eval mode, on the device, with a `backbone` and a method `maps` from float B x 3 x H x W normalised
            images to B x K x h x w.
        images: uint8 H x W x 3, all of one size.
        settings: scales, mirroring, stride and number format.
        device: where the network is.

    Returns:
        float32 B x K x h x w on the device, a cell for every `stride`-th pixel.
    """
    dtype = settings.number_format(device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        return multi_scale(
            model.maps,
            images,
            scales=settings.scales,
            flip=settings.flip,
            stride=model.backbone.output_stride,
            grid=node_grid(images[0].shape[0], images[0].shape[1], settings.stride),
            device=device,
        )


def tagged_score_map(maps: Tensor, tags: np.ndarray, size: tuple[int, int]) -> ScoreMap:
    """Keep the tagged classes (bool C) of C x h x w maps, at least 0, and divide each by its maximum plus 1e-5."""
    present = np.flatnonzero(tags)
    kept = maps[torch.from_numpy(present)]
    if len(present):
        kept = kept / (kept.amax((1, 2), keepdim=True) + 1e-5)
    return ScoreMap(kept.numpy().astype(np.float16), (present + 1).astype(np.uint8), size)


def tag_metrics(
    context: StepContext,
    model: nn.Module,
    of_large: Callable[[Any, Sequence[np.ndarray], torch.device], Tensor] | None = None,
) -> dict[str, float]:
    """How well a network's class scores rank the tags of dev and val: the mean average precision "<split>/tags/map".

    The network's output is B x C, or B x (1 + C) with the background first, which has no tag and is left out. NaN for
    an empty split. `of_large` is what gives the scores of large images in place of `class_scores`.
    """
    dataset, device = context.dataset, context.device
    network = folded(model)

    def infer(images: Sequence[np.ndarray]) -> Sequence[Tensor]:
        scores = of_large if of_large and is_large(*images[0].shape[:2]) else class_scores
        return scores(network, images, device)[:, -len(dataset.classes) :].unbind()

    found = {}
    for split in ("dev", "val"):
        scores = dict(
            stream_images(dataset, dataset.splits[split], device, infer, lambda id, image, own: own.cpu().numpy())
        )
        tags = [dataset.tags(i) for i in scores]
        precision = mean_average_precision(np.array([*scores.values()]), np.array(tags)) if tags else float("nan")
        found[metric_names.tags_map(split)] = precision
    return found


def class_scores(model: Any, images: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """A network's output at scale 1, float32 B x K, for uint8 H x W x 3 images of one size.

    Of large images a network with `heatmaps` and `pool` has its cells' scores made in tiles and then pools them all;
    for another they are halved until they are small.
    """
    stride = model.backbone.output_stride
    height, width = images[0].shape[:2]
    if is_large(height, width) and hasattr(model, "pool"):
        grid, one = node_grid(height, width, stride), (1.0,)
        cells = multi_scale(model.heatmaps, images, scales=one, flip=False, stride=stride, grid=grid, device=device)
        return model.pool(cells)
    while is_large(*images[0].shape[:2]):
        images = [image[::2, ::2] for image in images]
    scores = multi_scale(
        lambda x: model(x)[:, :, None, None],
        images,
        scales=(1.0,),
        flip=False,
        stride=stride,
        grid=(1, 1),
        device=device,
    )
    return scores[:, :, 0, 0]


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
