"""A trained network as it is deployed: from the pixels of an image of any size to its label map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from wsss.classes import Classes
from wsss.data.augmentation import MEAN, STD
from wsss.nets.deeplab import DeepLab
from wsss.stages.inference import resize

_VALUES = 1 << 24
"""Scores at an image's full size that are held at once; of an image with more pixels, those of one class."""


def nearest_nodes(side: int, stride: int) -> int:
    """`wsss.stages.inference.node_size` of one side, in the integer arithmetic that an exported graph can hold.

    The number of strides is rounded half to even, as `round` does; a stride is even.
    """
    strides = (side + stride // 2 - 1 + side // stride % 2) // stride
    return cast(int, torch.sym_max(strides, 1)) * stride + 1


class DeployedSegmenter(nn.Module):
    """A segmentation network from pixels to probabilities: normalisation, node size, network, softmax, image size.

    Args:
        net: trained, in eval mode.
        mean, std: of the channels of the images it was trained on, RGB in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: DeepLab, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Class probabilities, float32 B x (C + 1) x H x W, of float32 B x 3 x H x W RGB images in [0, 1], any H, W."""
        return resize(self.coarse(images), (images.shape[2], images.shape[3]))

    def coarse(self, images: Tensor) -> Tensor:
        """The same before they are resized to the image: float32 B x (C + 1) x h x w, at the network's stride."""
        stride = self.net.backbone.output_stride
        nodes = nearest_nodes(images.shape[2], stride), nearest_nodes(images.shape[3], stride)
        normalised = (images - self.mean).div_(self.std)
        del images
        scaled = resize(normalised, nodes)
        del normalised
        return self.net(scaled).float().softmax(1)


def best_classes(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """The class with the highest score at each pixel of an image, the first of equal ones.

    Equal to `resize(scores, size).argmax(1)`, but the scores are resized a few classes at a time, so that memory grows
    with the pixels of the image and not with its pixels times its classes.

    Args:
        scores: float32 1 x K x h x w, at most 256 classes.
        size: H, W of the image.

    Returns:
        uint8 H x W.
    """
    # Of another memory format, torch would round by how many classes it is given.
    scores = scores.contiguous()
    step = max(1, _VALUES // (size[0] * size[1]))
    best, labels = resize(scores[:, :step], size)[0].max(0)
    labels = labels.to(torch.uint8)
    for start in range(step, scores.shape[1], step):
        value, index = resize(scores[:, start : start + step], size)[0].max(0)
        better = value > best
        labels = torch.where(better, (index + start).to(torch.uint8), labels)
        best = torch.where(better, value, best)
    return labels


def label(module: DeployedSegmenter, image: Tensor) -> Tensor:
    """The label map of an image, uint8 H x W of uint8 H x W x 3, on the same device."""
    # The caller keeps no copy of the pixels, which would stay beside the network's first maps.
    scores = module.coarse(image.permute(2, 0, 1)[None].float().div_(255))
    return best_classes(scores, (image.shape[0], image.shape[1]))


@dataclass(frozen=True)
class Segmenter:
    """A model ready to label images.

    Attributes:
        module: the network, with what it does to pixels.
        classes: the C foreground classes.
        version: what the model calls itself: a registered version, a run, a folder.
    """

    module: DeployedSegmenter
    classes: Classes
    version: str

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The label map of an image: uint8 H x W of a uint8 H x W x 3 RGB image."""
        return label(self.module, torch.from_numpy(np.array(image))).numpy()
