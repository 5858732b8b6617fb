"""Mean-field inference in plain torch: the reference, on any device, with sums in a fixed order."""

from __future__ import annotations

import math

import numpy as np
import torch

from wsss.ops.lattice import build_lattice, grid_lattice, position_features
from wsss.ops.mean_field import SMALLEST_PROBABILITY, Kernels
from wsss.ops.memory import memory_limit

FEW_LABELS = 15
"""Up to here torch's softmax over the last, short axis is slower than its steps one by one."""
LABELS_AT_ONCE, SCORES_AT_ONCE = 8, 700_000
"""Labels that are filtered, and scores that are normalised, at a time on a CPU: more would take more memory."""
BYTES_OF_PIXEL, BYTES_OF_VERTEX = 270, 90
"""What the lattices take while they are built, about."""


class TorchMeanField:
    """The CRF of images of one size (uint8 B x H x W x 3), all at once."""

    @torch.no_grad()
    def __init__(self, images: np.ndarray, kernels: Kernels, device: str = "cpu") -> None:
        count, height, width = images.shape[:3]
        needed = BYTES_OF_PIXEL * count * height * width
        what, limit = f"the CRF of {height} x {width} pixels", memory_limit(device)
        limit.check(needed, what)
        place = torch.device(device)
        colours = torch.from_numpy(np.array(images)).to(place).view(-1, 3).t().float()
        positions = position_features(height, width, kernels.bilateral_sxy, place).repeat(1, count)
        bilateral = torch.cat((positions, colours / torch.full((), kernels.bilateral_srgb, device=place)))
        del colours, positions
        self._near = grid_lattice(height, width, kernels.gaussian_sxy, place, count)
        try:
            self._alike = build_lattice(bilateral, count, (limit.size - needed) // BYTES_OF_VERTEX).normalise_()
        except MemoryError:
            raise limit.refusal(f"{what} needs more memory for its lattice") from None
        self._kernels = kernels
        self._place = place

    def memory(self, labels: int) -> int:
        """About how many bytes inference over so many labels takes: scores and marginals, and tables of vertices."""
        scores, vertices = self._near.count * labels, self._near.size + self._alike.size
        on_cpu = self._place.type == "cpu"
        filtered = min(labels, LABELS_AT_ONCE) if on_cpu else labels
        normalised = min(scores, SCORES_AT_ONCE) if on_cpu else scores
        return 4 * (2 * scores + 3 * normalised + 3 * vertices * filtered)

    @torch.no_grad()
    def __call__(self, probabilities: np.ndarray, copies: np.ndarray, iterations: int) -> np.ndarray:
        """Marginals (float32 B x K x H x W); see `MeanField`."""
        images, labels = probabilities.shape[:2]
        times = torch.from_numpy(copies).to(self._place)
        writable = probabilities if probabilities.flags.writeable else probabilities.copy()
        given = torch.from_numpy(writable).to(self._place).flatten(2).transpose(1, 2)
        scores = torch.empty(given.shape, device=self._place)
        scores.copy_(given).clamp_(min=SMALLEST_PROBABILITY).mul_(times).log_()
        scores = scores.view(-1, labels)

        on_cpu = self._place.type == "cpu"
        groups = math.ceil(labels / LABELS_AT_ONCE) if on_cpu else 1
        size = max(1, SCORES_AT_ONCE // labels) if on_cpu else len(scores)
        blocks = [slice(at, at + size) for at in range(0, len(scores), size)]
        marginals = [torch.zeros(part.shape, device=self._place) for part in scores.tensor_split(groups, 1)]
        for step in range(iterations + 1):
            if step:
                for part in marginals:
                    self._pass_messages(part, blocks)
            for block in blocks:
                messages = torch.cat([part[block] for part in marginals], 1)
                normal = _softmax(messages.add_(scores[block])).div_(times)
                for part, values in zip(marginals, normal.tensor_split(groups, 1), strict=True):
                    part[block] = values
        del scores
        result = torch.empty(probabilities.shape, device=self._place).flatten(2)
        for part, place in zip(marginals, result.tensor_split(groups, 1), strict=True):
            place.copy_(part.view(images, -1, part.shape[1]).transpose(1, 2))
        return result.view(probabilities.shape).cpu().numpy()

    def _pass_messages(self, marginals: torch.Tensor, blocks: list[slice]) -> None:
        """Replace the marginals q (N x K) by sum_m w_m (K_m q), K_m the normalised kernel with its diagonal."""
        near = self._near.at_vertices(marginals).mul_(self._kernels.gaussian_weight)
        alike = self._alike.at_vertices(marginals).mul_(self._kernels.bilateral_weight)
        for block in blocks:
            marginals[block] = self._near.at_points(near, block).add_(self._alike.at_points(alike, block))


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    """Softmax over the labels of N x K scores."""
    if scores.shape[1] <= FEW_LABELS:
        powers = (scores - scores.amax(1, keepdim=True)).exp_()
        return powers.div_(powers.sum(1, keepdim=True))
    return scores.softmax(1)
