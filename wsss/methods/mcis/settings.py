"""The settings of MCIS's training, and which of them contradict each other."""

from __future__ import annotations

from dataclasses import dataclass

from wsss.errors import UserError
from wsss.methods.mcis.network import ATTENTIONS, PLACEMENTS, STARTS, VIEWS
from wsss.nets.backbones import BACKBONES
from wsss.settings import choice, factor, setting
from wsss.stages.inference import check_nodes
from wsss.stages.localize import check_training
from wsss.training import TrainingSettings, weights_setting


@dataclass(frozen=True)
class McisTrainSettings(TrainingSettings):
    """Training the co-attention network, and on what."""

    backbone: str = setting("vgg16", "the network", source="paper", choices=BACKBONES)
    weights: str = weights_setting("paper")
    output_stride: int = setting(8, "pixels of the image for a cell", source="MCIS code", choices=(8, 16), unit="px")
    freeze_bn: bool = setting(True, "keep the batch norm of the initial weights (VGG16 has none)")
    added: int = setting(
        3,
        "3 x 3 convolutions between the backbone and the heads; 0 leaves its features as they are",
        source="MCIS code",
        low=0,
        high=8,
        search=choice(0, 1, 3),
    )
    width: int = setting(512, "channels of the added convolutions", source="MCIS code", low=8, high=2048)
    start: str = setting(
        "random",
        "how the added convolutions and W begin: random ones and an identity, or local, middle taps and a gentle "
        "identity, which keep places apart where training is short",
        choices=STARTS,
    )
    attention: str = setting(
        "dot",
        "how cells of two images are compared: by products of their features (dot), or by their directions alone "
        "(cosine), so that no cell attracts all others by the size of its features",
        source="MCIS code",
        choices=ATTENTIONS,
    )
    temperature: float | None = setting(
        None,
        "factor on the affinities before the softmax, which cosine needs; none is 1",
        source="MCIS code",
        low=0.01,
        high=1000,
        search=factor(0.3, 3),
    )
    side: int = setting(257, "side of the training squares", source="MCIS code: 256", low=17, unit="px")
    placement: str = setting(
        "warp",
        "how an image gets into its square: warped whole (warp), or resized by a factor of scale_low to scale_high and "
        "cut or padded at a random place, as classifiers are trained (random)",
        source="MCIS code",
        choices=PLACEMENTS,
    )
    scale_low: float = setting(0.5, "smallest resizing factor of a random placement", low=0.1, high=4)
    scale_high: float = setting(1.0, "largest resizing factor of a random placement", low=0.1, high=4)
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
    lr: float = setting(1e-3, "learning rate of pretrained weights", source="MCIS code", low=0, search=factor(0.3, 3))

    @property
    def scale(self) -> tuple[float, float] | None:
        """The range of a random placement's resizing factors; None warps."""
        return (self.scale_low, self.scale_high) if self.placement == "random" else None


def check_train(settings: McisTrainSettings) -> None:
    """Refuse settings that contradict each other.

    Raises:
        UserError: views without the pair or doubled, a side off the nodes, a cosine without a temperature, noisy tags
            of nothing; see also `check_training`.
    """
    check_views(settings.views, "localize.train.views")
    if "pair" not in settings.views:
        raise UserError("localize.train.views must hold pair, which is what the method learns from")
    check_nodes(settings.side, settings.output_stride, "localize.train.side")
    if settings.extra is None and settings.extra_tags == "noisy":
        raise UserError("localize.train.extra_tags = noisy says how extra images are tagged; set localize.train.extra")
    if settings.attention == "cosine" and settings.temperature is None:
        raise UserError(
            "localize.train.attention = cosine needs a temperature, since of affinities of at most 1 a softmax makes "
            "nearly the mean of all cells; set localize.train.temperature, such as 10"
        )
    check_training(settings)


def check_views(views: tuple[str, ...], key: str) -> None:
    """Refuse a view that is named twice.

    Raises:
        UserError: there is one.
    """
    if len(set(views)) < len(views):
        raise UserError(f"{key} = {', '.join(views)} names a view twice; name each once")


def declared(settings: McisTrainSettings) -> frozenset[str]:
    """The supervision that the extra images are."""
    if settings.extra is None:
        return frozenset()
    return frozenset({"extra single-label images" if settings.extra_tags == "exact" else "extra web images"})
