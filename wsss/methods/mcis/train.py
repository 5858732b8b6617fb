"""Training the co-attention network on pairs: eight losses of what is there and shared, two of what is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.interface import StepContext
from wsss.methods.mcis.extra import add_extra
from wsss.methods.mcis.network import SCALED_VIEWS, VIEWS, CoAttentionNet, square, view_side
from wsss.methods.mcis.pairs import Pool, difference, intersection
from wsss.methods.mcis.settings import McisTrainSettings
from wsss.stages.inference import resize
from wsss.stages.outputs import save_model, write_metrics
from wsss.stages.parts import in_parts
from wsss.training import fit, parameter_groups


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

    The colours of image and partner are varied, those of the views are not. With a random placement, the views are of
    the square that was cut.
    """
    partner = pool.partner(key, draw)
    seed, other = (int(draw.integers(2**31)) for _ in range(2))
    picture, side, scale = pool.image(key), settings.side, settings.scale
    sample = {
        "image": square(picture, side, settings.jitter, seed, scale),
        "pair": square(pool.image(partner), side, settings.jitter, other, scale),
        "tags": torch.from_numpy(pool.tags[key].astype(np.float32)),
        "pair_tags": torch.from_numpy(pool.tags[partner].astype(np.float32)),
    }
    plain = square(picture, side, 0.0, seed, scale) if scale else None
    if "flip" in settings.views:
        sample["flip"] = (square(picture, side, 0.0, seed) if plain is None else plain).flip(2)
    for view in SCALED_VIEWS.keys() & settings.views:
        there = view_side(view, side, settings.output_stride)
        sample[view] = square(picture, there, 0.0, seed) if plain is None else resize(plain[None], (there, there))[0]
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


@in_parts
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
        "added": settings.added,
        "attention": settings.attention,
        "temperature": settings.temperature or 1.0,
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
    tags = pool.tags.__getitem__
    metrics = fit(network, groups, pool.keys, sample, loss, context, frozen_bn=settings.freeze_bn, tags=tags)
    save_model(context.out, network, architecture)
    write_metrics(context.out, metrics | counts)
