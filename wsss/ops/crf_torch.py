"""Mean-field inference in plain torch: the reference, on any device, with sums in a fixed order."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from wsss.ops.crf import Kernels
from wsss.ops.lattice import Lattice, build_lattice, grid_lattice, position_features, slice_factor

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
        self._lattices = (grid_lattice(height, width, kernels.gaussian_sxy, place), build_lattice(bilateral))
        weights = (kernels.gaussian_weight, kernels.bilateral_weight)
        self._points = torch.cat([each.points for each in self._lattices])
        splats, slices, starts, vertices = [], [], [], []
        below = entries = 0
        for lattice, weight in zip(self._lattices, weights, strict=True):
            norm = _symmetric_norm(lattice)
            splats.append((lattice.weights * norm).flatten()[lattice.entries])
            slices.append(lattice.weights * norm * (weight * slice_factor(lattice)))
            starts.append(lattice.starts + entries)
            vertices.append(lattice.vertices + below)
            below += lattice.size
            entries += lattice.points.numel()
        self._splat, self._slice = torch.cat(splats), torch.cat(slices, 1)
        self._starts, self._vertices = torch.cat(starts), torch.cat(vertices, 1)
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
        splat = embedding_bag(self._points, marginals, self._starts, mode="sum", per_sample_weights=self._splat)
        parts = splat.split([lattice.size for lattice in self._lattices])
        blurred = torch.cat([lattice.blurred(part) for lattice, part in zip(self._lattices, parts, strict=True)])
        return embedding_bag(self._vertices, blurred, mode="sum", per_sample_weights=self._slice)


def _symmetric_norm(lattice: Lattice) -> torch.Tensor:
    """(K 1)^(-1/2) for every point, N x 1."""
    ones = torch.ones(len(lattice.weights), 1, device=lattice.weights.device)
    return (lattice.filtered(ones) + 1e-20).rsqrt()


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    """Softmax over the labels of N x K scores."""
    if scores.shape[1] <= FEW_LABELS:
        return scores.t().contiguous().softmax(0).t().contiguous()
    return scores.softmax(1)
