"""What the tests on a GPU share: both devices, exact float32, pictures, networks, and the error between two results."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Whole float32 in convolutions and products, which else have 10 bits of mantissa on newer GPUs."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def error(found: Tensor, expected: Tensor) -> float:
    """The relative error in the Euclidean norm."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    assert found.shape == expected.shape and torch.isfinite(found).all()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


def pictures(count: int, height: int, width: int) -> np.ndarray:
    """Blocks of colour with some noise, uint8 B x H x W x 3."""
    draw = np.random.default_rng(0)
    blocks = draw.integers(0, 256, (count, -(-height // 8), -(-width // 8), 3)).repeat(8, 1).repeat(8, 2)
    noise = draw.integers(-20, 21, (count, height, width, 3))
    return (blocks[:, :height, :width] + noise).clip(0, 255).astype(np.uint8)


def sensible(model: nn.Module) -> nn.Module:
    """A network in eval mode whose batch norm is no identity."""
    torch.manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model.eval()
