"""Training the co-attention network on pairs: eight losses of what is there and shared, two of what is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.errors import UserError
from wsss.interface import StepContext
from wsss.methods.mcis.extra import add_extra
from wsss.methods.mcis.network import SCALED_VIEWS, STARTS, VIEWS, CoAttentionNet, square, view_side
from wsss.methods.mcis.pairs import Pool, difference, intersection
from wsss.nets.backbones import BACKBONES, check_weights
from wsss.settings import loguniform, setting
from wsss.stages.outputs import save_model, write_metrics
from wsss.training import TrainingSettings, fit, parameter_groups


@dataclass(frozen=True)
class McisTrainSettings(TrainingSettings):
    """Training the co-attention network, and on what."""

    backbone: str = setting("vgg16", "the network", source="paper", choices=BACKBONES)
    weights: str = setting("imagenet", 'initial weights: "imagenet", "none", or a file', source="paper", file=True)
    output_stride: int = setting(8, "pixels of the image for a cell", source="MCIS code", choices=(8, 16), unit="px")
    freeze_bn: bool = setting(True, "keep the batch norm of the initial weights (VGG16 has none)")
    width: int = setting(512, "channels of the three added convolutions", source="MCIS code", low=8, high=2048)
    start: str = setting(
        "random",
        "how the added convolutions and W begin: random ones and an identity, or local, middle taps and a gentle "
        "identity, which keep places apart where training is short",
        choices=STARTS,
    )
    side: int = setting(257, "side of the square that images are warped to", source="MCIS code: 256", low=17, unit="px")
    jitter: float = setting(0.3, "strength of the colour jitter of the two images", source="MCIS code", low=0, high=0.9)
    views: tuple[str, ...] = setting(
        VIEWS,
        "what an image is paired with: another image, itself mirrored or resized",
        source="MCIS code",
        choices=VIEWS,
    )
    affinity_lr: float = setting(
        10.0, "factor on the learning rate of W, which compares the images", source="MCIS code", low=0, high=100
    )
    contrast_from: int = setting(
        2, "first epoch, counted from 0, with the contrastive terms", source="MCIS code", low=0
    )
    extra: str | None = setting(None, "a dataset whose training images are learned from too", dataset=True)
    extra_tags: str = setting(
        "exact", "whether the extra tags are right, or noisy and filtered", choices=("exact", "noisy")
    )
    filter_threshold: float = setting(
        0.1, "a noisy tag that the round-0 classifier finds less likely is dropped", low=0, high=1
    )
    filter_epochs: int = setting(5, "passes of the round-0 classifier over the dataset's own images", low=1)
    epochs: int = setting(11, "passes over the training images", source="MCIS code: epoch 10 of 0 to 14 is used", low=1)
    batch_size: int = setting(5, "pairs in a batch", source="MCIS code", low=1)
    lr: float = setting(
        1e-3, "learning rate of pretrained weights", source="MCIS code", low=0, search=loguniform(3e-4, 3e-3)
    )


def check_train(settings: McisTrainSettings) -> None:
    """Refuse settings that contradict each other.

    Raises:
        UserError: views without the pair or doubled, a side off the nodes, noisy tags of nothing, frozen batch norm
            without weights, or a weights file that is not there.
    """
    check_views(settings.views, "localize.train.views")
    if "pair" not in settings.views:
        raise UserError("localize.train.views must hold pair, which is what the method learns from")
    check_side(settings.side, settings.output_stride, "localize.train.side")
    if settings.extra is None and settings.extra_tags == "noisy":
        raise UserError("localize.train.extra_tags = noisy says how extra images are tagged; set localize.train.extra")
    if settings.freeze_bn and settings.weights == "none":
        raise UserError(
            "freeze_bn=true keeps the batch norm of initial weights, but weights=none; set one of them otherwise"
        )
    check_weights(settings.backbone, settings.weights)


def check_views(views: tuple[str, ...], key: str) -> None:
    """Refuse a view that is named twice.

    Raises:
        UserError: there is one.
    """
    if len(set(views)) < len(views):
        raise UserError(f"{key} = {', '.join(views)} names a view twice; name each once")


def check_side(side: int, stride: int, key: str) -> None:
    """Refuse a square whose cells would not lie on nodes.

    Raises:
        UserError: the side is not a multiple of the stride plus 1.
    """
    if (side - 1) % stride:
        raise UserError(f"{key} = {side} must be a multiple of {stride} plus 1, such as {view_side('', side, stride)}")


def declared(settings: McisTrainSettings) -> frozenset[str]:
    """The supervision that the extra images are."""
    if settings.extra is None:
        return frozenset()
    return frozenset({"extra single-label images" if settings.extra_tags == "exact" else "extra web images"})


def pair_losses(
    network: CoAttentionNet, first: Tensor, second: Tensor, tags: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The basic and the co-attention loss of one pair, each a mean over both images and all classes.

    Args:
        network: for its two heads.
        first, second: the features of the two images (or of an image and a view of it), B x d x h x w.
        tags: of the first and of the second image, float B x C.

    Returns:
        The sigmoid cross-entropy of each image's own scores with its own tags, and that of what each sees of the
        other with the tags that both have.
    """
    attended = network.attend(first, second)
    basic = torch.cat([network.basic_scores(first), network.basic_scores(second)])
    shared = torch.cat([network.shared_scores(attended[0]), network.shared_scores(attended[1])])
    both = intersection(*tags)
    return (
        F.multilabel_soft_margin_loss(basic, torch.cat(tags)),
        F.multilabel_soft_margin_loss(shared, torch.cat([both, both])),
    )


def contrastive_loss(scores: Tensor, only: Tensor) -> Tensor:
    """The loss of what one image has and its partner has not; 0 where that is nothing in the whole batch.

    Args:
        scores: B x C, of the features that are left.
        only: float B x C, the difference of the tags; an empty row counts with all classes absent.
    """
    return F.multilabel_soft_margin_loss(scores, only) * only.any()


def mcis_losses(
    network: CoAttentionNet, features: Mapping[str, Tensor], tags: tuple[Tensor, Tensor], contrastive: bool
) -> dict[str, Tensor]:
    """All terms, to be added up unweighted: {basic, co} x the views, and with `contrastive` the two of the pair.

    Args:
        network: for its heads.
        features: of "image", and of each view by its name.
        tags: of the image and of the other one, float B x C.
        contrastive: whether the contrastive terms are added.

    Returns:
        "basic/<view>" and "co/<view>", and "contrast/first", "contrast/second".
    """
    own, terms = features["image"], {}
    for view in (v for v in VIEWS if v in features):
        both = tags if view == "pair" else (tags[0], tags[0])
        terms[f"basic/{view}"], terms[f"co/{view}"] = pair_losses(network, own, features[view], both)
    if contrastive:
        seen_by_own, seen_by_other = network.attend(own, features["pair"])
        left_own = network.shared_scores(network.left(own, seen_by_own))
        left_other = network.shared_scores(network.left(features["pair"], seen_by_other))
        terms["contrast/first"] = contrastive_loss(left_own, difference(*tags))
        terms["contrast/second"] = contrastive_loss(left_other, difference(tags[1], tags[0]))
    return terms


def training_sample(pool: Pool, key: str, settings: McisTrainSettings, draw: np.random.Generator) -> dict[str, Tensor]:
    """An image, its partner and its views, normalised squares, and the tags of both (float C).

    The colours of image and partner are varied, those of the views are not.
    """
    partner = pool.partner(key, draw)
    seed, other = (int(draw.integers(2**31)) for _ in range(2))
    picture, side = pool.image(key), settings.side
    sample = {
        "image": square(picture, side, settings.jitter, seed),
        "pair": square(pool.image(partner), side, settings.jitter, other),
        "tags": torch.from_numpy(pool.tags[key].astype(np.float32)),
        "pair_tags": torch.from_numpy(pool.tags[partner].astype(np.float32)),
    }
    if "flip" in settings.views:
        sample["flip"] = square(picture, side, 0.0, seed).flip(2)
    for view in SCALED_VIEWS.keys() & settings.views:
        sample[view] = square(picture, view_side(view, side, settings.output_stride), 0.0, seed)
    return sample


def batch_features(network: CoAttentionNet, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The features of the image and of each view in a batch; squares of one size go through the network together."""
    names = [name for name in ("image", *VIEWS) if name in batch]
    found: dict[str, Tensor] = {}
    for side in dict.fromkeys(batch[name].shape[-1] for name in names):
        alike = [name for name in names if batch[name].shape[-1] == side]
        squares = torch.cat([batch[name] for name in alike]).contiguous(memory_format=torch.channels_last)
        found |= dict(zip(alike, network.features(squares).chunk(len(alike)), strict=True))
    return found


def train_co_attention(context: StepContext) -> None:
    """Train on the pairs of the dataset's images, the extra ones among them."""
    settings: McisTrainSettings = context.settings
    pool, counts = add_extra(context, Pool.of(context.dataset))
    counts["pairs/with_itself"] = float(len(pool.lonely))
    torch.manual_seed(context.rng)
    architecture: dict[str, Any] = {
        "classes": len(context.dataset.classes),
        "backbone": settings.backbone,
        "output_stride": settings.output_stride,
        "width": settings.width,
    }
    network = CoAttentionNet(weights=settings.weights, start=settings.start, **architecture)

    def loss(batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        contrastive = batch["epoch"] >= settings.contrast_from
        tags = (batch["tags"], batch["pair_tags"])
        terms = mcis_losses(network, batch_features(network, batch), tags, contrastive)
        return torch.stack(list(terms.values())).sum(), {}

    def sample(key: str, draw: np.random.Generator) -> dict[str, Tensor]:
        return training_sample(pool, key, settings, draw)

    pretrained = settings.weights != "none"
    new: list[nn.Module] = [network.extra, network.basic, network.shared, network.gate]
    groups = parameter_groups(
        network.backbone if pretrained else None, new if pretrained else [network.backbone, *new], settings
    ) + parameter_groups(None, [network.affinity], replace(settings, head_lr=settings.affinity_lr))
    metrics = fit(network, groups, pool.keys, sample, loss, context, frozen_bn=settings.freeze_bn)
    save_model(context.out, network, architecture)
    write_metrics(context.out, metrics | counts)
