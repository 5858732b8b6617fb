"""Superpixels, and averages of a feature grid over them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from skimage.segmentation import slic
from torch import Tensor

from wsss.ops import tiles

MOST_COMPACT = 1000.0
"""At such a compactness superpixels are all but squares."""


def superpixels(image: np.ndarray, count: int, compactness: float) -> np.ndarray:
    """SLIC superpixels (Achanta et al., TPAMI 2012), each connected.

    A large picture is shrunk by a whole factor until it is none: its superpixels are found in that, and their borders
    are as exact as the factor. What it shows may be smaller than a superpixel; these then fall into pieces, small
    pieces go to their neighbours, and few are left. The compactness is raised there until at least half of `count` is.

    Args:
        image: uint8 H x W x 3.
        count: about how many; small images and images of one colour may have fewer, down to one.
        compactness: weight of the distance in px against the distance in colour (CIELAB).

    Returns:
        uint16 H x W, numbered from 0 without a gap.

    Raises:
        ValueError: more superpixels than 16 bits can number.
    """
    height, width = image.shape[:2]
    if tiles.is_large(height, width):
        factor = 2
        while tiles.is_large(-(-height // factor), -(-width // factor)):
            factor += 1
        small = np.array(Image.fromarray(image).reduce(factor))
        coarse = superpixels(small, count, compactness)
        while coarse.max() + 1 < count / 2 and compactness < MOST_COMPACT:
            compactness *= 3
            coarse = superpixels(small, count, compactness)
        return coarse.repeat(factor, 0)[:height].repeat(factor, 1)[:, :width]
    found = slic(image.astype(np.float32) / 255, count, compactness, start_label=0)
    used = np.bincount(found.ravel()) > 0
    if used.sum() > np.iinfo(np.uint16).max:
        raise ValueError(f"{used.sum()} superpixels are more than can be numbered; ask for fewer than {count}")
    return (np.cumsum(used) - 1)[found].astype(np.uint16)


def region_weights(regions: np.ndarray, count: int, grid: tuple[int, int]) -> np.ndarray:
    """The share of each cell of a grid in the mean over each region of the maps resized to the image.

    A map is resized from corner to corner, bilinearly; the mean of the result over a region's pixels is then a linear
    function of the cells, and its coefficients are summed up here, four for a pixel.

    Args:
        regions: int H x W, the region of each pixel; -1 is none.
        count: R, larger than any region's number.
        grid: h x w of the maps.

    Returns:
        float32 R x (h w); a row sums to one, to zero for a region without a pixel.
    """
    (top, down), (left, right) = (_neighbours(n, cells) for n, cells in zip(regions.shape, grid, strict=True))
    inside = regions >= 0
    row = regions[inside].astype(np.int64) * (grid[0] * grid[1])
    shares = np.zeros(count * grid[0] * grid[1])
    for y, dy in ((top, 1 - down), (np.minimum(top + 1, grid[0] - 1), down)):
        for x, dx in ((left, 1 - right), (np.minimum(left + 1, grid[1] - 1), right)):
            cell = (y[:, None] * grid[1] + x[None])[inside]
            share = (dy[:, None] * dx[None])[inside]
            shares += np.bincount(row + cell, share, len(shares))
    rows = shares.reshape(count, -1)
    return (rows / np.maximum(rows.sum(1, keepdims=True), 1e-12)).astype(np.float32)


def _neighbours(pixels: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel of a line, the cell before it and how far it is on the way to the next one."""
    position = np.arange(pixels) * ((cells - 1) / max(pixels - 1, 1))
    before = np.floor(position).astype(np.int64)
    return before, position - before


def region_means(maps: np.ndarray, regions: np.ndarray, count: int) -> np.ndarray:
    """The mean over each region of maps resized to the image, tile by tile: what `region_weights` give, without them.

    Args:
        maps: float K x h x w.
        regions: int H x W in 0..R - 1.
        count: R.

    Returns:
        float32 R x K; 0 for a region without a pixel.
    """
    sums, areas = np.zeros((len(maps), count)), np.bincount(regions.ravel(), minlength=count)
    size = (regions.shape[0], regions.shape[1])
    for window in tiles.windows(*size, overlap=0):
        numbers = regions[window.kept].ravel()
        part = tiles.part_at_size(maps, size, *window.kept)
        for total, values in zip(sums, part, strict=True):
            total += np.bincount(numbers, values.ravel(), count)
    return (sums / np.maximum(areas, 1)).T.astype(np.float32)


def masked_average(features: Tensor, weights: Tensor) -> Tensor:
    """The mean feature of each region: ... x R x D of ... x D x h x w maps and ... x R x (h w) weights."""
    return torch.matmul(weights, features.flatten(-2).transpose(-1, -2))


def region_votes(labels: np.ndarray, regions: np.ndarray, count: int, share: float) -> np.ndarray:
    """The label that holds at least a share of each region's area.

    Args:
        labels: uint8 H x W, 255 is none.
        regions: int H x W in 0..R - 1.
        count: R.
        share: in (0, 1].

    Returns:
        uint8 R; 255 where no label holds so much.
    """
    votes = np.bincount(regions.ravel().astype(np.int64) * 256 + labels.ravel(), minlength=count * 256)
    votes = votes.reshape(count, 256)
    winner = votes[:, :255].argmax(1)
    area = votes.sum(1)
    held = votes[np.arange(count), winner]
    return np.where((held > 0) & (held >= share * area), winner, 255).astype(np.uint8)
