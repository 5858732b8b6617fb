"""WILDCAT (Durand et al., CVPR 2017): several maps for each class, pooled over the highest and the lowest cells.

Written from the behaviour of the authors' released code, which covers the classifier; the paper's segmentation by
heatmaps and a CRF is not in it. Gradients are those of the formulas; the code's two departures from them are options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.data.score_maps import ScoreMap
from wsss.errors import UserError
from wsss.interface import NETWORK, Method, Stage, Step, StepContext
from wsss.methods.cam import LOCALIZE, REFINE
from wsss.nets.backbones import BACKBONES, build_backbone
from wsss.nets.folding import folded
from wsss.ops.pooling import class_wise_pool, spatial_pool
from wsss.scores.metric_names import TAG_METRICS, TRAIN_LOSS
from wsss.settings import choice, factor, setting, uniform
from wsss.stages.cam import CamSettings, class_scores, image_maps, tag_metrics, tagged_score_map, write_score_maps
from wsss.stages.direct import direct, predict_directly
from wsss.stages.localize import ClassifierSettings, check_training, classifier_architecture, fit_to_tags
from wsss.stages.outputs import load_model, save_model, write_metrics
from wsss.stages.presets import from_step, of_step
from wsss.stages.refine import BackgroundSettings, CrfSettings, with_background
from wsss.stages.segment import DEEPLAB
from wsss.training import to_device


@dataclass(frozen=True)
class WildcatSettings(ClassifierSettings):
    """Training WILDCAT on the tags."""

    backbone: str = setting("resnet101", "the network", source="WILDCAT code", choices=BACKBONES)
    output_stride: int = setting(
        16, "pixels of the image for a cell of the map", source="WILDCAT code: 32", choices=(8, 16), unit="px"
    )
    freeze_bn: bool = setting(False, "keep the batch norm of the initial weights", source="WILDCAT code")
    dropout: float = setting(
        0.0, "share of features dropped before the transfer layer", source="WILDCAT code", low=0, high=0.95
    )
    jitter: float = setting(0.0, "strength of the colour jitter", source="WILDCAT code", low=0, high=0.9)
    weight_decay: float = setting(1e-4, "weight decay", source="WILDCAT code", low=0)
    epochs: int = setting(20, "passes over the training images", source="WILDCAT code", low=1)
    lr: float = setting(
        1e-3, "learning rate of pretrained weights", source="WILDCAT code", low=0, search=factor(0.1, 10)
    )
    maps: int = setting(
        8, "maps for each class (M)", source="WILDCAT code, VOC 2007", low=1, high=64, search=choice(1, 4, 8)
    )
    k_top: float = setting(
        0.2,
        "highest cells that are pooled (k+): a share below 1, a count from 1 on",
        source="WILDCAT code, VOC 2007",
        low=1e-4,
        search=uniform(0.02, 0.5),
    )
    k_bottom: float | None = setting(
        None,
        "lowest cells that are pooled (k-): 0 leaves them out, none is the value of k_top",
        source="WILDCAT code",
        low=0,
    )
    alpha: float = setting(
        0.7, "weight of the lowest cells", source="WILDCAT code, VOC 2007", low=0, high=10, search=uniform(0, 1)
    )
    legacy_half: bool = setting(
        False, "halve the score where lowest cells are pooled, as the released code does", source="paper"
    )
    legacy_grad_scale: bool = setting(
        False, "gradients of the class-wise pooling M times too large, as in the released code", source="paper"
    )


@dataclass(frozen=True)
class DirectSettings(CamSettings, BackgroundSettings, CrfSettings):
    """Predicting with the heatmaps of the classes that the network itself sees."""

    precision: str = setting(
        "float32", "number format; a packaged model is float32", choices=("auto", "float32", "bfloat16")
    )


class Wildcat(nn.Module):
    """Backbone, transfer layer with M maps for each class, class-wise and spatial pooling.

    Args:
        classes: C.
        backbone, weights, output_stride: see `build_backbone`.
        dropout: share of features dropped before the transfer layer.
        per_class: M.
        k_top, k_bottom, alpha, legacy_half: see `spatial_pool`.
        legacy_grad_scale: see `class_wise_pool`.
    """

    def __init__(
        self,
        classes: int,
        backbone: str,
        weights: str,
        output_stride: int,
        dropout: float,
        per_class: int,
        k_top: float,
        k_bottom: float,
        alpha: float,
        legacy_half: bool,
        legacy_grad_scale: bool,
    ) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone, weights, output_stride)
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(self.backbone.channels[-1], classes * per_class, 1)
        self.per_class, self.legacy_grad_scale = per_class, legacy_grad_scale
        self.k_top, self.k_bottom, self.alpha, self.legacy_half = k_top, k_bottom, alpha, legacy_half

    def heatmaps(self, images: Tensor) -> Tensor:
        """z_c before any normalisation: float32 B x C x h x w of float B x 3 x H x W normalised images."""
        maps = self.head(self.dropout(self.backbone(images)[-1])).float()
        return class_wise_pool(maps, self.per_class, self.legacy_grad_scale)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores B x C before the sigmoid."""
        return self.pool(self.heatmaps(images))

    def pool(self, heatmaps: Tensor) -> Tensor:
        """Class scores B x C of z_c, B x C x h x w."""
        return spatial_pool(heatmaps, self.k_top, self.k_bottom, self.alpha, self.legacy_half)

    def maps(self, images: Tensor) -> Tensor:
        """The heatmaps as score maps before normalisation: B x C x h x w, at least 0."""
        return F.relu(self.heatmaps(images))


def check_wildcat(settings: WildcatSettings) -> None:
    """Refuse counts of cells that are not whole or more than a training crop has; see also `check_training`."""
    cells = ((settings.crop - 1) // settings.output_stride + 1) ** 2
    for name, k in (("k_top", settings.k_top), ("k_bottom", settings.k_bottom)):
        if k is not None and k >= 1 and (k > cells or k != int(k)):
            raise UserError(
                f"localize.train.{name} = {k:g} is no number of cells of a training crop, which has {cells}; "
                f"allowed: a share below 1 or a whole number up to {cells}"
            )
    check_training(settings)


def train_wildcat(context: StepContext) -> None:
    """Train on the tags with the multi-label soft margin loss (a mean over C sigmoid cross-entropies)."""
    settings: WildcatSettings = context.settings
    torch.manual_seed(context.rng)
    architecture = classifier_architecture(context) | {
        "per_class": settings.maps,
        "k_top": settings.k_top,
        "k_bottom": settings.k_top if settings.k_bottom is None else settings.k_bottom,
        "alpha": settings.alpha,
        "legacy_half": settings.legacy_half,
        "legacy_grad_scale": settings.legacy_grad_scale,
    }
    model = Wildcat(weights=settings.weights, **architecture)
    metrics = fit_to_tags(context, model, F.multilabel_soft_margin_loss)
    save_model(context.out, model, architecture)
    write_metrics(context.out, metrics)


def direct_score_map(
    heatmaps: Tensor, scores: Tensor, size: tuple[int, int], settings: BackgroundSettings, has_background: bool = True
) -> ScoreMap:
    """The score map of one image without its tags: the classes with sigmoid(s_c) >= 0.5 and the background.

    Args:
        heatmaps: float32 C x h x w, at least 0, on the CPU.
        scores: s, float C; without a class at 0 or above there is only background.
        size: of the image.
        settings: of the background.
        has_background: whether there is one; else the class with the highest score is there in any case.
    """
    seen = scores >= (0 if has_background else scores.max().clamp(max=0))
    return with_background(tagged_score_map(heatmaps, seen.cpu().numpy(), size), settings, has_background)


def predict_wildcat(context: StepContext) -> None:
    """Label maps of dev and val without tags (`direct`, `direct_crf`)."""
    settings: DirectSettings = context.settings
    device = context.device
    model = folded(to_device(load_model(context.inputs["train"], Wildcat), device))

    def score_maps(images: Sequence[np.ndarray]) -> list[ScoreMap]:
        heatmaps = image_maps(model, images, settings, device).cpu()
        scores, size = class_scores(model, images, device), images[0].shape[:2]
        found = context.dataset.has_background
        return [direct_score_map(z, s, size, settings, found) for z, s in zip(heatmaps, scores, strict=True)]

    predict_directly(context, score_maps, settings)


def infer_wildcat(context: StepContext) -> None:
    """Score maps of the tagged classes for train and dev, as CAM's; the ranking quality on dev and val."""
    model = to_device(load_model(context.inputs["train"], Wildcat), context.device)
    write_score_maps(context, model, tagged_score_map)
    write_metrics(context.out, tag_metrics(context, model))


def _as_refined(preset: str) -> dict[str, object]:
    """The background and the CRF of the label maps, for the direct prediction."""
    refined = REFINE.presets[preset]
    return of_step("predict", from_step(refined, "background") | from_step(refined, "crf"))


WILDCAT = Stage(
    "localize",
    "wildcat",
    (
        Step("train", 1, WildcatSettings, train_wildcat, metrics=(TRAIN_LOSS,), check=check_wildcat, uses=NETWORK),
        direct(DirectSettings, predict_wildcat),
        Step(
            "infer",
            1,
            CamSettings,
            infer_wildcat,
            inputs=("train",),
            outputs=("cam",),
            metrics=TAG_METRICS,
            uses=NETWORK,
            each_image=True,
        ),
    ),
    {
        "demo": {
            **LOCALIZE.presets["demo"],
            "train.output_stride": 8,
            "predict.scales": (1.0, 1.5),
            "predict.stride": 4,
            **_as_refined("demo"),
        },
        "small": {
            **LOCALIZE.presets["small"],
            "train.freeze_bn": True,
            "train.epochs": 3,
            **_as_refined("small"),
        },
        "paper": {"infer.scales": (1.0, 1.5, 2.0), "predict.scales": (1.0, 1.5, 2.0)},
    },
)

METHOD = Method(
    name="wildcat",
    title="WILDCAT",
    year=2017,
    citation="Durand, Mordan, Thome, Cord: WILDCAT: Weakly Supervised Learning of Deep ConvNets for Image "
    "Classification, Pointwise Localization and Segmentation, CVPR 2017",
    summary="A classifier with several maps for each class whose scores are pooled over the highest and the lowest "
    "cells; its heatmaps and a dense CRF also predict without tags.",
    stages={"localize": WILDCAT, "refine": REFINE, "segment": DEEPLAB},
)
