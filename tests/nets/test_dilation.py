"""Taking strides out of a pretrained network: at the nodes it had before, it computes what it computed before."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from wsss.nets.backbones import build_backbone


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_on_every_32nd_pixel_the_features_are_those_of_the_published_network(name: str, output_stride: int) -> None:
    torch.manual_seed(0)
    published = getattr(torchvision.models, name)(weights=None).eval()
    backbone = build_backbone(name, "none", output_stride).eval()
    names = [key for key in published.state_dict() if not key.startswith(("fc.", "classifier."))]
    weights = dict(zip(backbone.state_dict(), (published.state_dict()[key] for key in names), strict=True))
    backbone.load_state_dict(weights)
    images = torch.randn(1, 3, 97, 97)
    parts = list(published.children())
    whole = parts[0] if name == "mobilenet_v2" else nn.Sequential(*parts[:-2])
    with torch.inference_mode():
        step = 32 // output_stride
        expected = whole(images)
        difference = backbone(images)[-1][:, :, ::step, ::step] - expected
    assert difference.abs().max() < 1e-4 * expected.abs().max()
