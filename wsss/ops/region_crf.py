"""A dense CRF whose nodes are regions: near regions of alike colour take each other's labels, within milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsss.ops.tiles import windows


@dataclass(frozen=True)
class RegionStatistics:
    """What is known of the R regions of an image.

    Attributes:
        position: float R x 2, mean row and column in px.
        colour: float R x 3, mean RGB in 0 to 255.
        area: float R, in px.
    """

    position: np.ndarray
    colour: np.ndarray
    area: np.ndarray


def region_statistics(image: np.ndarray, regions: np.ndarray, count: int) -> RegionStatistics:
    """The statistics of the regions (int H x W in 0..count - 1, each with a pixel) of an image uint8 H x W x 3."""
    # Sums of whole numbers are exact, whatever the parts that they are summed in.
    sums, area = np.zeros((5, count)), np.zeros(count)
    for window in windows(regions.shape[0], regions.shape[1], overlap=0):
        rows, columns = window.kept
        numbers = regions[window.kept].ravel()
        area += np.bincount(numbers, minlength=count)
        lines = np.mgrid[rows, columns]
        for total, values in zip(sums, (*lines, *np.moveaxis(image[window.kept], 2, 0)), strict=True):
            total += np.bincount(numbers, values.ravel(), count)
    position, colour = (sums[:2] / area).T, (sums[2:] / area).T
    return RegionStatistics(position, colour, area)


def region_kernel(statistics: RegionStatistics, sxy: float, srgb: float) -> np.ndarray:
    """How much region j says to region i, float R x R.

    The appearance kernel of Kraehenbuehl and Koltun (NeurIPS 2011, eq. 3) between the regions' means, times the area of
    j, 0 on the diagonal, normalised symmetrically by its row and column sums.
    """
    near = _squared_distances(statistics.position) / (2 * sxy**2)
    alike = _squared_distances(statistics.colour) / (2 * srgb**2)
    kernel = np.exp(-near - alike) * statistics.area
    np.fill_diagonal(kernel, 0)
    norm = kernel.sum(1)[:, None] * kernel.sum(0)[None]
    return kernel / np.sqrt(np.maximum(norm, 1e-12))


def region_mean_field(
    probabilities: np.ndarray, kernel: np.ndarray, weight: float, *, iterations: int = 10, floor: float = 1e-5
) -> np.ndarray:
    """Mean-field marginals with a Potts model: q_i <- softmax(log p_i + weight * sum_j k_ij q_j).

    Args:
        probabilities: float K x R, sums to one over K.
        kernel: float R x R.
        weight: of the kernel; 0 gives the probabilities back.
        iterations: how often all regions are updated at once.
        floor: the least probability, so that none is impossible.

    Returns:
        float64 K x R.
    """
    unary = np.log(np.maximum(probabilities.astype(np.float64), floor))
    marginals = _softmax(unary)
    for _ in range(iterations):
        marginals = _softmax(unary + weight * (marginals @ kernel.T))
    return marginals


def _softmax(scores: np.ndarray) -> np.ndarray:
    raised = np.exp(scores - scores.max(0))
    return raised / raised.sum(0)


def _squared_distances(points: np.ndarray) -> np.ndarray:
    return np.square(points[:, None] - points[None]).sum(2)
