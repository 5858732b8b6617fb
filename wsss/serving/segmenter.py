"""A model that is ready to label images: what `wsss.serving.deployed` does, and a CRF where the package has one."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wsss.classes import Classes
from wsss.data.pixels import Pixels
from wsss.serving.deployed import MAX_SIDE, Deployed, Size, best_classes, brought, resize
from wsss.serving.heatmaps import Direct
from wsss.serving.networks import Probabilities
from wsss.stages.predict import with_rare_together
from wsss.stages.refine import CrfSettings, dense_crf, probabilities

FAR = 2
"""An image whose longer side is more than so many times longer, or shorter, than any in training is far from it."""


@dataclass(frozen=True)
class Inference:
    """How a package predicts.

    Attributes:
        sides: the shortest and the longest longer side, in px, at which it labels; see `Deployed`.
        scales: factors on that size.
        flip: add mirrored copies.
        crf: of the CRF that decides in the end; None without one.
        direct: of a localizer that predicts without a segmentation network; None of a segmenter.
        pixels: how image files become the RGB that it takes; None where they are RGB.
    """

    sides: tuple[int, int] = (1, MAX_SIDE)
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    crf: CrfSettings | None = None
    direct: Direct | None = None
    pixels: Pixels | None = field(default=None, repr=False)

    @property
    def passes(self) -> int:
        """How often the network runs over an image."""
        return len(self.scales) * (2 if self.flip else 1)

    def __str__(self) -> str:
        words = ["scales " + ", ".join(f"{scale:g}" for scale in self.scales)]
        words += ["mirrored copies"] * self.flip + ["with a CRF" if self.crf else "without a CRF"]
        return "; ".join(words)


def label_with_crf(model: Deployed, image: Tensor, settings: CrfSettings, first: int = 0) -> Tensor:
    """The label map of an image after the CRF, which runs at the learned size: uint8 H x W of uint8 H x W x 3.

    `first` is the lowest index that occurs: 1 without a background.
    """
    size: Size = (image.shape[0], image.shape[1])
    learned = brought(image, model.learned_size(size))
    scores = resize(model.coarse([learned])[:, first:], (learned.shape[2], learned.shape[3]))[0].cpu().numpy()
    weight = settings.gaussian_weight + settings.bilateral_weight
    maps, classes = with_rare_together(probabilities(scores), weight)
    unary = probabilities(maps)
    if settings.iterations and len(classes) > 1:
        pixels = (learned[0].permute(1, 2, 0) * 255).round().to(torch.uint8).cpu().numpy()
        unary = dense_crf(pixels, settings)(unary, iterations=settings.iterations)
    best = best_classes(torch.from_numpy(np.ascontiguousarray(unary))[None], size)
    return torch.from_numpy(classes[best.numpy()] + np.uint8(first))


@dataclass(frozen=True)
class Segmenter:
    """A model ready to label images.

    Attributes:
        module: the network, with what is done to pixels; on the device where it runs.
        classes: the C foreground classes.
        version: what the model calls itself: a registered version, a run, a folder.
        inference: how it predicts.
    """

    module: Deployed
    classes: Classes
    version: str
    inference: Inference = Inference()

    @property
    def device(self) -> torch.device:
        return self.module.mean.device

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The label map of an image: uint8 H x W of a uint8 H x W x 3 RGB image, of any size from 1 x 1."""
        pixels = self._pixels(image)
        if self.inference.crf is not None:
            return label_with_crf(self.module, pixels, self.inference.crf, self.classes.indices[0]).cpu().numpy()
        return self.module(pixels).cpu().numpy()

    def network_size(self, height: int, width: int) -> tuple[Size, ...]:
        """What the network sees of an image of this size; images that have it in common can be labelled together."""
        learned = self.module.learned_size((height, width))
        # Scores of a localizer may lie closer than its network's.
        return (*self.module.network_sizes(learned), *([learned] if self.module.direct else []))

    @torch.inference_mode()
    def segment_batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The label maps of several images, together in each pass of the network.

        At least 99.99 % of the pixels are as alone, and all whose two best probabilities differ by more than 1e-4.

        Args:
            images: uint8 H x W x 3, their sizes may differ.

        Raises:
            ValueError: they differ in `network_size`.
        """
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        if len({self.network_size(*size) for size in sizes}) > 1:
            raise ValueError("images of one batch must have their network_size in common")
        if len(images) < 2 or self.inference.crf is not None:
            return [self(image) for image in images]
        learned = [
            brought(self._pixels(image), self.module.learned_size(size))
            for image, size in zip(images, sizes, strict=True)
        ]
        scores = self.module.coarse(learned)
        return [best_classes(maps[None], size).cpu().numpy() for maps, size in zip(scores, sizes, strict=True)]

    def far_from_training(self, height: int, width: int) -> str:
        """What a caller should be told of an image's size; empty where such images were in training, or nobody knows.

        ASCII of one line, so that a header can hold it.
        """
        low, high = self.inference.sides
        longer = max(height, width)
        if low / FAR <= longer <= high * FAR or self.inference.sides == Inference.sides:
            return ""
        seen = f"{low} px" if low == high else f"{low} to {high} px"
        return f"longer side {longer} px, in training {seen}; labelled at {max(low, min(longer, high))} px"

    def _pixels(self, image: np.ndarray) -> Tensor:
        return torch.from_numpy(np.require(image, np.uint8, ["C", "W"])).to(self.device)


def digest(model: Segmenter) -> str:
    """What decides a model's answers: sha256 over its weights, classes and how it predicts."""
    more: tuple[object, ...] = () if model.inference.pixels is None else (model.inference.pixels,)
    more += () if model.classes.background else ("no background",)
    content = hashlib.sha256(repr((model.inference, model.classes.names, model.module.stride, *more)).encode())
    for name, tensor in sorted(model.module.state_dict().items()):
        content.update(f"{name} {tuple(tensor.shape)}".encode())
        content.update(tensor.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()


class Instead(nn.Module):
    """What computes a network's probabilities in its place; a copy is the network, by which memory is reckoned."""

    def __init__(self, net: nn.Module, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self._run = net, run

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        return copy.deepcopy(self.net, memo)

    def forward(self, images: Tensor) -> Tensor:
        return self._run(images)


def fused(model: Segmenter) -> Segmenter:
    """A model whose convolutions run with what follows them, by oneDNN: the same up to rounding, faster on a CPU."""
    net = model.module.net
    if not isinstance(net, Probabilities) or model.device.type != "cpu":
        return model
    return replace(model, module=model.module.with_net(Instead(net, Probabilities(net.net, fuse=True))).eval())
