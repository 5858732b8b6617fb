"""Multi-scale inference with mirrored copies on the node grid, images of one size in one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.data import Dataset
from wsss.data.augmentation import normalise

PIXELS = {"cpu": 1 << 16, "cuda": 1 << 22}
"""Pixels in a batch: on a CPU, few enough for its caches."""


def node_grid(height: int, width: int, stride: int) -> tuple[int, int]:
    """The cells of a map over an image: one on every `stride`-th pixel, both borders included."""
    return round(height / stride) + 1, round(width / stride) + 1


def node_size(height: int, width: int, stride: int, scale: float = 1.0) -> tuple[int, int]:
    """The nearest size s * k + 1 in px to a scaled image, whose maps have cells exactly on pixels 0, s, 2s, ..."""
    rows, columns = node_grid(round(height * scale), round(width * scale), stride)
    return max(rows - 1, 1) * stride + 1, max(columns - 1, 1) * stride + 1


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resizing of B x K x h x w maps from corner to corner."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)


def batches_by_size(
    dataset: Dataset, ids: Sequence[str], device: torch.device
) -> Iterator[tuple[list[str], list[np.ndarray]]]:
    """The images in batches of one size: as many as a GPU likes at once, few enough for a CPU's caches.

    Returns:
        Batches of ids and their uint8 H x W x 3 images; within a size in the order of `ids`.
    """
    sizes: dict[tuple[int, int], list[str]] = {}
    for image_id in ids:
        sizes.setdefault(dataset.size(image_id), []).append(image_id)
    for (height, width), members in sizes.items():
        step = max(1, PIXELS[device.type] // (height * width))
        for start in range(0, len(members), step):
            chunk = members[start : start + step]
            yield chunk, [dataset.image(i) for i in chunk]


@torch.inference_mode()
def multi_scale(
    maps: Callable[[Tensor], Tensor],
    images: Sequence[np.ndarray],
    *,
    scales: Sequence[float],
    flip: bool,
    stride: int,
    grid: tuple[int, int],
    device: torch.device,
) -> Tensor:
    """The mean over scales and mirrored copies of a network's maps.

    Args:
        maps: from float B x 3 x H x W normalised images to B x K x h x w maps; mirroring is undone here.
        images: uint8 H x W x 3, all of one size.
        scales: factors on the image size.
        flip: add the mirrored images.
        stride: the network's output stride.
        grid: h x w of the result.
        device: where the network is.

    Returns:
        float32 B x K x h x w on the device.
    """
    batch = torch.stack([normalise(image) for image in images]).to(device, memory_format=torch.channels_last)
    height, width = images[0].shape[:2]
    total: Tensor | None = None
    for scale in scales:
        scaled = resize(batch, node_size(height, width, stride, scale))
        if flip:
            scaled = torch.cat([scaled, scaled.flip(3)])
        out = resize(maps(scaled).float(), grid)
        if flip:
            plain, mirrored = out.chunk(2)
            out = (plain + mirrored.flip(3)) / 2
        total = out if total is None else total + out
    assert total is not None
    return total / len(scales)
