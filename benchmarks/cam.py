"""Score maps of ResNet-50 at scales 0.5 to 2 with mirrored copies, beside the usual loop over images and scales."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import cycle

import numpy as np
import torch
from torch import nn

from benchmarks.common import Row, compare, photographs, threads
from wsss.data.augmentation import normalise
from wsss.nets.folding import folded
from wsss.stages.cam import CamSettings, image_maps
from wsss.stages.inference import node_grid, node_size, resize
from wsss.stages.localize import Classifier

CLASSES, STRIDE = 20, 16
SCALES = (0.5, 1.0, 1.5, 2.0)
PHOTOGRAPHS = 2
CPU = torch.device("cpu")


def rows() -> Iterator[Row]:
    """Both number formats; each is compared with the peer's maps first."""
    pictures = photographs(PHOTOGRAPHS)
    model = classifier()
    with threads(1):
        yield row("cam-fp32", 1.2, "float32", pictures, model)
        if CamSettings().number_format(CPU) == torch.bfloat16:
            yield row("cam-bf16", 2.5, "bfloat16", pictures, model)


def row(key: str, aim: float, precision: str, pictures: list[np.ndarray], model: Classifier) -> Row:
    """The stream's way with one image beside the peer's."""
    settings = CamSettings(scales=SCALES, stride=STRIDE, precision=precision)
    network = folded(model, getattr(torch, precision))
    usual = copy.deepcopy(model)
    expected, found = by_scale(usual, pictures[0]), image_maps(network, pictures[:1], settings, CPU)[0]
    error = float((found - expected).norm() / expected.norm())
    assert error < (1e-4 if precision == "float32" else 0.05)
    turns, peer_turns = cycle(pictures), cycle(pictures)
    return compare(
        key,
        f"ResNet-50 at stride {STRIDE}, 4 scales, mirrored, {precision}, relative error {error:.0e}; eager, float32",
        aim,
        lambda: image_maps(network, [next(turns)], settings, CPU),
        lambda: by_scale(usual, next(peer_turns)),
        rounds=3,
    )


@torch.inference_mode()
def by_scale(model: Classifier, picture: np.ndarray) -> torch.Tensor:
    """The maps of an image scale by scale, with its mirrored copy in one batch: C x h x w (IRNet's released code)."""
    height, width = picture.shape[:2]
    image, grid = normalise(picture)[None].contiguous(), node_grid(height, width, STRIDE)
    total = torch.zeros(CLASSES, *grid)
    for scale in SCALES:
        scaled = resize(image, node_size(height, width, STRIDE, scale))
        plain, mirrored = resize(model.maps(torch.cat([scaled, scaled.flip(3)])), grid)
        total += (plain + mirrored.flip(2)) / 2
    return total / len(SCALES)


def classifier() -> Classifier:
    """ResNet-50 with random weights whose activations keep their scale, as trained ones do."""
    torch.manual_seed(0)
    model = Classifier(CLASSES, "resnet50", "none", STRIDE, 0.5)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.BatchNorm2d) and name.endswith("bn3"):
            nn.init.constant_(layer.weight, 0.3)
    return model.eval()
