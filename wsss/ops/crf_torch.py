"""Mean-field inference in plain torch: the reference, on any device, with sums in a fixed order."""

from __future__ import annotations

import math

import numpy as np
import torch

from wsss.ops.lattice import build_lattice, grid_lattice, position_features
from wsss.ops.mean_field import SMALLEST_PROBABILITY, Kernels
from wsss.ops.memory import memory_limit

LABELS_AT_ONCE, SCORES_AT_ONCE = 8, 175_000
"""Labels that are filtered, and scores that are normalised, at a time, of one image on a CPU: to take less memory."""
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
        self._in_parts = place.type == "cpu" and count == 1

    def memory(self, labels: int) -> int:
        """About how many bytes inference over so many labels takes: marginals twice, and tables of vertices."""
        scores, vertices = self._near.count * labels, self._near.size + self._alike.size
        filtered = min(labels, LABELS_AT_ONCE) if self._in_parts else labels
        normalised = min(scores, SCORES_AT_ONCE) if self._in_parts else scores
        return 4 * (2 * scores + 3 * normalised + 3 * vertices * filtered)

    @torch.no_grad()
    def __call__(self, probabilities: np.ndarray, copies: np.ndarray, iterations: int) -> np.ndarray:
        """Marginals (float32 B x K x H x W); see `MeanField`."""
        images, labels = probabilities.shape[:2]
        times = torch.from_numpy(copies).to(self._place)
        writable = probabilities if probabilities.flags.writeable else probabilities.copy()
        priors = torch.from_numpy(writable).to(self._place).transpose(0, 1).reshape(labels, -1)
        points = priors.shape[1]

        groups = math.ceil(labels / LABELS_AT_ONCE) if self._in_parts else 1
        size = max(1, SCORES_AT_ONCE // labels) if self._in_parts else points
        blocks = [slice(at, at + size) for at in range(0, points, size)]
        result = torch.zeros(images * labels, points // images, device=self._place)
        marginals = [part.view(points, -1) for part in result.tensor_split(groups)]
        for step in range(iterations + 1):
            if step:
                for part in marginals:
                    self._pass_messages(part, blocks)
            for block in blocks:
                given = priors[:, block]
                powers = torch.empty_like(given, memory_format=torch.contiguous_format)
                for part, values in zip(marginals, powers.tensor_split(groups), strict=True):
                    torch.mul(part[block].t(), 1, out=values)  # a copy, but by all threads
                powers.sub_(powers.amax(0)).exp_().mul_(given.clamp(min=SMALLEST_PROBABILITY))
                powers.div_(times @ powers)
                for part, values in zip(marginals, powers.tensor_split(groups), strict=True):
                    torch.mul(values.t(), 1, out=part[block])
        for part in marginals:  # where it lay point by point, it lies label by label in the end
            by_label = part.view(images, -1, part.shape[1]).transpose(1, 2).contiguous()
            part.copy_(by_label.view_as(part))
        made = result.view(probabilities.shape)
        if made.is_cuda:  # into pages that torch keeps: fresh ones would take longer than all that was computed
            made = torch.empty(made.shape, pin_memory=True).copy_(made)
        return made.numpy()

    def _pass_messages(self, marginals: torch.Tensor, blocks: list[slice]) -> None:
        """Replace the marginals q (N x K) by sum_m w_m (K_m q), K_m the normalised kernel with its diagonal."""
        near = self._near.at_vertices(marginals).mul_(self._kernels.gaussian_weight)
        alike = self._alike.at_vertices(marginals).mul_(self._kernels.bilateral_weight)
        for block in blocks:
            marginals[block] = self._near.at_points(near, block).add_(self._alike.at_points(alike, block))
