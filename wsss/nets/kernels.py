"""Convolutions on a GPU whose input has a shape that hardly comes again.

cuDNN makes a plan for each layer and shape of input. On an H200 (cuDNN 9.19) that took 2 ms, and for a depthwise layer
in channels-last order 150 ms, which it compiles; so a batch of images of a new size took MobileNetV2 seconds. Torch has
kernels of its own for depthwise layers and matrix products, which need none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Depthwise(nn.Module):
    """A depthwise convolution in the order of dimensions in which torch computes it itself."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        conv.weight.data = conv.weight.data.clone(memory_format=torch.contiguous_format)
        self.conv = conv

    def forward(self, maps: Tensor) -> Tensor:
        """The convolution of B x C x H x W maps."""
        return self.conv(maps.contiguous())


class Pointwise(nn.Module):
    """A 1 x 1 convolution as a matrix product."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(conv.weight.detach().flatten(1), requires_grad=False), conv.bias

    def forward(self, maps: Tensor) -> Tensor:
        """The convolution of B x C x H x W maps, in channels-last order."""
        return F.linear(maps.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


def of_any_shape(conv: nn.Conv2d) -> nn.Module:
    """A convolution for inference on a GPU that needs no plan of cuDNN's where torch is as good."""
    if is_depthwise(conv):
        return Depthwise(conv)
    plain = conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.groups == 1
    return Pointwise(conv) if plain and conv.padding == (0, 0) else conv


def own_depthwise(model: nn.Module) -> None:
    """Let torch compute the depthwise convolutions of a network, in place; gradients are left alone."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if is_depthwise(child):
                setattr(parent, name, Depthwise(child))


def is_depthwise(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a layer is a convolution of each channel alone."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1


@contextmanager
def without_plans() -> Iterator[None]:
    """Meanwhile, torch computes all convolutions on a GPU: worth it for a short batch of a network with depthwise ones.

    Dilated ones are slow then, 27 ms instead of 0.1 for 32 maps of 96 x 64 x 64.
    """
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before
