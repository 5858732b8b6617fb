"""What takes a convolution's place on a GPU gives what it gave; here on a processor, where that can be seen too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wsss.nets.backbones import build_backbone
from wsss.nets.kernels import Depthwise, Pointwise, is_depthwise, of_any_shape, own_depthwise, without_plans


@pytest.mark.parametrize(
    ("geometry", "kind"),
    [
        (dict(kernel_size=1), Pointwise),
        (dict(kernel_size=1, bias=False), Pointwise),
        (dict(kernel_size=1, stride=2), nn.Conv2d),
        (dict(kernel_size=3, padding=1), nn.Conv2d),
        (dict(kernel_size=3, padding=2, dilation=2, groups=6), Depthwise),
        (dict(kernel_size=3, padding=1, stride=2, groups=6, bias=False), Depthwise),
    ],
)
@torch.inference_mode()
def test_it_gives_what_the_convolution_gives(geometry: dict, kind: type) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, **geometry).to(memory_format=torch.channels_last)
    maps = torch.randn(2, 6, 9, 11).contiguous(memory_format=torch.channels_last)
    expected, layer = conv(maps), of_any_shape(conv)
    assert type(layer) is kind and torch.allclose(layer(maps), expected, atol=1e-6)


def test_own_depthwise_layers_leave_maps_and_gradients_alone() -> None:
    torch.manual_seed(0)
    model = build_backbone("mobilenet_v2", "none", 16).eval().to(memory_format=torch.channels_last)
    images = torch.randn(1, 3, 33, 49, requires_grad=True)
    before = model(images)[-1]
    (gradient,) = torch.autograd.grad(before.sum(), images)
    own_depthwise(model)
    depthwise = [module for module in model.modules() if is_depthwise(module)]
    assert len(depthwise) == sum(isinstance(module, Depthwise) for module in model.modules()) == 17
    assert all(layer.weight.stride()[1] == layer.weight.stride()[0] for layer in depthwise)  # type: ignore[union-attr]
    after = model(images)[-1]
    assert torch.allclose(after, before, atol=1e-5)
    assert torch.allclose(torch.autograd.grad(after.sum(), images)[0], gradient, atol=1e-4)


def test_afterwards_cudnn_is_what_it_was() -> None:
    before = torch.backends.cudnn.enabled
    with pytest.raises(KeyError), without_plans():
        assert not torch.backends.cudnn.enabled
        raise KeyError
    assert torch.backends.cudnn.enabled == before
