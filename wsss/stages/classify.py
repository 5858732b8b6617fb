"""A tag classifier whose last convolution gives class activation maps: what most localizers are built on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wsss.data.augmentation import Augmentation
from wsss.data.score_maps import ScoreMap, ScoreMapWriter
from wsss.errors import UserError
from wsss.evaluation import mean_average_precision
from wsss.interface import StepContext
from wsss.nets.backbones import BACKBONES, build_backbone, check_weights
from wsss.settings import loguniform, setting
from wsss.stages.inference import batches_by_size, multi_scale, node_grid
from wsss.training import TrainingSettings, fit, parameter_groups, to_device


@dataclass(frozen=True)
class ClassifierSettings(TrainingSettings):
    """Training a classifier on the tags."""

    backbone: str = setting("resnet50", "the network", choices=BACKBONES)
    weights: str = setting("imagenet", 'initial weights: "imagenet", "none", or a file', file=True)
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
    lr: float = setting(0.01, "learning rate of pretrained weights", low=0, search=loguniform(1e-3, 1e-1))


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
        return F.relu(self.head(self.backbone(images)[-1]))


def check_training(settings: Any) -> None:
    """Refuse frozen batch norm without the weights that it belongs to, and a scale range that is upside down.

    Raises:
        UserError: such settings, or a weights file that is not there.
    """
    if settings.freeze_bn and settings.weights == "none":
        raise UserError(
            "freeze_bn=true keeps the batch norm of initial weights, but weights=none; set one of them otherwise"
        )
    if settings.scale_low > settings.scale_high:
        raise UserError(f"scale_low = {settings.scale_low} is above scale_high = {settings.scale_high}")
    check_weights(settings.backbone, settings.weights)


def train_classifier(context: StepContext) -> None:
    """Train on the tags with the multi-label soft margin loss (a mean over C sigmoid cross-entropies)."""
    settings: ClassifierSettings = context.settings
    dataset = context.dataset
    torch.manual_seed(context.rng)
    architecture: dict[str, Any] = {
        "classes": len(dataset.classes),
        "backbone": settings.backbone,
        "output_stride": settings.output_stride,
        "dropout": settings.dropout,
    }
    model = Classifier(weights=settings.weights, **architecture)
    augment = Augmentation(settings.crop, (settings.scale_low, settings.scale_high), settings.jitter)

    def sample(image_id: str, draw: np.random.Generator) -> dict[str, Tensor]:
        pixels, _ = augment(dataset.image(image_id), None, draw)
        return {"image": pixels, "tags": torch.from_numpy(dataset.tags(image_id).astype(np.float32))}

    def loss(batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        scores = model(batch["image"].contiguous(memory_format=torch.channels_last))
        return F.multilabel_soft_margin_loss(scores, batch["tags"]), {}

    pretrained = settings.weights != "none"
    groups = parameter_groups(model.backbone if pretrained else None, [model.head] if pretrained else [model], settings)
    metrics = fit(model, groups, dataset.splits["train"], sample, loss, context, frozen_bn=settings.freeze_bn)
    save_model(context.out, model, architecture)
    write_metrics(context.out, metrics)


def infer_cam(context: StepContext) -> None:
    """Score maps of the tagged classes for train and dev; the classifier's ranking quality on dev and val.

    Each map is the mean over scales and mirrored copies, divided by its maximum plus 1e-5 (PSA code). The maximum is
    taken at the size of the map.
    """
    settings: CamSettings = context.settings
    dataset, device = context.dataset, context.device
    model = to_device(load_classifier(context.inputs["train"]), device)
    stride = model.backbone.output_stride
    ids = [*dataset.splits["train"], *dataset.splits["dev"]]
    dtype = _inference_dtype(settings.precision, device)
    done = 0
    with ScoreMapWriter(context.out / "cam") as writer:
        for chunk, images in batches_by_size(dataset, ids, device):
            grid = node_grid(images[0].shape[0], images[0].shape[1], settings.stride)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                maps = multi_scale(
                    model.maps,
                    images,
                    scales=settings.scales,
                    flip=settings.flip,
                    stride=stride,
                    grid=grid,
                    device=device,
                )
            for image_id, image, scores in zip(chunk, images, maps, strict=True):
                writer.add(image_id, tagged_score_map(scores.cpu(), dataset.tags(image_id), image.shape[:2]))
            done += len(chunk)
            context.report.progress(done, len(ids), "images")
    write_metrics(context.out, {f"{split}/tags/map": _tag_map(model, context, split) for split in ("dev", "val")})


def tagged_score_map(maps: Tensor, tags: np.ndarray, size: tuple[int, int]) -> ScoreMap:
    """Keep the tagged classes (bool C) of C x h x w maps, at least 0, and divide each by its maximum plus 1e-5."""
    present = np.flatnonzero(tags)
    kept = maps[torch.from_numpy(present)]
    if len(present):
        kept = kept / (kept.amax((1, 2), keepdim=True) + 1e-5)
    return ScoreMap(kept.numpy().astype(np.float16), (present + 1).astype(np.uint8), size)


@torch.inference_mode()
def _tag_map(model: Classifier, context: StepContext, split: str) -> float:
    """The mean average precision of the tags at scale 1; NaN for an empty split."""
    dataset = context.dataset
    scores: list[np.ndarray] = []
    tags: list[np.ndarray] = []
    for chunk, images in batches_by_size(dataset, dataset.splits[split], context.device):
        maps = multi_scale(
            lambda x: model(x)[:, :, None, None],
            images,
            scales=(1.0,),
            flip=False,
            stride=model.backbone.output_stride,
            grid=(1, 1),
            device=context.device,
        )
        scores.append(maps[:, :, 0, 0].cpu().numpy())
        tags.extend(dataset.tags(i) for i in chunk)
    return mean_average_precision(np.concatenate(scores), np.array(tags)) if scores else float("nan")


def _inference_dtype(precision: str, device: torch.device) -> torch.dtype:
    gains = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if precision == "bfloat16" or (precision == "auto" and gains) else torch.float32


def save_model(folder: Path, model: nn.Module, architecture: dict[str, object]) -> None:
    """Write `model.safetensors` and the arguments that rebuild the network, `model.json`."""
    save_file({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "model.json").write_text(json.dumps(architecture, indent=1))


def load_classifier(folder: Path) -> Classifier:
    """The trained classifier of a step's output, in eval mode, on the CPU."""
    model = Classifier(weights="none", **json.loads((folder / "model.json").read_text()))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


def backbone_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of the backbone in a localizer's training step's output: every localizer names it `backbone`."""
    weights = load_file(folder / "model.safetensors")
    return {key.removeprefix("backbone."): w for key, w in weights.items() if key.startswith("backbone.")}


def write_metrics(folder: Path, metrics: dict[str, float]) -> None:
    """Keep a step's final figures with its output, so that a reused step has them too."""
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1))
