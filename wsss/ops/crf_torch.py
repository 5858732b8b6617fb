"""Mean-field inference in plain torch: the reference, on any device, with sums in a fixed order."""

from __future__ import annotations

import numpy as np
import torch

from wsss.ops.crf import Kernels
from wsss.ops.lattice import build_lattice, grid_lattice, position_features, weighted_sums

FEW_LABELS = 8
"""Up to here torch's softmax over the last, short axis is slower than transposing twice."""


class TorchMeanField:
    """The CRF of one image: its two lattices side by side, so that one splat and one slice serve both."""

    @torch.no_grad()
    def __init__(self, image: np.ndarray, kernels: Kernels, device: str = "cpu") -> None:
        height, width = image.shape[:2]
        place = torch.device(device)
        colours = torch.from_numpy(np.array(image)).to(place).view(-1, 3).t().float()
        bilateral = torch.cat(
            (
                position_features(height, width, kernels.bilateral_sxy, place),
                colours / torch.full((), kernels.bilateral_srgb, device=place),
            )
        )
        grid = grid_lattice(height, width, kernels.gaussian_sxy, place)
        colour = build_lattice(bilateral).normalised()
        self._lattices = (grid, colour)
        self._points = torch.cat((grid.points, colour.points))
        self._splat = torch.cat((grid.splat, colour.splat))
        self._starts = torch.cat((grid.starts, colour.starts + len(grid.points)))
        self._vertices = torch.cat((grid.vertices.view(-1, 3), colour.vertices.view(-1, 6) + grid.size), 1).flatten()
        slices = (
            grid.weights.view(-1, 3) * kernels.gaussian_weight,
            colour.weights.view(-1, 6) * kernels.bilateral_weight,
        )
        self._slice = torch.cat(slices, 1).flatten()
        self._bags = grid.bags * 3
        self._place = place

    @torch.no_grad()
    def __call__(self, probabilities: np.ndarray, copies: np.ndarray, iterations: int) -> np.ndarray:
        """Marginals for probabilities in [1e-5, 1] (float32 K x H x W), label k standing for copies[k] equal ones."""
        times = torch.from_numpy(copies).to(self._place)
        scores = (torch.from_numpy(probabilities).to(self._place).flatten(1).t() * times).log_()
        marginals = _softmax(scores).div_(times)
        for _ in range(iterations):
            marginals = _softmax(self._messages(marginals).add_(scores)).div_(times)
        return marginals.t().reshape(probabilities.shape).cpu().numpy()

    def _messages(self, marginals: torch.Tensor) -> torch.Tensor:
        """sum_m w_m (K_m q) for the marginals q (N x K), K_m the normalised kernel with its diagonal."""
        splat = weighted_sums(marginals, self._points, self._starts, self._splat)
        parts = splat.split([lattice.size for lattice in self._lattices])
        blurred = torch.cat([lattice.blurred(part) for lattice, part in zip(self._lattices, parts, strict=True)])
        return weighted_sums(blurred, self._vertices, self._bags, self._slice)


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    """Softmax over the labels of N x K scores."""
    if scores.shape[1] <= FEW_LABELS:
        return scores.t().contiguous().softmax(0).t().contiguous()
    return scores.softmax(1)
