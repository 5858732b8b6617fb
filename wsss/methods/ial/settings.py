"""The settings of the rounds, and what each of the two networks is trained with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from wsss.errors import UserError
from wsss.methods.affinity.network import AffinityTrainSettings
from wsss.settings import choice, factor, setting, uniform
from wsss.stages.inference import check_nodes
from wsss.stages.localize import check_training
from wsss.stages.prior import prior_setting
from wsss.stages.refine import CrfSettings
from wsss.stages.segment import SegmenterSettings
from wsss.training import TrainingSettings, weights_setting

RECONSTRUCTION = "ours: reconstruction"
LOWEST_CONFIDENCE = 0.5
"""What loosening does not go below."""


@dataclass(frozen=True)
class RoundsSettings(SegmenterSettings):
    """The rounds; a setting that does not say which network it is for holds for both."""

    rounds: int = setting(3, "rounds of training, refining and mining", source=RECONSTRUCTION, low=1, high=20)
    weights: str = weights_setting(localized=True)
    epochs: int = setting(15, "passes of the unary network in the first round", source=RECONSTRUCTION, low=1)
    lr: float = setting(
        2.5e-4,
        "learning rate of the unary network in the first round",
        source=RECONSTRUCTION,
        low=0,
        search=factor(0.1, 10),
    )
    pairwise_epochs: int = setting(8, "passes of the pairwise network in the first round", source="PSA code", low=1)
    pairwise_lr: float = setting(
        0.01, "learning rate of the pairwise network in the first round", source="PSA code: 0.1 without momentum", low=0
    )
    image_limit: int | None = setting(
        None, "at most so many images for a network in the first round, fewer epochs or fewer images", low=1
    )
    later: float = setting(
        0.4, "share of the first round's images in each later one", source=RECONSTRUCTION, low=0.01, high=1
    )
    later_lr: float = setting(0.5, "factor on the learning rates after the first round", source=RECONSTRUCTION, low=0)
    stride: int = setting(
        8, "pixels of the image for a cell of the affinity features", source="PSA code", choices=(4, 8), unit="px"
    )
    radius: int = setting(5, "pairs lie closer than this", source="PSA code", low=2, high=20, unit="cells")
    scales: tuple[float, ...] = setting(
        (0.5, 0.75, 1.0, 1.25, 1.5), "image scales of the unary probabilities", source=RECONSTRUCTION, low=0.1, high=8
    )
    flip: bool = setting(True, "add mirrored images to the unary probabilities", source=RECONSTRUCTION)
    beta: float = setting(
        8.0,
        "power of the affinities; larger refines less far",
        source="PSA code",
        low=1,
        high=64,
        search=choice(4.0, 8.0, 16.0, 32.0),
    )
    steps: int = setting(
        64, "steps of a refinement, an even number", source=RECONSTRUCTION, low=2, high=4096, search=choice(16, 64, 256)
    )
    confident_foreground: float = setting(
        0.8,
        "least probability of a foreground label that the next round is trained on",
        source=RECONSTRUCTION,
        low=LOWEST_CONFIDENCE,
        high=1,
        search=uniform(0.5, 0.95),
    )
    confident_background: float = setting(
        0.9, "the same for the background", source=RECONSTRUCTION, low=LOWEST_CONFIDENCE, high=1
    )
    loosen: float = setting(
        0.05,
        f"how much both fall with each round, down to {LOWEST_CONFIDENCE}",
        source=RECONSTRUCTION,
        low=0,
        high=0.5,
    )
    prior: float = prior_setting()
    mining_iterations: int = setting(
        0,
        "mean-field iterations of a CRF over the refined map before it is mined; 0 is no CRF",
        source=RECONSTRUCTION,
        low=0,
        high=100,
    )
    mining_sxy: float = setting(
        80.0, "width of that CRF's appearance kernel", source="PSA code", low=0.1, high=500, unit="px"
    )
    mining_srgb: float = setting(13.0, "its width in colour", source="PSA code", low=0.1, high=255)

    @property
    def mining_crf(self) -> CrfSettings:
        """The CRF inside the mining."""
        return CrfSettings(
            iterations=self.mining_iterations, bilateral_sxy=self.mining_sxy, bilateral_srgb=self.mining_srgb
        )


def check_rounds(settings: RoundsSettings) -> None:
    """Refuse settings that contradict each other; see also `check_training`.

    Raises:
        UserError: an odd number of steps, or a crop that the affinity features don't fit.
    """
    if settings.steps % 2:
        raise UserError(
            f"refine.rounds.steps = {settings.steps} is odd; the energy is only known not to rise over an even number "
            f"of steps, such as {settings.steps + 1}"
        )
    check_nodes(settings.crop, max(settings.stride, settings.output_stride), "refine.rounds.crop")
    check_training(settings)


def thresholds(settings: RoundsSettings, number: int) -> tuple[float, float]:
    """The least probability of a confident foreground and background label after round `number` (from 1)."""
    loosened = settings.loosen * (number - 1)
    confident = (settings.confident_foreground, settings.confident_background)
    return tuple(max(value - loosened, LOWEST_CONFIDENCE) for value in confident)  # type: ignore[return-value]


def unary_settings(settings: RoundsSettings, number: int, images: int) -> tuple[RoundsSettings, int]:
    """What the unary network is trained with in round `number`, and on how many of the images."""
    epochs, some = _length(settings, settings.epochs, number, images)
    lr = settings.lr * (settings.later_lr if number > 1 else 1.0)
    return replace(settings, epochs=epochs, image_limit=None, lr=lr), some


def pairwise_settings(settings: RoundsSettings, number: int, images: int) -> tuple[AffinityTrainSettings, int]:
    """The same for the pairwise network; every cell is a source of pairs."""
    epochs, some = _length(settings, settings.pairwise_epochs, number, images)
    lr = settings.pairwise_lr * (settings.later_lr if number > 1 else 1.0)
    names = {f.name for f in fields(TrainingSettings)} | {"backbone", "weights", "output_stride", "freeze_bn", "crop"}
    names |= {"scale_low", "scale_high", "jitter", "stride", "radius"}
    shared = AffinityTrainSettings(**{name: getattr(settings, name) for name in names}, every_source=True)
    return replace(shared, epochs=epochs, image_limit=None, lr=lr), some


def some_ids(ids: Sequence[str], count: int, rng: int) -> list[str]:
    """`count` of the ids, drawn without replacement, in their order."""
    drawn = np.random.default_rng(rng).permutation(len(ids))[:count]
    return [ids[i] for i in sorted(drawn)]


def _length(settings: RoundsSettings, epochs: int, number: int, images: int) -> tuple[int, int]:
    """Epochs, and images in each, of a network that sees `epochs` * `images` images in the first round."""
    total = min(epochs * images, settings.image_limit or epochs * images)
    if number > 1:
        total = max(1, round(total * settings.later))
    return max(1, total // images), min(total, images)
